package explore

import (
	"fmt"
	"io"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/lifecycle/invariant"
)

// Print writes the counterexample as a story: what happened, what the machine
// was told, what it did, and which promise that broke.
func (c *Counterexample) Print(out io.Writer) {
	fmt.Fprintf(out, "World: %s; policy %s, grace %s.\n", c.Setup.Name, c.Setup.Config.Policy, c.Setup.Config.Grace)
	tell := func(now lifecycle.Instant, ev lifecycle.Event, effects []lifecycle.Effect) {
		fmt.Fprintf(out, "  %3ds     machine hears: %s\n", now/lifecycle.Instant(Tick), ev)
		for _, e := range effects {
			fmt.Fprintf(out, "            machine does:  %s\n", e.Append(nil, now))
		}
	}
	w := newWorld(c.Setup, c.subject())
	var v *invariant.Violation
	for _, mv := range c.Moves {
		if mv.kind != wake && mv.kind != wakeReversed {
			fmt.Fprintf(out, "  %3ds  %s\n", w.now/lifecycle.Instant(Tick), w.describe(mv))
		}
		v = w.apply(mv, tell)
	}
	if c.settled {
		fmt.Fprintf(out, "  %3ds  from here on everything works and nobody asks for more\n", w.now/lifecycle.Instant(Tick))
		v = w.settle(tell)
	}
	fmt.Fprintf(out, "  Broken: %s\n", v)
}

func (w *world) describe(mv Move) string {
	switch mv.kind {
	case tick:
		return "time passes"
	case issue:
		return "somebody asks: " + w.setup.Requests[mv.arg].String()
	case abandon:
		return "the caller goes away: " + w.setup.Requests[mv.arg].String()
	case succeed, fail, hang:
		effect := w.jobs[mv.arg].effect
		verb := map[moveKind]string{succeed: "done: ", fail: "fails: ", hang: "hangs: "}[mv.kind]
		return verb + string(effect.Append(nil, w.now))
	}
	if mv.kind == crash {
		text := "the supervisor dies, and another goes on"
		for bit, how := range map[uint8]string{
			noteMissing:   " that has no note of what was done",
			statusMissing: " to whom nobody can tell how init exited",
			tooLate:       " a second later",
		} {
			if mv.arg&bit != 0 {
				text += how
			}
		}
		return text
	}
	return map[moveKind]string{
		createOK:    "the runtime's create succeeds",
		createFail:  "the runtime's create fails",
		createHang:  "the runtime's create hangs",
		startOK:     "the runtime's start succeeds",
		startFail:   "the runtime's start fails",
		exitClean:   "init exits with code 0",
		exitLeaving: "init exits with code 0; a grandchild holds the output open",
		exitOutside: "init exits with code 0; somebody outside holds the output open",
		exitUnknown: "init exits; nobody can tell how",
		die:         "init dies of SIGKILL",
		oomKill:     "the OOM killer kills init",
		drain:       "the output ends",
		freeze:      "somebody freezes the container",
		early:       "the timer fires too early",
	}[mv.kind]
}
