package lifecycle

import (
	"strings"
	"testing"

	"gracerun.io/signals"
)

// TestEventText: every kind of event has a line that reads back as itself.
func TestEventText(t *testing.T) {
	for _, test := range []struct {
		line string
		ev   Event
	}{
		{"create-done ok", Event{Kind: CreateDone}},
		{"create-done errno=1", Event{Kind: CreateDone, Errno: 1}},
		{"start #1", Event{Kind: StartRequest, Request: FirstRequest}},
		{"start-done ok", Event{Kind: StartDone}},
		{"signal #2 SIGTERM", Event{Kind: SignalRequest, Request: FirstRequest + 1, Signal: signals.TERM}},
		{"signal #2 SIGKILL all force", Event{Kind: SignalRequest, Request: FirstRequest + 1, Signal: signals.KILL, All: true, Force: true}},
		{"stop #3", Event{Kind: StopRequest, Request: FirstRequest + 2, Grace: -1}},
		{"stop #3 SIGINT grace=1500ms", Event{Kind: StopRequest, Request: FirstRequest + 2, Signal: signals.INT, Grace: 1500 * Millisecond}},
		{"stop #3 grace=0s", Event{Kind: StopRequest, Request: FirstRequest + 2}},
		{"monitor-signal SIGTERM", Event{Kind: MonitorSignal, Signal: signals.TERM}},
		{"abandoned #4", Event{Kind: Abandoned, Request: FirstRequest + 3}},
		{"deadline", Event{Kind: Deadline}},
		{"delivered stop SIGTERM ok", Event{Kind: Delivered, Request: ForStop, Signal: signals.TERM}},
		{"delivered kill SIGKILL errno=3", Event{Kind: Delivered, Request: ForKill, Signal: signals.KILL, Errno: ESRCH}},
		{"delivered monitor SIGHUP ok", Event{Kind: Delivered, Request: FromMonitor, Signal: signals.HUP}},
		{"freezer frozen", Event{Kind: Freezer, Frozen: true}},
		{"freezer thawed", Event{Kind: Freezer}},
		{"thaw-done ok", Event{Kind: ThawDone}},
		{"oom", Event{Kind: OOM}},
		{"init-exited code=137", Event{Kind: InitExited, Status: Exited(137)}},
		{"init-exited signal=SIGKILL", Event{Kind: InitExited, Status: Signaled(signals.KILL)}},
		{"init-exited unknown", Event{Kind: InitExited}},
		{"cgroup-empty", Event{Kind: CgroupEmpty}},
		{"streams-drained", Event{Kind: StreamsDrained}},
		{"exit-recorded errno=28", Event{Kind: ExitRecorded, Errno: 28}},
		{"exit-command-done", Event{Kind: ExitCommandDone}},
		{"recovered", Event{Kind: Recovered}},
	} {
		if got := test.ev.String(); got != test.line {
			t.Errorf("%+v is written %q, want %q", test.ev, got, test.line)
		}
		got, err := ParseEvent(test.line)
		if err != nil || got != test.ev {
			t.Errorf("%q is read as %+v, %v; want %+v", test.line, got, err, test.ev)
		}
	}
}

// TestReplyText: every reply has a line that reads back as itself, and nothing
// else is taken for one.
func TestReplyText(t *testing.T) {
	for _, line := range []string{
		"reply #1 delivered", "reply #70000 joined", "reply #2 ended code=0", "reply #2 ended signal=SIGKILL", "reply #2 ended unknown",
		"reply #3 not-running", "reply #3 not-found", "reply #3 granted", "reply #3 refused", "reply #4 failed errno=110",
	} {
		e, err := ParseReply(line)
		if err != nil || string(e.Append(nil, 0)) != line {
			t.Errorf("%q is read as %+v, %v", line, e, err)
		}
	}
	for _, line := range []string{
		"", "reply", "reply #1", "reply #1 gone", "reply 1 delivered", "reply #1 delivered twice", "reply #1 ended", "reply #1 joined code=0",
		"deliver #1 SIGTERM to=init", "arm never",
	} {
		if e, err := ParseReply(line); err == nil {
			t.Errorf("%q is read as %+v", line, e)
		}
	}
}

// TestUnanswered: what was asked for is listed until it is answered.
func TestUnanswered(t *testing.T) {
	m := New(DefaultConfig())
	for _, step := range []struct{ event, unanswered string }{
		{"create-done ok", ""},
		{"start #9", ""},
		{"start-done ok", ""},
		{"signal #1 SIGHUP", "deliver #1 SIGHUP to=init"},
		{"stop #2 grace=10s", "deliver stop SIGTERM to=init; deliver #1 SIGHUP to=init"},
		{"delivered #1 SIGHUP ok", "deliver stop SIGTERM to=init"},
		{"delivered stop SIGTERM ok", ""},
		{"freezer frozen", "thaw"},
		{"thaw-done ok", ""},
		{"init-exited code=0", ""},
		{"cgroup-empty", ""},
		{"streams-drained", "record-exit code=0 in-grace"},
		{"exit-recorded ok", ""},
	} {
		ev, err := ParseEvent(step.event)
		if err != nil {
			t.Fatal(err)
		}
		m.Step(Instant(Second), ev)
		var lines []string
		for _, e := range m.Unanswered() {
			lines = append(lines, string(e.Append(nil, 0)))
		}
		if got := strings.Join(lines, "; "); got != step.unanswered {
			t.Errorf("after %q: %q, want %q", step.event, got, step.unanswered)
		}
	}
}

func TestParseEventRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"":                            "empty line where an event is wanted",
		"stops #1":                    `unknown event "stops"`,
		"stop #0":                     `stop: bad word "#0"`,
		"stop #1 grace=-1s":           `stop: bad word "grace=-1s"`,
		"stop #1 grace=soon":          `stop: bad word "grace=soon"`,
		"signal #1":                   `bad event`,
		"signal #1 SIGTERM frozen":    `bad event`,
		"signal #1 SIGWHAT":           `signal: bad word "SIGWHAT"`,
		"delivered stop SIGTERM":      `bad event`,
		"delivered stop TERM ok":      `bad event`,
		"create-done errno=0":         `create-done: bad word "errno=0"`,
		"init-exited code=256":        `init-exited: bad word "code=256"`,
		"deadline ok":                 `bad event`,
		"signal #1 SIGKILL force all": `bad event`,
	} {
		if ev, err := ParseEvent(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", line, ev, err, want)
		}
	}
}

// FuzzParseEvent: what is read is written back as the same words.
func FuzzParseEvent(f *testing.F) {
	for _, line := range []string{
		"create-done ok", "signal #1 SIGTERM all force", "stop #1 SIGINT grace=10s", "stop #7",
		"delivered kill SIGKILL errno=3", "init-exited signal=SIGKILL", "freezer thawed", "monitor-signal SIGRTMIN+3",
		"signal #1 SIGKILL by=/usr/bin/crio,812,4711,0,crio.service", "start #2 by=,0,0,0,", "stop #3 by=/a%20b%25,1,2,3,x%2C",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		ev, err := ParseEvent(line)
		if err != nil {
			return
		}
		if got, want := ev.String(), strings.Join(strings.Fields(line), " "); got != want {
			t.Errorf("%q is read as %q", want, got)
		}
		if again, err := ParseEvent(ev.String()); err != nil || again.String() != ev.String() {
			t.Errorf("%q is read as %+v, then as %+v, %v", line, ev, again, err)
		}
	})
}

func TestDurationText(t *testing.T) {
	for text, want := range map[string]Duration{
		"0s": 0, "10s": 10 * Second, "1500ms": 1500 * Millisecond, "20ns": 20, "-1s": -Second,
		"9223372036s": 9223372036 * Second,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q is read as %d, %v; want %d", text, got, err, want)
		}
		if got := want.String(); got != text {
			t.Errorf("%d is written %q, want %q", want, got, text)
		}
	}
	if got, err := ParseDuration("7us"); err != nil || got != 7000 {
		t.Errorf("7us is read as %d, %v", got, err)
	}
	for _, text := range []string{"", "s", "10", "1.5s", "10m", "9223372037s", "s10"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is read as %d, want an error", text, got)
		}
	}
}

// FuzzParseDuration: what is read survives being written and read again.
func FuzzParseDuration(f *testing.F) {
	for _, text := range []string{"10s", "1500ms", "-1ns", "7us", "9223372036s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err != nil {
			return
		}
		if again, err := ParseDuration(d.String()); err != nil || again != d {
			t.Errorf("%q is %d, written %q, read as %d, %v", text, d, d.String(), again, err)
		}
	})
}
