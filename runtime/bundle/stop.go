package bundle

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"gracerun.io/runtime"
	"gracerun.io/signals"
)

// The annotations that decide how a container is stopped.
const (
	policyAnnotation = "io.gracerun.policy" // "observe" or "enforce"
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

// Stop is how a container is to be stopped when the request does not say.
type Stop struct {
	Signal signals.Signal
	Grace  time.Duration // from delivery of Signal to KILL
	Policy runtime.Policy
}

// Defaults hold where neither request nor annotation says anything: TERM, 30 s
// (the grace period of Kubernetes), and delivery as the OCI specification says.
var Defaults = Stop{Signal: signals.TERM, Grace: 30 * time.Second, Policy: runtime.Observe}

// StopSettings reads from the annotations of a container how it is to be
// stopped, and takes from defaults what they don't say. Of several annotations
// for the grace period the most specific one counts: io.gracerun.grace, then
// Kubernetes', then systemd's. The error names annotation and value; values of
// annotations that do not count are not looked at.
func StopSettings(annotations runtime.Annotations, defaults Stop) (Stop, error) {
	stop := defaults
	if text, ok := annotations.Get(policyAnnotation); ok {
		policy, err := runtime.ParsePolicy(text)
		if err != nil {
			return Stop{}, annotationError(policyAnnotation, text, err)
		}
		stop.Policy = policy
	}
	if text, ok := annotations.Get(stopSignalAnnotation); ok && text != "" && text != "0" {
		signal, err := signals.Parse(fromCRI(text))
		if err != nil {
			return Stop{}, annotationError(stopSignalAnnotation, text, err)
		}
		stop.Signal = signal
	}
	for _, source := range graceSources {
		text, ok := annotations.Get(source.annotation)
		if !ok {
			continue
		}
		grace, err := source.parse(text)
		if err != nil {
			return Stop{}, annotationError(source.annotation, text, err)
		}
		stop.Grace = grace
		break
	}
	return stop, nil
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
	errSeconds = errors.New(`want whole seconds ("30"), not negative`)
	errUSec    = errors.New(`want microseconds as a GVariant text ("uint64 30000000")`)
)

// ParseGrace reads a grace period as people write it: whole seconds ("30"), or a
// Go duration ("1m30s", "500ms"). 0 means KILL at once.
func ParseGrace(text string) (time.Duration, error) {
	if grace, err := parseSeconds(text); err == nil {
		return grace, nil
	}
	grace, err := time.ParseDuration(text)
	if err != nil || grace < 0 || strings.HasPrefix(text, "-") {
		return 0, errGrace
	}
	return grace, nil
}

func parseSeconds(text string) (time.Duration, error) {
	seconds, err := strconv.ParseUint(text, 10, 64)
	if err != nil || seconds > math.MaxInt64/uint64(time.Second) {
		return 0, errSeconds
	}
	return time.Duration(seconds) * time.Second, nil
}

// parseMicroseconds takes what does not fit a time.Duration (292 years) for the
// longest one: systemd's infinity is the largest uint64, and Podman multiplies a
// --stop-timeout of -1 into its neighbourhood.
func parseMicroseconds(text string) (time.Duration, error) {
	digits, ok := strings.CutPrefix(text, "uint64 ")
	if !ok {
		return 0, errUSec
	}
	usec, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 64)
	if err != nil {
		return 0, errUSec
	}
	return time.Duration(min(usec, math.MaxInt64/uint64(time.Microsecond))) * time.Microsecond, nil
}
