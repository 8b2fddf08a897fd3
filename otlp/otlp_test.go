package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/hostclock"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

const second = lifecycle.Instant(lifecycle.Second)

// stage makes a container of a pod, under observe, that CRI-O stops 20 s ago with a
// grace of 10 s, and that somebody kills 3 s after that.
func stage(t *testing.T) (base string, began lifecycle.Instant, step func(after lifecycle.Instant, ev lifecycle.Event), retire func()) {
	t.Helper()
	base = filepath.Join(t.TempDir(), "base")
	t.Setenv("GRACERUN_STATE_DIR", base)
	dir, err := statedir.Create("", "c0ffee0123456789")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	config := lifecycle.DefaultConfig()
	config.Grace, config.Policy = 10*lifecycle.Second, lifecycle.Observe
	w, err := journal.Create(dir.FD(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	record := &statedir.Record{
		ID: "c0ffee0123456789", Bundle: "/b", Runtime: "/usr/bin/crun", StopSignal: signals.TERM, Policy: "observe", Created: "2026-01-02T03:04:05Z",
		Annotations: runtime.Annotations{
			{Key: "io.kubernetes.container.name", Value: "postgres"}, {Key: "io.kubernetes.pod.name", Value: "db-0"},
			{Key: "io.kubernetes.pod.namespace", Value: "prod"}, {Key: "io.kubernetes.pod.uid", Value: "u-1"},
			{Key: "io.kubernetes.container.restartCount", Value: "3"}, {Key: "io.kubernetes.cri-o.ImageName", Value: "docker.io/library/postgres:17"},
		},
	}
	if err := errors.Join(dir.WriteRecord(record), dir.WriteFile(history.NameFile, []byte("k8s_postgres_db-0\n"))); err != nil {
		t.Fatal(err)
	}
	machine := lifecycle.New(config)
	began = hostclock.Now() - 20*second
	step = func(after lifecycle.Instant, ev lifecycle.Event) {
		t.Helper()
		if _, err := w.Step(machine, began+after, ev); err != nil {
			t.Fatal(err)
		}
	}
	crio := lifecycle.NewCaller("/usr/bin/crio", 812, 4711, 0, "crio.service")
	bash := lifecycle.NewCaller("/bin/bash", 900, 5000, 1000, "session-1.scope")
	const request = lifecycle.FirstRequest
	step(-second, lifecycle.Event{Kind: lifecycle.CreateDone})
	step(-second, lifecycle.Event{Kind: lifecycle.StartDone})
	step(0, lifecycle.Event{Kind: lifecycle.SignalRequest, Request: request, Signal: signals.TERM, By: crio})
	step(second/2, lifecycle.Event{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM})
	step(3*second, lifecycle.Event{Kind: lifecycle.SignalRequest, Request: request + 1, Signal: signals.KILL, By: bash})
	step(3*second, lifecycle.Event{Kind: lifecycle.Delivered, Request: request + 1, Signal: signals.KILL})
	retire = func() {
		t.Helper()
		if warning, err := history.Retire(dir, history.Limits{Containers: 9, Bytes: 1 << 20}); errors.Join(warning, err) != nil {
			t.Fatal(warning, err)
		}
	}
	return base, began, step, retire
}

// end ends the container.
func end(step func(lifecycle.Instant, lifecycle.Event)) {
	step(3*second, lifecycle.Event{Kind: lifecycle.InitExited, Status: lifecycle.Signaled(signals.KILL)})
	step(3*second, lifecycle.Event{Kind: lifecycle.CgroupEmpty})
	step(4*second, lifecycle.Event{Kind: lifecycle.StreamsDrained})
	step(4*second, lifecycle.Event{Kind: lifecycle.ExitRecorded})
}

// spansOf reads what there is, as `gracelab export` does.
func spansOf(t *testing.T, base string, since time.Time) (spans []Span, open int) {
	t.Helper()
	all, err := history.List(base)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		j, err := all[i].Journal()
		if err != nil {
			t.Fatal(err)
		}
		s, n := Spans(&all[i], j, since)
		spans, open = append(spans, s...), open+n
	}
	return spans, open
}

// receiver is a collector: both protocols, as the specification has them.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	mu      sync.Mutex
	got     []*traces.ResourceSpans
	busy    int    // so many are to come again
	refuses string // why spans are refused
	header  string // of the last request, X-Test
}

func (r *receiver) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, request.ResourceSpans...)
	response := &collector.ExportTraceServiceResponse{}
	if r.refuses != "" {
		response.PartialSuccess = &collector.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: r.refuses}
	}
	return response, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	r.header = request.Header.Get("X-Test")
	busy := r.busy > 0
	r.busy--
	r.mu.Unlock()
	if busy {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var body io.Reader = request.Body
	if request.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(body)
	}
	text, err := io.ReadAll(body)
	var message collector.ExportTraceServiceRequest
	if err = errors.Join(err, proto.Unmarshal(text, &message)); err != nil || request.URL.Path != "/v1/traces" || request.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, fmt.Sprint("bad request: ", err), http.StatusBadRequest)
		return
	}
	response, _ := r.Export(request.Context(), &message)
	text, _ = proto.Marshal(response)
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(text)
}

// listen starts it, and gives both endpoints.
func (r *receiver) listen(t *testing.T) (overHTTP, overGRPC Endpoint) {
	t.Helper()
	web := httptest.NewServer(r)
	t.Cleanup(web.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, r)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return endpoint(t, web.URL), endpoint(t, "grpc://"+listener.Addr().String())
}

func endpoint(t *testing.T, text string) Endpoint {
	t.Helper()
	e, err := ParseEndpoint(text)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// told is what the collector has: spans by name, each with its attributes as text.
func (r *receiver) told() (spans map[string]*traces.Span, resource string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	spans = map[string]*traces.Span{}
	for _, of := range r.got {
		resource = texts(of.Resource.Attributes)
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				spans[s.Name] = s
			}
		}
	}
	return spans, resource
}

func texts(all []*common.KeyValue) string {
	var b strings.Builder
	for _, a := range all {
		var value any
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			value = v.StringValue
		case *common.AnyValue_IntValue:
			value = v.IntValue
		case *common.AnyValue_DoubleValue:
			value = v.DoubleValue
		}
		fmt.Fprintf(&b, "%s=%v ", a.Key, value)
	}
	return b.String()
}

const patience = time.Minute

func TestStopAsTrace(t *testing.T) {
	base, began, step, retire := stage(t)
	if spans, open := spansOf(t, base, time.Time{}); len(spans) != 0 || open != 1 {
		t.Fatalf("%d spans of a stop that goes on, %d go on", len(spans), open)
	}
	end(step)
	var first [2][]byte
	for round, protocol := range []string{"http", "grpc", "http, deleted"} {
		t.Run(protocol, func(t *testing.T) {
			if round == 2 {
				retire()
			}
			spans, open := spansOf(t, base, time.Time{})
			if len(spans) != 3 || open != 0 {
				t.Fatalf("%d spans, %d go on", len(spans), open)
			}
			r := &receiver{}
			overHTTP, overGRPC := r.listen(t)
			to := overHTTP
			if protocol == "grpc" {
				to = overGRPC
			}
			if err := to.Send(t.Context(), spans, patience); err != nil {
				t.Fatal(err)
			}
			got, resource := r.told()
			for _, want := range []string{
				"service.name=gracerun ", "container.id=c0ffee0123456789 ", "container.name=k8s_postgres_db-0 ", "container.runtime.name=crun ",
				"k8s.namespace.name=prod ", "k8s.pod.name=db-0 ", "k8s.pod.uid=u-1 ", "k8s.container.name=postgres ", "k8s.container.restart_count=3 ",
				"container.image.name=docker.io/library/postgres:17 ", "host.name=",
			} {
				if !strings.Contains(resource, want) {
					t.Errorf("the resource has no %q: %s", want, resource)
				}
			}
			stop, grace, exit := got[StopSpan], got[GraceSpan], got[ExitSpan]
			if stop == nil || grace == nil || exit == nil {
				t.Fatalf("the spans are %v", got)
			}
			for _, want := range []string{
				"gracerun.stop.request=signal SIGTERM ", "gracerun.stop.outcome=by-request ", "gracerun.policy=observe ", "gracerun.stop.grace=10 ",
				"gracerun.stop.grace.used=0.25 ", "gracerun.stop.margin=7.5 ", "gracerun.caller.executable=/usr/bin/crio ", "gracerun.caller.unit=crio.service ",
				"gracerun.caller.pid=812 ", "gracerun.exit.signal=SIGKILL ", "process.exit.code=137 ",
			} {
				if !strings.Contains(texts(stop.Attributes), want) {
					t.Errorf("the stop has no %q: %s", want, texts(stop.Attributes))
				}
			}
			if stop.Status.Code != traces.Status_STATUS_CODE_ERROR || !strings.Contains(stop.Status.Message, "early-kill by bash") {
				t.Errorf("its status is %v", stop.Status)
			}
			var events strings.Builder
			for _, e := range stop.Events {
				fmt.Fprintf(&events, "%s: %s\n", e.Name, texts(e.Attributes))
			}
			for _, want := range []string{
				"request: signal: gracerun.request=#1 gracerun.signal=SIGTERM gracerun.policy=observe gracerun.outcome=delivered gracerun.caller.executable=/usr/bin/crio",
				"request: signal: gracerun.request=#2 gracerun.signal=SIGKILL gracerun.policy=observe gracerun.outcome=delivered gracerun.caller.executable=/bin/bash",
				"deliver: gracerun.signal=SIGTERM", "delivered: gracerun.request=#2 gracerun.signal=SIGKILL",
				"breach: gracerun.request=#2 gracerun.breach=early-kill gracerun.grace.left=7.5 gracerun.policy=observe gracerun.caller.executable=/bin/bash gracerun.caller.pid=900 gracerun.caller.user.id=1000",
			} {
				if !strings.Contains(events.String(), want) {
					t.Errorf("no event %q among\n%s", want, events.String())
				}
			}
			// Wall-clock times: of now, less what the clock of the journal has gone since.
			asked := time.Now().Add(-time.Duration(hostclock.Now() - began))
			if round == 2 { // a deleted one goes by when its journal was written
				asked = time.Unix(0, int64(stop.StartTimeUnixNano))
				if time.Since(asked) > time.Hour || time.Since(asked) < 0 {
					t.Errorf("it is said to begin at %s", asked)
				}
			}
			at := func(ns uint64) float64 { return time.Unix(0, int64(ns)).Sub(asked).Seconds() }
			for what, pair := range map[string][2]float64{
				"stop begins": {at(stop.StartTimeUnixNano), 0}, "stop ends": {at(stop.EndTimeUnixNano), 3}, "grace begins": {at(grace.StartTimeUnixNano), 0.5},
				"grace ends": {at(grace.EndTimeUnixNano), 3}, "exit begins": {at(exit.StartTimeUnixNano), 3}, "exit ends": {at(exit.EndTimeUnixNano), 4},
			} {
				if d := pair[0] - pair[1]; d > 0.5 || d < -0.5 {
					t.Errorf("%s %.3f s after the request, want %.3f", what, pair[0], pair[1])
				}
			}
			if !bytes.Equal(grace.ParentSpanId, stop.SpanId) || !bytes.Equal(exit.ParentSpanId, stop.SpanId) || len(stop.ParentSpanId) != 0 ||
				!bytes.Equal(grace.TraceId, stop.TraceId) || bytes.Equal(grace.SpanId, exit.SpanId) {
				t.Errorf("they do not belong together: %v", got)
			}
			if first[0] == nil {
				first = [2][]byte{stop.TraceId, exit.SpanId}
			}
			if !bytes.Equal(first[0], stop.TraceId) || !bytes.Equal(first[1], exit.SpanId) {
				t.Errorf("sent again it is another trace: %x and %x, was %x and %x", stop.TraceId, exit.SpanId, first[0], first[1])
			}
		})
	}
	if spans, _ := spansOf(t, base, time.Now().Add(-time.Second)); len(spans) != 0 {
		t.Errorf("%d spans of a stop that is older than what was asked for", len(spans))
	}
}

// Two stops of one container are two traces: a window that lapsed, and the end.
func TestLapsedWindow(t *testing.T) {
	dir := t.TempDir()
	config := lifecycle.DefaultConfig()
	config.Grace = 10 * lifecycle.Second
	machine, j := lifecycle.New(config), &journal.Journal{Config: config}
	step := func(at lifecycle.Instant, ev lifecycle.Event) {
		r := journal.Record{At: at, Event: ev.String()}
		for _, e := range machine.Step(at, ev) {
			r.Effects = append(r.Effects, string(e.Append(nil, at)))
		}
		r.State, r.Snapshot = machine.State().String(), string(machine.AppendSnapshot(nil))
		j.Records = append(j.Records, r)
	}
	step(second, lifecycle.Event{Kind: lifecycle.CreateDone})
	step(second, lifecycle.Event{Kind: lifecycle.StartDone})
	for i, at := range []lifecycle.Instant{2 * second, 20 * second} {
		step(at, lifecycle.Event{Kind: lifecycle.SignalRequest, Request: lifecycle.FirstRequest + lifecycle.RequestID(i), Signal: signals.TERM})
		step(at, lifecycle.Event{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM})
		if i == 0 {
			step(at+10*second, lifecycle.Event{Kind: lifecycle.Deadline})
		}
	}
	step(21*second, lifecycle.Event{Kind: lifecycle.InitExited, Status: lifecycle.Exited(0)})
	c := &history.Container{ID: "a", Path: dir, Gone: true, Last: time.Unix(1000, 0)}
	spans, open := Spans(c, j, time.Time{})
	ids, lapsed := map[string]bool{}, ""
	for _, s := range spans {
		ids[s.SpanContext().TraceID().String()] = true
		for _, a := range s.Attributes() {
			if a.Key == StopOutcome && a.Value.AsString() == "lapsed" {
				lapsed = s.EndTime().Sub(s.StartTime()).String()
			}
		}
	}
	if len(ids) != 2 || open != 0 || lapsed != "10s" {
		t.Errorf("%d traces, %d go on, the window lasted %q", len(ids), open, lapsed)
	}
}

// A stop whose own manager has ended it by SIGKILL is no success.
func TestEndedByTheManager(t *testing.T) {
	config := lifecycle.DefaultConfig()
	config.Policy = lifecycle.Delegate
	machine, j := lifecycle.New(config), &journal.Journal{Config: config}
	crio := lifecycle.NewCaller("/usr/bin/crio", 812, 4711, 0, "crio.service")
	for i, ev := range []lifecycle.Event{
		{Kind: lifecycle.CreateDone}, {Kind: lifecycle.StartDone},
		{Kind: lifecycle.SignalRequest, Request: lifecycle.FirstRequest, Signal: signals.TERM, By: crio},
		{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM},
		{Kind: lifecycle.SignalRequest, Request: lifecycle.FirstRequest + 1, Signal: signals.KILL, By: crio},
		{Kind: lifecycle.Delivered, Request: lifecycle.FirstRequest + 1, Signal: signals.KILL},
		{Kind: lifecycle.InitExited, Status: lifecycle.Signaled(signals.KILL)}, {Kind: lifecycle.CgroupEmpty}, {Kind: lifecycle.StreamsDrained},
	} {
		at := lifecycle.Instant(i+1) * second
		r := journal.Record{At: at, Event: ev.String()}
		for _, e := range machine.Step(at, ev) {
			r.Effects = append(r.Effects, string(e.Append(nil, at)))
		}
		r.State, r.Snapshot = machine.State().String(), string(machine.AppendSnapshot(nil))
		j.Records = append(j.Records, r)
	}
	spans, _ := Spans(&history.Container{ID: "a", Gone: true, Last: time.Unix(1000, 0)}, j, time.Time{})
	for _, s := range spans {
		if s.Name() == StopSpan && (s.Status().Code != codes.Error || !strings.Contains(s.Status().Description, "by SIGKILL")) {
			t.Errorf("its status is %+v", s.Status())
		}
	}
	if len(spans) == 0 {
		t.Error("no span")
	}
}

func TestCollectorInTrouble(t *testing.T) {
	base, _, step, _ := stage(t)
	end(step)
	spans, _ := spansOf(t, base, time.Time{})
	t.Run("busy", func(t *testing.T) {
		t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Test=yes")
		t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
		r := &receiver{busy: 2}
		overHTTP, _ := r.listen(t)
		if err := overHTTP.Send(t.Context(), spans, patience); err != nil || len(r.got) != 1 || r.header != "yes" {
			t.Errorf("%v, %d messages, header %q", err, len(r.got), r.header)
		}
	})
	t.Run("refuses", func(t *testing.T) {
		for i := range 2 {
			r := &receiver{refuses: "no room for you"}
			overHTTP, overGRPC := r.listen(t)
			to := []Endpoint{overHTTP, overGRPC}[i]
			if err := to.Send(t.Context(), spans, patience); err == nil || !strings.Contains(err.Error(), r.refuses) || !strings.Contains(err.Error(), to.String()) {
				t.Errorf("%s: %v", to, err)
			}
		}
	})
	t.Run("not there", func(t *testing.T) {
		for _, text := range []string{"http://127.0.0.1:1", "grpc://127.0.0.1:1"} {
			begin := time.Now()
			err := endpoint(t, text).Send(t.Context(), spans, time.Second)
			if err == nil || !strings.Contains(err.Error(), "has 0 of 3 spans") || !strings.Contains(err.Error(), "connection refused") {
				t.Errorf("%s: %v", text, err)
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("%s: it took %s", text, took)
			}
		}
	})
	t.Run("hangs", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		for _, scheme := range []string{"http://", "grpc://"} {
			begin := time.Now()
			if err := endpoint(t, scheme+listener.Addr().String()).Send(t.Context(), spans, time.Second); err == nil {
				t.Errorf("%s: no error", scheme)
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("%s: it took %s", scheme, took)
			}
		}
	})
	t.Run("something else", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		defer server.Close()
		if err := endpoint(t, server.URL).Send(t.Context(), spans, patience); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("%v", err)
		}
	})
	t.Run("many spans", func(t *testing.T) {
		var many []Span
		for len(many) < 2*batch+1 {
			many = append(many, spans...)
		}
		r := &receiver{}
		overHTTP, _ := r.listen(t)
		if err := overHTTP.Send(t.Context(), many, patience); err != nil || len(r.got) != 3 {
			t.Errorf("%v, %d messages, want 3", err, len(r.got))
		}
	})
}

// The reference names every attribute.
func TestReference(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("spans.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`attribute\.Key\("([^"]+)"\)`).FindAllStringSubmatch(string(source), -1)
	for _, name := range names {
		if !strings.Contains(string(page), "`"+name[1]+"`") {
			t.Errorf("docs/metrics.md does not name %s", name[1])
		}
	}
	if len(names) == 0 {
		t.Error("no attribute is found in the source")
	}
}

func TestEndpoints(t *testing.T) {
	for text, want := range map[string]string{
		"http://collector": "http://collector:4318/v1/traces", "http://collector:80/": "http://collector:80/v1/traces", "https://c/otlp/v1/traces": "https://c:4318/otlp/v1/traces",
		"grpc://c": "grpc://c:4317", "grpcs://[::1]:5": "grpcs://[::1]:5", "http://[::1]": "http://[::1]:4318/v1/traces",
	} {
		if e, err := ParseEndpoint(text); err != nil || e.String() != want {
			t.Errorf("%q is %s, %v, want %s", text, e, err, want)
		}
	}
	for _, text := range []string{"", "collector:4317", "localhost", "ftp://c", "http://", "grpc://c/path", "http://u:p@c", "http://c?x=1", "http://c:port", "://"} {
		if e, err := ParseEndpoint(text); err == nil || !strings.Contains(err.Error(), "endpoint") {
			t.Errorf("%q is %s, %v", text, e, err)
		}
	}
}
