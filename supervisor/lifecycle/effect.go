package lifecycle

import "gracerun.io/signals"

// EffectKind says what the edge has to do.
type EffectKind uint8

// What the machine asks of the edge. The fields of Effect that each kind uses
// are named in parentheses. The edge performs effects in their order and
// answers those that can fail with the event of the matching name.
const (
	// Deliver a signal through init's pidfd or the cgroup; answered by
	// Delivered (Request, Signal, Target).
	Deliver EffectKind = iota
	// Thaw the container's cgroup; answered by ThawDone.
	Thaw
	// AbortCreate ends the runtime's create; answered by CreateDone.
	AbortCreate
	// KillCgroup kills what is left in the cgroup after init is gone.
	KillCgroup
	// Arm the one timer, or disarm it if At is Never (At).
	Arm
	// DrainStreams: read the container's output to its end; answered by
	// StreamsDrained (At: the machine gives up at this instant).
	DrainStreams
	// RecordExit writes the exit file, atomically; answered by ExitRecorded
	// (Status, Reason).
	RecordExit
	// RunExitCommand runs the exit command; answered by ExitCommandDone.
	RunExitCommand
	// Reply answers a request: its one and only reply (Request, Outcome,
	// Status, Errno).
	Reply
	// RecordBreach: a caller broke a grace period, and the policy let it pass
	// (Request, Breach, By, At: when the grace period would have been over).
	RecordBreach

	effectKinds = int(iota)
)

// Effect is one thing to do. A plain value.
type Effect struct {
	Kind    EffectKind
	Target  Target
	Outcome Outcome
	Reason  Reason
	Breach  Breach
	Request RequestID
	Signal  signals.Signal
	Errno   int32
	At      Instant
	Status  Status
	By      *Caller
}

// Target says which processes a signal is for.
type Target uint8

// The targets of a Deliver effect.
const (
	ToInit   Target = iota // init, by its pidfd
	ToAll                  // every process of the container (kill --all)
	ToOthers               // every process but init, which has the signal already
)

// Outcome is the reply to a request. It is true at the time it is given.
type Outcome uint8

// The outcomes of a request.
const (
	// DeliveredOutcome: the signal was delivered.
	DeliveredOutcome Outcome = iota
	// Joined: the stop in progress has delivered the very signal already.
	Joined
	// Ended: the container ended, as the caller wanted; Status says how.
	Ended
	// NotRunning: the container had exited before the signal could be delivered.
	NotRunning
	// NotFound: there is no container; its create failed.
	NotFound
	// Granted: the container may be started now.
	Granted
	// Refused: the container may not be started, now or ever.
	Refused
	// FailedOutcome: it did not work; Errno says why.
	FailedOutcome
)

// Reason says what ended the container, as far as the machine can tell. It is
// kept with the exit so that a kill by the kernel's OOM killer during a grace
// period is not taken for a kill at the deadline.
type Reason uint8

// The reasons of an exit.
const (
	ByItself   Reason = iota // no stop was in progress and nobody killed it
	InGrace                  // it ended within the grace period of a stop
	AtDeadline               // SIGKILL at the end of the grace period
	ByRequest                // SIGKILL that a caller asked for at once
	ByOpener                 // SIGKILL of whoever had sent the stop signal: its own deadline
	ByOOM                    // the kernel's OOM killer
)

// Breach is a way to break a grace period that is open.
type Breach uint8

// The breaches that policy observe lets pass and records.
const (
	RepeatedStop   Breach = iota // the stop signal was sent again
	EarlyKill                    // SIGKILL before the grace period was over
	StartAfterStop               // a start after the stop signal
)
