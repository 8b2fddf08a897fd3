package races

import (
	"errors"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
	"gracerun.io/recorder"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

// TestHarms: each harm is found where it was done, and not where it was not.
func TestHarms(t *testing.T) {
	const s = time.Second
	stop := []Stop{{At: 10 * s, Grace: 4 * s}}
	term := func(at time.Duration) recorder.Event {
		return recorder.Event{At: at, What: recorder.Generate, Signal: signals.TERM, SenderComm: "crun"}
	}
	kill := func(at time.Duration) []recorder.Event {
		return []recorder.Event{{At: at, What: recorder.Generate, Signal: signals.KILL}}
	}
	code := func(n int) process.Status { return process.Status{Known: true, Code: n} }
	failed := func(words string) []Call {
		return []Call{{Args: "kill ID 15", Err: &testbed.CallError{Stderr: words, Err: errors.New("exit status 1")}}}
	}
	for name, c := range map[string]struct{ harmful, harmless Facts }{
		"second-stop-signal": {Facts{Sent: []recorder.Event{term(10 * s), term(11 * s)}}, Facts{Sent: []recorder.Event{term(10 * s)}}},
		"data-lost": {Facts{Ledger: Ledger{Kept: true, Accepted: 20, Written: 19}},
			Facts{Ledger: Ledger{Kept: true, Accepted: 20, Written: 20, Closed: true}}},
		"killed-early": {Facts{Stops: stop, Sent: []recorder.Event{term(11 * s)}, Kills: kill(14500 * time.Millisecond)}, // would do if it had been told at once
			Facts{Stops: stop, Sent: []recorder.Event{term(11 * s)}, Kills: kill(15 * s)}},
		"killed-late":           {Facts{Stops: stop, Ended: 16 * s}, Facts{Stops: stop, Ended: 14100 * time.Millisecond}},
		"never-told":            {Facts{}, Facts{Sent: []recorder.Event{term(s)}}},
		"told-late":             {Facts{Stops: stop, Sent: []recorder.Event{term(12 * s)}}, Facts{Stops: stop, Sent: []recorder.Event{term(10 * s)}}},
		"status-lost":           {Facts{Ended: s, Status: code(3)}, Facts{Ended: s, Recorded: "3"}},
		"status-wrong":          {Facts{Ended: s, Status: code(3), Recorded: "0"}, Facts{Ended: s, Status: process.Status{Known: true, Signal: 9}, Recorded: "137"}},
		"log-cut":               {Facts{Said: []string{"a", "b"}, Logged: []string{"a"}}, Facts{Said: []string{"a"}, Logged: []string{"a", "b"}}},
		"output-refused":        {Facts{Unsaid: []string{"a"}}, Facts{Said: []string{"a"}}},
		"exec-log-cut":          {Facts{ExecSaid: []string{"a"}}, Facts{ExecSaid: []string{"a"}, ExecLogged: []string{"a"}}},
		"herd-told-late":        {Facts{Grace: 3 * s, Drained: &Drained{LastTERM: s}}, Facts{Grace: 3 * s, Drained: &Drained{LastTERM: s / 10}}},
		"herd-harmed":           {Facts{Drained: &Drained{LateKills: 1}}, Facts{Drained: &Drained{Containers: 9}}},
		"said-timed-out":        {Facts{Stops: stop, Ended: 13 * s, TimedOut: true}, Facts{Stops: stop, Ended: 15 * s, TimedOut: true}},
		"needless-kill":         {Facts{Ended: 10 * s, Kills: kill(11 * s)}, Facts{Ended: 11 * s, Kills: kill(11 * s)}},
		"left-over":             {Facts{Ended: s, Left: []int{7}}, Facts{Ended: s}},
		"left-frozen":           {Facts{Frozen: true}, Facts{}},
		"no-answer":             {Facts{CreateError: errors.New("EOF")}, Facts{CreateError: errors.New("container create failed: it was told to stop")}},
		"started-after-stop":    {Facts{StartAsked: true, Said: []string{"ready"}}, Facts{StartAsked: true, StartError: errors.New("refused")}},
		"stop-lost":             {Facts{}, Facts{Ended: s}},
		"stranger-hit":          {Facts{Stranger: "killed by SIGKILL"}, Facts{Stranger: "unharmed"}},
		"coalesced":             {Facts{Sent: []recorder.Event{term(s), {Result: recorder.AlreadyPending}}}, Facts{Sent: []recorder.Event{term(s), term(s)}}},
		"error-not-understood":  {Facts{Calls: failed("open pidfd: No such process")}, Facts{Calls: failed("container not running")}},
		"call-hung":             {Facts{Grace: s, Calls: []Call{{Done: 3 * s}}}, Facts{Grace: s, Calls: []Call{{Done: s}}}},
		"state-stale":           {Facts{Container: &testbed.Container{}, Ended: s, Calls: []Call{{Args: "state ID", At: 2 * s, Stdout: `{"status":"running"}`}}}, Facts{Ended: s, Calls: []Call{{Args: "state ID", At: 2 * s, Stdout: `{"status":"stopped"}`}}}},
		"reason-lost":           {Facts{Status: process.Status{Known: true, Signal: signals.KILL}}, Facts{Status: process.Status{Known: true, Signal: signals.KILL}, OOMFile: true}},
		"given-up-while-living": {Facts{GivenUp: 2 * s}, Facts{GivenUp: 2 * s, Ended: s}},
		"deaf":                  {Facts{Sent: []recorder.Event{{Result: recorder.Ignored}}}, Facts{Sent: []recorder.Event{term(s)}, Heard: s}},
	} {
		check, ok := harms[name]
		if !ok {
			t.Errorf("there is no harm %q", name)
			continue
		}
		if check(&c.harmful) == "" {
			t.Errorf("%s: harm was not found", name)
		}
		if text := check(&c.harmless); text != "" {
			t.Errorf("%s: found where there is none: %s", name, text)
		}
		delete(untested, name)
	}
	for name := range untested {
		t.Errorf("harm %q has no test", name)
	}
}

var untested = func() map[string]bool {
	names := map[string]bool{}
	for name := range harms {
		names[name] = true
	}
	return names
}()

// One that is told after its grace period has nothing left, and no less.
func TestToldAfterTheGrace(t *testing.T) {
	f := Facts{Grace: 3 * time.Second, Drained: &Drained{Containers: 200, LastTERM: 5 * time.Second}}
	if got, want := herdToldLate(&f), "the last of 200 containers was told after 5000 ms: nothing of its 3s is left on a node that waits no longer"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestDeadline(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		stops []Stop
		told  time.Duration
		want  time.Duration
	}{
		{nil, 0, 0},
		{[]Stop{{10 * s, 4 * s}}, 0, 14 * s},
		{[]Stop{{10 * s, 4 * s}}, 12 * s, 16 * s},                  // counted from when it was told
		{[]Stop{{10 * s, 4 * s}, {11 * s, 1 * s}}, 10 * s, 12 * s}, // a later one shortens it
		{[]Stop{{10 * s, 4 * s}, {11 * s, 9 * s}}, 10 * s, 14 * s}, // and never lengthens it
	} {
		f := Facts{Stops: c.stops}
		if c.told != 0 {
			f.Sent = []recorder.Event{{At: c.told}}
		}
		if got := f.Deadline(); got != c.want {
			t.Errorf("%v told at %v: %v, want %v", c.stops, c.told, got, c.want)
		}
	}
}
