package lifecycle_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/lifecycle/invariant"
)

// TestScenarios replays the stories in testdata/scenarios. Each begins with
//
//	container [policy=enforce] [grace=10s] [stop-signal=SIGINT] [running]
//
// and goes on with what happens, at instants counted from its beginning:
//
//	at 2s
//	stop #1 grace=10s
//
// The answer has one line for each effect, and the state when it changes. All
// that is ready at one instant is told in the order of lifecycle.Order. Every
// story is also watched by the invariant checker.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "../../testdata/scenarios", func(t *testing.T, path string) {
		var s scenario
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "container":
				return s.begin(t, d)
			case "at":
				return s.at(t, d)
			}
			d.Fatalf(t, "unknown command %q", d.Cmd)
			return ""
		})
	})
}

type scenario struct {
	machine *lifecycle.Machine
	checker *invariant.Checker
	now     lifecycle.Instant
	state   lifecycle.State
}

func (s *scenario) begin(t *testing.T, d *datadriven.TestData) string {
	c := lifecycle.DefaultConfig()
	running := false
	for _, arg := range d.CmdArgs {
		switch arg.Key {
		case "policy":
			policy, err := lifecycle.ParsePolicy(arg.Vals[0])
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			c.Policy = policy
		case "grace":
			c.Grace = duration(t, d, arg.Vals[0])
		case "stop-signal":
			sig, err := signals.Parse(arg.Vals[0])
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			c.StopSignal = sig
		case "running":
			running = true
		default:
			d.Fatalf(t, "unknown argument %q", arg.Key)
		}
	}
	*s = scenario{machine: lifecycle.New(c), checker: invariant.New(c)}
	var out strings.Builder
	if running {
		s.step(&out, lifecycle.Event{Kind: lifecycle.CreateDone})
		s.step(&out, lifecycle.Event{Kind: lifecycle.StartDone})
	}
	return out.String()
}

func (s *scenario) at(t *testing.T, d *datadriven.TestData) string {
	now := lifecycle.Instant(duration(t, d, d.CmdArgs[0].Key))
	if now < s.now {
		d.Fatalf(t, "time runs backwards: %s after %s", lifecycle.Duration(now), lifecycle.Duration(s.now))
	}
	s.now = now
	var ready []lifecycle.Event
	for _, line := range strings.Split(d.Input, "\n") {
		ev, err := lifecycle.ParseEvent(line)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		ready = append(ready, ev)
	}
	lifecycle.Order(ready)
	var out strings.Builder
	for _, ev := range ready {
		s.step(&out, ev)
	}
	return out.String()
}

func (s *scenario) step(out *strings.Builder, ev lifecycle.Event) {
	effects := s.machine.Step(s.now, ev)
	for _, e := range effects {
		fmt.Fprintf(out, "%s\n", e.Append(nil, s.now))
	}
	if v := s.checker.Check(s.now, ev, effects); v != nil {
		fmt.Fprintf(out, "BROKEN %v\n", v)
	}
	if now := s.machine.State(); now != s.state {
		fmt.Fprintf(out, "= %s\n", now)
		s.state = now
	}
}

func duration(t *testing.T, d *datadriven.TestData, s string) lifecycle.Duration {
	v, err := lifecycle.ParseDuration(s)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return v
}
