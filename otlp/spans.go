// Package otlp sends stops as OpenTelemetry traces: one trace for each stop, made from
// the journal that gracerun and gracemon leave behind.
//
// The numbers of a trace and of its spans follow from the container and the instant of
// the request, so that a stop that is sent twice is one trace.
package otlp

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.39.0"
	"go.opentelemetry.io/otel/trace"

	"gracerun.io/internal/version"
	"gracerun.io/signals"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

// Names of spans.
const (
	StopSpan  = "stop"  // from the request to init's end, or to where its window lapsed
	GraceSpan = "grace" // from when the stop signal was heard
	ExitSpan  = "exit"  // from init's end until the exit is recorded, log and all
)

// Attributes that OpenTelemetry's semantic conventions have no name for.
const (
	StopRequest = attribute.Key("gracerun.stop.request")      // "signal SIGTERM", "stop grace=10s"
	StopOutcome = attribute.Key("gracerun.stop.outcome")      // as in gracerun_stops_total
	GraceLength = attribute.Key("gracerun.stop.grace")        // s
	GraceUsed   = attribute.Key("gracerun.stop.grace.used")   // share of it, 1 is all
	GraceMargin = attribute.Key("gracerun.stop.margin")       // s between init's end and the deadline
	Policy      = attribute.Key("gracerun.policy")            //
	ExitSignal  = attribute.Key("gracerun.exit.signal")       // of an init that was killed
	Signal      = attribute.Key("gracerun.signal")            //
	Request     = attribute.Key("gracerun.request")           // its number in the journal
	Outcome     = attribute.Key("gracerun.outcome")           // the reply: "delivered", "joined", ...
	Breach      = attribute.Key("gracerun.breach")            // "early-kill", ...
	GraceLeft   = attribute.Key("gracerun.grace.left")        // s
	CallerPath  = attribute.Key("gracerun.caller.executable") //
	CallerPid   = attribute.Key("gracerun.caller.pid")        //
	CallerUser  = attribute.Key("gracerun.caller.user.id")    //
	CallerUnit  = attribute.Key("gracerun.caller.unit")       // of systemd
)

// Span is a span that is ready to be sent, with the resource that it is of.
type Span = sdk.ReadOnlySpan

// Spans gives the stops of a container that are over, of those that were asked for at
// that time or later, and how many go on.
func Spans(c *history.Container, j *journal.Journal, since time.Time) (spans []Span, open int) {
	var made ended
	ids := &numbers{}
	provider := sdk.NewTracerProvider(sdk.WithResource(resourceOf(c)), sdk.WithIDGenerator(ids), sdk.WithSampler(sdk.AlwaysSample()),
		sdk.WithSpanProcessor(&made), sdk.WithRawSpanLimits(sdk.SpanLimits{
			AttributeValueLengthLimit: -1, AttributeCountLimit: -1, EventCountLimit: -1, LinkCountLimit: -1, AttributePerEventCountLimit: -1, AttributePerLinkCountLimit: -1,
		}))
	tracer := provider.Tracer("gracerun.io/otlp", trace.WithInstrumentationVersion(version.Version), trace.WithSchemaURL(semconv.SchemaURL))
	first := c.Wall(j, 0) // asked once: the distances between instants are the journal's
	s := story{journal: j, policy: j.Config.Policy.String(), wall: func(at lifecycle.Instant) time.Time { return first.Add(time.Duration(at)) }}
	stops := history.Stops(j)
	for i := range stops {
		switch stop := &stops[i]; {
		case s.wall(stop.Asked).Before(since):
		case stop.Ended == 0 && !stop.Lapsed:
			open++
		default:
			ids.begin(c, stop)
			s.tell(tracer, stop)
		}
	}
	return made, open
}

// ended keeps the spans that have ended.
type ended []Span

func (e *ended) OnStart(context.Context, sdk.ReadWriteSpan) {}
func (e *ended) OnEnd(s Span)                               { *e = append(*e, s) }
func (e *ended) Shutdown(context.Context) error             { return nil }
func (e *ended) ForceFlush(context.Context) error           { return nil }

// numbers makes the ids of one trace after the other.
type numbers struct {
	seed  [sha256.Size]byte
	spans uint64
}

// begin begins the trace of a stop. The time of the container's creation is in it,
// since instants count from boot.
func (n *numbers) begin(c *history.Container, s *history.Stop) {
	created := ""
	if c.Record != nil {
		created = c.Record.Created
	}
	n.seed = sha256.Sum256([]byte(strings.Join([]string{c.ID, created, strconv.FormatInt(int64(s.Asked), 10), s.Request}, "\x00")))
	n.spans = 0
}

// NewIDs is called for the first span of a trace.
func (n *numbers) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id := trace.TraceID(n.seed[:16])
	return id, n.NewSpanID(ctx, id)
}

func (n *numbers) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	n.spans++
	binary.BigEndian.PutUint64(id[:], binary.BigEndian.Uint64(n.seed[16:])+n.spans)
	return id
}

// story tells of the stops of one journal.
type story struct {
	journal *journal.Journal
	policy  string
	wall    func(lifecycle.Instant) time.Time
}

func (s *story) tell(tracer trace.Tracer, stop *history.Stop) {
	end, outcome := stop.Ended, stop.Reason
	switch {
	case stop.Lapsed:
		end, outcome = stop.Deadline, "lapsed"
	case outcome == "":
		outcome = "unknown"
	}
	attributes := []attribute.KeyValue{
		StopRequest.String(stop.Wish()), StopOutcome.String(outcome), Policy.String(s.policy),
	}
	attributes = append(attributes, caller(history.By(stop.Request))...)
	if stop.Grace() > 0 {
		attributes = append(attributes, GraceLength.Float64(seconds(stop.Grace())))
	}
	if share, ok := stop.Used(); ok {
		attributes = append(attributes, GraceUsed.Float64(share))
	}
	if left, ok := stop.Margin(); ok {
		attributes = append(attributes, GraceMargin.Float64(seconds(left)))
	}
	attributes = append(attributes, status(stop.Status)...)
	ctx, root := tracer.Start(context.Background(), StopSpan, trace.WithTimestamp(s.wall(stop.Asked)), trace.WithAttributes(attributes...))
	s.events(root, stop.Asked, end)
	if stop.Heard != 0 {
		_, grace := tracer.Start(ctx, GraceSpan, trace.WithTimestamp(s.wall(stop.Heard)), trace.WithAttributes(GraceLength.Float64(seconds(stop.Grace()))))
		grace.End(trace.WithTimestamp(s.wall(end)))
	}
	if at := s.recorded(stop); at != 0 {
		_, exit := tracer.Start(ctx, ExitSpan, trace.WithTimestamp(s.wall(stop.Ended)), trace.WithAttributes(status(stop.Status)...))
		exit.End(trace.WithTimestamp(s.wall(at)))
	}
	switch {
	case len(stop.Breaches) > 0:
		root.SetStatus(codes.Error, "its grace period was broken: "+stop.Breaches[0].What+" by "+stop.Breaches[0].Caller())
	case outcome == lifecycle.AtDeadline.String():
		root.SetStatus(codes.Error, "it did not end within its grace period, and was killed")
	case outcome == lifecycle.ByOpener.String():
		root.SetStatus(codes.Error, "who asked for the stop has ended its grace period by SIGKILL")
	case outcome == lifecycle.ByOOM.String():
		root.SetStatus(codes.Error, "the OOM killer ended it")
	}
	root.End(trace.WithTimestamp(s.wall(end)))
}

func seconds(d lifecycle.Duration) float64 { return float64(d) / float64(lifecycle.Second) }

// status gives the attributes of an exit status as the journal writes it.
func status(text string) []attribute.KeyValue {
	if code, ok := strings.CutPrefix(text, "code="); ok {
		if n, err := strconv.Atoi(code); err == nil {
			return []attribute.KeyValue{semconv.ProcessExitCode(n)}
		}
	}
	if signal, ok := strings.CutPrefix(text, "signal="); ok {
		attributes := []attribute.KeyValue{ExitSignal.String(signal)}
		if n, err := signals.Parse(signal); err == nil {
			attributes = append(attributes, semconv.ProcessExitCode(128+int(n)))
		}
		return attributes
	}
	return nil
}

// caller gives the attributes of who made a request.
func caller(c *lifecycle.Caller) []attribute.KeyValue {
	if c == nil {
		return nil
	}
	attributes := []attribute.KeyValue{CallerPath.String(c.Program), CallerPid.Int(c.Pid), CallerUser.Int64(int64(c.UID))}
	if c.Unit != "" {
		attributes = append(attributes, CallerUnit.String(c.Unit))
	}
	return attributes
}

// recorded is when the exit of that stop was recorded, 0 if it was not.
func (s *story) recorded(stop *history.Stop) lifecycle.Instant {
	for i := range s.journal.Records {
		r := &s.journal.Records[i]
		if stop.Ended != 0 && r.At >= stop.Ended && r.Event == lifecycle.ExitRecorded.String()+" ok" {
			return r.At
		}
	}
	return 0
}

// events adds what was asked for and done between two instants.
func (s *story) events(span trace.Span, from, to lifecycle.Instant) {
	for i := range s.journal.Records {
		r := &s.journal.Records[i]
		if r.At < from || r.At > to {
			continue
		}
		when := trace.WithTimestamp(s.wall(r.At))
		kind, rest, _ := strings.Cut(r.Event, " ")
		switch kind {
		case lifecycle.SignalRequest.String(), lifecycle.StopRequest.String(), lifecycle.StartRequest.String():
			attributes := append(words(rest), Policy.String(s.policy))
			if number := first(rest); strings.HasPrefix(number, "#") {
				if outcome := s.reply(i, number); outcome != "" {
					attributes = append(attributes, Outcome.String(outcome))
				}
			}
			span.AddEvent("request: "+kind, when, trace.WithAttributes(append(attributes, caller(history.By(r.Event))...)...))
		case lifecycle.MonitorSignal.String():
			span.AddEvent("request: signal to the supervisor", when, trace.WithAttributes(append(words(rest), Policy.String(s.policy))...))
		case lifecycle.Recovered.String(), lifecycle.OOM.String(), lifecycle.Deadline.String(), lifecycle.Freezer.String():
			span.AddEvent(r.Event, when)
		case lifecycle.Delivered.String():
			if _, failed, ok := strings.Cut(rest, " errno="); ok {
				span.AddEvent("not delivered", when, trace.WithAttributes(append(words(rest), semconv.ErrorTypeKey.String("errno "+failed))...))
			} else {
				span.AddEvent("delivered", when, trace.WithAttributes(words(rest)...))
			}
		}
		for _, effect := range r.Effects {
			kind, rest, _ := strings.Cut(effect, " ")
			switch kind {
			case lifecycle.Deliver.String():
				span.AddEvent("deliver", when, trace.WithAttributes(words(rest)...))
			case lifecycle.RecordBreach.String():
				span.AddEvent("breach", when, trace.WithAttributes(append(append(words(rest), Policy.String(s.policy)), caller(history.By(effect))...)...))
			}
		}
	}
}

func first(text string) string {
	word, _, _ := strings.Cut(text, " ")
	return word
}

// words gives the attributes that the words of an event or effect are.
func words(text string) (attributes []attribute.KeyValue) {
	for word := range strings.FieldsSeq(text) {
		left, isLeft := strings.CutPrefix(word, "in=")
		switch {
		case strings.HasPrefix(word, "#"):
			attributes = append(attributes, Request.String(word))
		case strings.HasPrefix(word, "SIG"):
			attributes = append(attributes, Signal.String(word))
		case word == lifecycle.EarlyKill.String(), word == lifecycle.RepeatedStop.String(), word == lifecycle.StartAfterStop.String():
			attributes = append(attributes, Breach.String(word))
		case isLeft:
			if d, err := lifecycle.ParseDuration(left); err == nil {
				attributes = append(attributes, GraceLeft.Float64(seconds(max(d, 0))))
			}
		}
	}
	return attributes
}

// reply is the outcome that the request with that number was told, which may have
// been later; "" if none is in the journal.
func (s *story) reply(from int, number string) string {
	for _, r := range s.journal.Records[from:] {
		for _, effect := range r.Effects {
			if rest, ok := strings.CutPrefix(effect, lifecycle.Reply.String()+" "+number+" "); ok {
				return first(rest)
			}
		}
	}
	return ""
}

// Annotations in which managers write what OpenTelemetry has a name for.
var annotations = []struct {
	name func(string) attribute.KeyValue
	keys []string
}{
	{semconv.K8SPodUID, []string{"io.kubernetes.pod.uid", "io.kubernetes.cri.sandbox-uid"}},
	{semconv.ContainerImageName, []string{"io.kubernetes.cri-o.ImageName", "io.kubernetes.cri.image-name"}},
}

// resourceOf describes the container and this node.
func resourceOf(c *history.Container) *resource.Resource {
	attributes := []attribute.KeyValue{
		semconv.ServiceName("gracerun"), semconv.ServiceVersion(version.Version), semconv.ContainerID(c.ID),
	}
	if host, err := os.Hostname(); err == nil {
		attributes = append(attributes, semconv.HostName(host))
	}
	if names := c.Called(); names != nil {
		attributes = append(attributes, semconv.ContainerName(names[0]))
	}
	pod := c.Pod()
	for _, known := range []struct {
		name  func(string) attribute.KeyValue
		value string
	}{{semconv.K8SNamespaceName, pod.Namespace}, {semconv.K8SPodName, pod.Name}, {semconv.K8SContainerName, pod.Container}} {
		if known.value != "" {
			attributes = append(attributes, known.name(known.value))
		}
	}
	if r := c.Record; r != nil {
		attributes = append(attributes, semconv.ContainerRuntimeName(path.Base(r.Runtime)))
		for _, a := range annotations {
			for _, key := range a.keys {
				if value, ok := r.Annotations.Get(key); ok && value != "" {
					attributes = append(attributes, a.name(value))
					break
				}
			}
		}
		if text, ok := r.Annotations.Get("io.kubernetes.container.restartCount"); ok {
			if n, err := strconv.Atoi(text); err == nil {
				attributes = append(attributes, semconv.K8SContainerRestartCount(n))
			}
		}
	}
	return resource.NewWithAttributes(semconv.SchemaURL, attributes...)
}
