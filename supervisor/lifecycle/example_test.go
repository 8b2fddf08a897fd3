package lifecycle_test

import (
	"fmt"

	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

// A container ignores its stop signal for its whole grace period of 10 s. The edge
// here only prints the effects; Append writes them as the journal has them.
func Example() {
	m := lifecycle.New(lifecycle.DefaultConfig())
	step := func(at lifecycle.Duration, ev lifecycle.Event) {
		for _, e := range m.Step(lifecycle.Instant(at), ev) {
			fmt.Printf("%s: %s\n", at, e.Append(nil, lifecycle.Instant(at)))
		}
	}
	const s = lifecycle.Second
	step(0*s, lifecycle.Event{Kind: lifecycle.CreateDone})
	step(1*s, lifecycle.Event{Kind: lifecycle.StartDone})
	step(2*s, lifecycle.Event{Kind: lifecycle.StopRequest, Request: lifecycle.FirstRequest, Grace: 10 * s})
	step(2*s, lifecycle.Event{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM})
	step(12*s, lifecycle.Event{Kind: lifecycle.Deadline})
	step(12*s, lifecycle.Event{Kind: lifecycle.Delivered, Request: lifecycle.ForKill, Signal: signals.KILL})
	step(13*s, lifecycle.Event{Kind: lifecycle.InitExited, Status: lifecycle.Signaled(signals.KILL)})
	step(13*s, lifecycle.Event{Kind: lifecycle.CgroupEmpty})
	step(13*s, lifecycle.Event{Kind: lifecycle.StreamsDrained})
	step(13*s, lifecycle.Event{Kind: lifecycle.ExitRecorded})
	fmt.Println(m.State(), m.Status(), m.Reason())
	// Output:
	// 2s: deliver stop SIGTERM to=init
	// 2s: arm in=10s
	// 12s: deliver kill SIGKILL to=init
	// 12s: arm in=100ms
	// 13s: drain-streams in=2s
	// 13s: arm in=2s
	// 13s: record-exit signal=SIGKILL at-deadline
	// 13s: arm never
	// 13s: reply #1 ended signal=SIGKILL
	// 13s: run-exit-command
	// stopped signal=SIGKILL at-deadline
}
