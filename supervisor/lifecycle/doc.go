// Package lifecycle is a pure state machine that owns the signals, the deadlines
// and the exit of one container.
//
// # Usage
//
// A Machine is a value with one method that changes it:
//
//	m := lifecycle.New(lifecycle.DefaultConfig())
//	for ev := range events {
//		now := clock() // CLOCK_MONOTONIC
//		for _, e := range m.Step(now, ev) {
//			perform(e)
//		}
//	}
//
// Step takes an Event (a request came, init exited, the timer fired) and returns
// the Effects that follow from it: deliver a signal, arm the timer, record the exit,
// reply to a caller. The machine does no I/O, reads no clock and starts no goroutine.
// The code around it does that: the edge. There are two, supervisor/monitor for a
// container with a supervisor and shim for one without.
//
// To stop a container, step the machine through a StopRequest, as the package's
// Example does. The machine asks for the stop signal, for SIGKILL at the deadline if
// init still lives, and after the exit for the exit file, the reply and the exit
// command.
//
// # Duties of the edge
//
//   - It performs effects in the order in which Step returns them, before the next
//     Step: the slice is valid until then.
//   - It completes each effect that can fail with the event of the matching name:
//     Deliver with Delivered, Thaw with ThawDone, AbortCreate with CreateDone,
//     DrainStreams with StreamsDrained, RecordExit with ExitRecorded, RunExitCommand
//     with ExitCommandDone. It also does so for failures: the machine decides whether and when to try again. It need
//     not wait: an effect can take any time, and other events may come between.
//   - It steps through events that are ready together in the sequence that Order
//     gives them, so that an exit wins over a deadline.
//   - It keeps one timer, set by Arm, and posts Deadline when that fires. The timer
//     may fire early or late.
//   - It gives each request an ID of its own, from FirstRequest on, and passes the
//     one Reply with that ID to the caller. It posts Abandoned if the caller is gone.
//   - It looks at the freezer before a request, and at init's pidfd before a SIGKILL
//     at a deadline.
//   - It sends no signal by itself. Signals that it receives it posts as MonitorSignal.
//
// A successor restores the machine from the journal (Restore), steps it through all
// facts that it knows and performs nothing, and then steps it through Recovered, which
// repeats the effects that were under way (Unanswered lists them).
//
// # Why
//
// A stop has many interleavings: an exit at the deadline, a frozen container, a second
// stop, a start under way, a supervisor that dies. As a pure function each one can be
// written down (testdata/scenarios), enumerated (package explore) and replayed from
// the journal of a real container. Package invariant checks the promises I1 to I12 of
// docs/design.md from events and effects alone.
//
// The machine keeps facts and derives the effects from them, in two functions,
// pursueStop and pursueExit. There is no code per pair of state and event, so that a
// new combination of facts needs no new case.
package lifecycle
