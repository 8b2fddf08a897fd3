package lifecycle

import "gracerun.io/signals"

// Instant is a point in time in nanoseconds of CLOCK_MONOTONIC. The machine
// never asks for the time: every Step is told what time it is, so that a
// wall-clock jump changes nothing and suspend is not taken from a container.
type Instant int64

// Duration is a length of time in nanoseconds.
type Duration int64

// Units of Duration.
const (
	Millisecond Duration = 1e6
	Second      Duration = 1e9
)

// Never is the instant of a timer that is not armed.
const Never Instant = 1<<63 - 1

// After returns the instant d after t, or Never if that is past the end of time.
func (t Instant) After(d Duration) Instant {
	if d > Duration(Never-t) {
		return Never
	}
	return t + Instant(d)
}

// RequestID names one request of one caller. The edge gives every request an
// ID of its own; IDs below FirstRequest belong to the machine.
type RequestID uint32

const (
	// FromMonitor marks what no caller waits for: a signal that the
	// supervisor process itself received.
	FromMonitor RequestID = iota
	// ForStop is the delivery of the open stop's signal.
	ForStop
	// ForKill is the delivery of SIGKILL at the end of a grace period.
	ForKill
	// FirstRequest is the first ID that the edge may give to a caller.
	FirstRequest
)

// EventKind says what happened.
type EventKind uint8

// What the edge tells the machine. The fields of Event that each kind uses
// are named in parentheses.
const (
	// CreateDone: the runtime's create ended (Errno: 0, or why there is no container).
	CreateDone EventKind = iota
	// StartRequest: a caller asks for leave to start the container (Request, By).
	StartRequest
	// StartDone: the start that was granted ended (Errno).
	StartDone
	// SignalRequest: `kill ID SIG` (Request, Signal, All, Force, By).
	SignalRequest
	// StopRequest: stop, with a grace period of its own (Request, Signal, Grace, By).
	StopRequest
	// MonitorSignal: the supervisor process received a signal (Signal).
	MonitorSignal
	// Abandoned: the caller of a request is gone; nobody hears its reply (Request).
	Abandoned
	// Deadline: the timer fired. It may be early or late.
	Deadline
	// Delivered: what became of a Deliver effect (Request, Signal, Errno).
	Delivered
	// Freezer: the container was found frozen or thawed (Frozen).
	Freezer
	// ThawDone: what became of a Thaw effect (Errno).
	ThawDone
	// OOM: the kernel's OOM killer struck in the container's cgroup.
	OOM
	// InitExited: init was reaped, or its status learned another way (Status).
	InitExited
	// CgroupEmpty: no process is left in the container's cgroup.
	CgroupEmpty
	// StreamsDrained: the last byte of the container's output is in the log.
	StreamsDrained
	// ExitRecorded: what became of a RecordExit effect (Errno).
	ExitRecorded
	// ExitCommandDone: the exit command ended, or there was none.
	ExitCommandDone
	// Recovered: another supervisor goes on where one has died. What was under
	// way is begun again, unless it was answered before this event; no effect of a
	// step before it is to be performed. Callers are still waited for: those who
	// do not come back are Abandoned.
	Recovered

	eventKinds = int(iota)
)

// Event is one thing that happened, as the edge saw it. A plain value.
type Event struct {
	Kind    EventKind
	All     bool // the signal is for every process of the container
	Force   bool // the caller insists: pass even where the policy would hold it
	Frozen  bool
	Request RequestID
	Signal  signals.Signal
	Errno   int32 // 0: it worked
	Grace   Duration
	Status  Status
	By      *Caller // who asks; never changed
}

// ESRCH is the errno of a delivery that found no process (errno(3)).
const ESRCH = 3

// ETIMEDOUT is the errno of a signal that could not be delivered in time (errno(110)).
const ETIMEDOUT = 110

// StatusKind says how much is known of an exit.
type StatusKind uint8

// The ways in which init's end is known.
const (
	// StatusUnknown: nobody could tell. It is reported as unknown, never as a number.
	StatusUnknown StatusKind = iota
	// StatusCode: it exited; Value is its exit code.
	StatusCode
	// StatusSignal: it was killed; Value is the signal's number.
	StatusSignal
)

// Status is how init ended, as waitid(2) tells it.
type Status struct {
	Kind  StatusKind
	Value uint8
}

// Exited returns the status of a process that exited with code.
func Exited(code uint8) Status { return Status{StatusCode, code} }

// Signaled returns the status of a process that was killed by sig.
func Signaled(sig signals.Signal) Status { return Status{StatusSignal, uint8(sig)} }

// Order sorts what became ready at once into the order in which the machine
// must see it: what has already happened to init and to its cgroup first, then
// what became of earlier effects, then what callers want, and the timer last. So an exit wins
// over a deadline that is reached at the same instant (invariant I7), where a
// select over both would choose at random.
func Order(ready []Event) {
	// Insertion sort: stable, no closure, and batches are a few events long.
	for i := 1; i < len(ready); i++ {
		for j := i; j > 0 && rank(ready[j].Kind) < rank(ready[j-1].Kind); j-- {
			ready[j], ready[j-1] = ready[j-1], ready[j]
		}
	}
}

func rank(k EventKind) int {
	switch k {
	case InitExited:
		return 0
	case CgroupEmpty: // before the end of the streams, after which the cgroup is swept
		return 1
	case SignalRequest, StopRequest, StartRequest, MonitorSignal, Abandoned:
		return 3
	case Deadline:
		return 4
	default:
		return 2
	}
}
