package settings

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"gracerun.io/runtime"
	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

// The annotations that decide how a container is stopped.
const (
	policyAnnotation = "io.gracerun.policy" // a policy's name
	graceAnnotation  = "io.gracerun.grace"  // see ParseGrace

	// The kubelet's, in seconds (pkg/kubelet/kuberuntime/labels.go). CRI-O copies
	// it to config.json (internal/factory/container/container.go).
	kubernetesGraceAnnotation = "io.kubernetes.pod.terminationGracePeriod"

	// A systemd property as runc and crun pass it to the scope, in the text format
	// of GVariant: "uint64 30000000". CRI-O makes it from the one above, with
	// systemd cgroups only; Podman from --stop-timeout (5.5 and later,
	// libpod/container_internal_common.go).
	systemdGraceAnnotation = "org.systemd.property.TimeoutStopUSec"

	// From the image's STOPSIGNAL. CRI-O writes it as it stands in the image or
	// as the CRI names it ("SIGRTMINPLUS3"); Podman writes the number, 0 for none.
	stopSignalAnnotation = "org.opencontainers.image.stopSignal"
)

var annotations = [...]string{
	policyAnnotation, graceAnnotation, kubernetesGraceAnnotation, systemdGraceAnnotation, stopSignalAnnotation,
}

// FaultsAnnotation has a compiled fault plan (package faults). It is heard where
// Settings.FaultsByAnnotation says so.
const FaultsAnnotation = "io.gracerun.faults"

// Stop is how a container is to be stopped when the request does not say.
type Stop struct {
	Signal signals.Signal
	Grace  time.Duration // from delivery of Signal to KILL
	Policy lifecycle.Policy
}

// Machine gives the configuration of the container's machine.
func (s Stop) Machine() lifecycle.Config {
	c := lifecycle.DefaultConfig()
	c.StopSignal, c.Policy = s.Signal, s.Policy
	c.Grace = lifecycle.Duration(s.Grace)
	return c
}

// StopOf reads from the annotations of a container how it is to be stopped, where
// the owner of the node leaves it to them. Of several for the grace period the most
// specific one counts: io.gracerun.grace, then Kubernetes', then systemd's.
//
// The error is that of an annotation of gracerun's own that makes no sense. Those
// of others, which the wrapped runtime would take, fail nothing: they are left out
// or clamped, as is what the owner does not allow, and the warnings say so. Each
// warning and the error name annotation and value.
func (s *Settings) StopOf(all runtime.Annotations) (stop Stop, warnings []string, err error) {
	r := reader{Settings: s, all: all, stop: s.Stop}
	if err := r.policy(); err != nil {
		return s.Stop, r.warnings, err
	}
	r.signal()
	if err := r.grace(); err != nil {
		return s.Stop, r.warnings, err
	}
	return r.stop, r.warnings, nil
}

type reader struct {
	*Settings
	all      runtime.Annotations
	stop     Stop
	warnings []string
}

// get gives the value of an annotation that is heard.
func (r *reader) get(name string) (string, bool) {
	text, ok := r.all.Get(name)
	if ok && !slices.Contains(r.Heard, name) {
		r.warn(name, text, "is not heard on this node ("+Path()+", annotations.allowed)")
		return "", false
	}
	return text, ok
}

func (r *reader) warn(name, value, text string) {
	r.warnings = append(r.warnings, "annotation "+name+"="+strconv.Quote(value)+": "+text)
}

func (r *reader) policy() error {
	text, ok := r.get(policyAnnotation)
	if !ok {
		return nil
	}
	policy, err := lifecycle.ParsePolicy(text)
	if err != nil {
		return annotationError(policyAnnotation, text, err)
	}
	if policy != r.stop.Policy && !slices.Contains(r.Policies, policy) {
		r.warn(policyAnnotation, text, "annotations may not ask for it on this node ("+Path()+", annotations.policies): policy "+r.stop.Policy.String()+" holds")
		return nil
	}
	r.stop.Policy = policy
	return nil
}

func (r *reader) signal() {
	text, ok := r.get(stopSignalAnnotation)
	if !ok || text == "" || text == "0" {
		return
	}
	signal, err := signals.Parse(fromCRI(text))
	if err != nil {
		r.warn(stopSignalAnnotation, text, "unknown signal: the stop signal is "+r.stop.Signal.String())
		return
	}
	r.stop.Signal = signal
}

func (r *reader) grace() error {
	for _, source := range graceSources {
		text, ok := r.get(source.annotation)
		if !ok {
			continue
		}
		grace, err := source.parse(text)
		if err != nil && source.annotation == graceAnnotation {
			return annotationError(graceAnnotation, text, err)
		}
		if err != nil {
			r.warn(source.annotation, text, err.Error()+": it is left out")
			continue
		}
		if grace > r.MaxGrace {
			r.warn(source.annotation, text, "is more than this node grants ("+Path()+", annotations.max-grace): the grace period is "+r.MaxGrace.String())
			grace = r.MaxGrace
		}
		r.stop.Grace = grace
		return nil
	}
	return nil
}

var graceSources = []struct {
	annotation string
	parse      func(string) (time.Duration, error)
}{
	{graceAnnotation, ParseGrace},
	{kubernetesGraceAnnotation, parseSeconds},
	{systemdGraceAnnotation, parseMicroseconds},
}

func annotationError(name, value string, err error) error {
	return errors.New("annotation " + name + "=" + strconv.Quote(value) + ": " + err.Error())
}

// fromCRI turns the real-time signals of the CRI (api.proto, enum Signal), whose
// names can have no signs in them, into the usual ones.
func fromCRI(name string) string {
	name = strings.Replace(name, "RTMINPLUS", "RTMIN+", 1)
	return strings.Replace(name, "RTMAXMINUS", "RTMAX-", 1)
}

var (
	errGrace   = errors.New(`want seconds ("30") or a duration with units ("1m30s"), not negative`)
	errLong    = errors.New("is longer than 292 years")
	errSeconds = errors.New(`want whole seconds ("30"), not negative`)
	errUSec    = errors.New(`want microseconds as a GVariant text ("uint64 30000000")`)
)

// forever is the longest grace period there is, 292 years.
const forever = time.Duration(math.MaxInt64)

// ParseGrace reads a grace period as people write it: whole seconds ("30"), or a
// Go duration ("1m30s", "500ms"). 0 means KILL at once.
func ParseGrace(text string) (time.Duration, error) {
	if grace, err := parseSeconds(text); err == nil {
		if grace == forever {
			return 0, errLong
		}
		return grace, nil
	}
	grace, err := time.ParseDuration(text)
	if err != nil || grace < 0 || strings.HasPrefix(text, "-") {
		return 0, errGrace
	}
	return grace, nil
}

// parseSeconds takes what does not fit a time.Duration for the longest one.
func parseSeconds(text string) (time.Duration, error) {
	seconds, err := parseCount(text)
	if err != nil {
		return 0, errSeconds
	}
	if seconds > math.MaxInt64/uint64(time.Second) {
		return forever, nil
	}
	return time.Duration(seconds) * time.Second, nil
}

// parseMicroseconds takes what does not fit a time.Duration for the longest one:
// systemd's infinity is the largest uint64, and Podman multiplies a --stop-timeout of
// -1 into its neighbourhood. The type can be the word "uint64" or the sign "@t"
// (GVariant text format, "Type annotations").
func parseMicroseconds(text string) (time.Duration, error) {
	digits, ok := strings.CutPrefix(text, "uint64 ")
	if !ok {
		digits, ok = strings.CutPrefix(text, "@t ")
	}
	if !ok {
		return 0, errUSec
	}
	usec, err := parseCount(strings.TrimSpace(digits))
	if err != nil {
		return 0, errUSec
	}
	if usec > math.MaxInt64/uint64(time.Microsecond) {
		return forever, nil
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// parseCount reads a number without a sign; one that is too large is the largest.
func parseCount(digits string) (uint64, error) {
	n, err := strconv.ParseUint(digits, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return math.MaxUint64, nil
	}
	return n, err
}
