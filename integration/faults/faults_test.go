// Package faults shows that faults of a plan strike where the plan says, in real
// programs, and what becomes of a container then.
package faults

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"gracerun.io/faults"
	"gracerun.io/faults/plan"
	"gracerun.io/internal/testbed"
	"gracerun.io/recorder"
	"gracerun.io/signals"
	"gracerun.io/supervisor/history"
)

// workload answers each TERM with a line, and ends with status 5 at USR1.
const workload = `
trap 'say TERM' TERM
trap 'say bye; exit 5' USR1
say ready
while :; do sleep 3600 & wait $!; done
`

// A strike is a plan, and what to look for.
type strike struct {
	name, plan string
	check      func(t *testing.T, s *stage)
}

var strikes = []strike{
	{"a signal is dropped, and said to be delivered", "{at: effect.deliver, signal: TERM, do: drop, count: 1}",
		func(t *testing.T, s *stage) {
			s.mustRun()
			s.call(t, "", "kill", s.ID, "TERM")
			s.call(t, "", "kill", s.ID, "USR1")
			s.ends(t, "5")
			if n := s.sent(t, signals.TERM); n != 0 {
				t.Errorf("%d TERM were sent, want none", n)
			}
		}},
	{"a signal is sent twice", "{at: effect.deliver, signal: TERM, do: duplicate, count: 1}",
		func(t *testing.T, s *stage) {
			s.mustRun()
			s.call(t, "", "kill", s.ID, "TERM")
			s.call(t, "", "kill", s.ID, "USR1")
			s.ends(t, "5")
			if n := s.sent(t, signals.TERM); n != 2 {
				t.Errorf("%d TERM were sent, want two", n)
			}
		}},
	{"a signal cannot be sent, and its caller is told", "{at: effect.deliver, signal: TERM, do: error, errno: EPERM, count: 1}",
		func(t *testing.T, s *stage) {
			s.mustRun()
			s.call(t, "operation not permitted", "kill", s.ID, "TERM")
			s.call(t, "", "kill", s.ID, "TERM")
			if err := s.Await(s.ctx, "TERM"); err != nil {
				t.Error(err)
			}
		}},
	{"a reply is late", "{at: effect.reply, do: delay, delay: 400ms}",
		func(t *testing.T, s *stage) {
			s.mustRun()
			begin := testbed.Now()
			s.call(t, "", "kill", s.ID, "TERM")
			if took := testbed.Now() - begin; took < 400*time.Millisecond {
				t.Errorf("the call took %v", took)
			}
		}},
	{"the exit file meets a full disk, twice", "{at: effect.record-exit, do: error, errno: ENOSPC, count: 2}",
		func(t *testing.T, s *stage) {
			s.mustRun()
			s.call(t, "", "kill", s.ID, "USR1")
			s.ends(t, "5")
			s.journalHas(t, "exit-recorded errno=28", 2)
			s.journalHas(t, "exit-recorded ok", 1)
		}},
	{"the journal meets a full disk", "{at: write.journal, do: error, errno: ENOSPC, skip: 3, count: 2}",
		func(t *testing.T, s *stage) {
			s.mustRun()
			s.call(t, "", "kill", s.ID, "TERM")
			s.call(t, "", "kill", s.ID, "USR1")
			s.ends(t, "5")
		}},
	{"the log meets a full disk, twice", "{at: write.log, do: error, errno: ENOSPC, count: 2}", logIsWhole},
	{"the log's disk stays full", "{at: write.log, do: error, errno: ENOSPC}",
		func(t *testing.T, s *stage) {
			s.mustRun()
			s.call(t, "", "kill", s.ID, "USR1")
			s.ends(t, "5")
			if text, err := os.ReadFile(s.Log); err != nil || len(text) > 0 {
				t.Errorf("the log is %q, %v; want an empty one", text, err)
			}
		}},
	{"the supervisor kills itself before it writes to the log", "{at: write.log, do: crash, count: 1}", logGoesOn},
	{"the supervisor kills itself when it has written to the log", "{at: write.log, when: after, do: crash, count: 1}", logGoesOn},
	{"the supervisor kills itself instead of sending", "{at: effect.deliver, signal: TERM, do: crash}",
		func(t *testing.T, s *stage) {
			s.mustRun()
			pid := s.Monitor()
			_, _ = s.Call(s.ctx, "a test", "kill", s.ID, "TERM") // to a supervisor that dies of it
			if err := testbed.Until(s.ctx, "the supervisor is gone", func() bool {
				stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
				return err != nil || bytes.Contains(stat, []byte(") Z "))
			}); err != nil {
				t.Error(err)
			}
		}},
	{"the wrapped create fails", "{at: runtime.create, do: error, errno: EIO}",
		func(t *testing.T, s *stage) {
			err := s.Create(s.ctx)
			if err == nil || !strings.Contains(err.Error(), "container create failed") {
				t.Errorf("create: %v", err)
			}
		}},
	{"the wrapped start fails", "{at: runtime.start, do: error, errno: EIO}",
		func(t *testing.T, s *stage) {
			if err := s.Create(s.ctx); err != nil {
				t.Fatal(err)
			}
			s.call(t, "input/output error", "start", s.ID)
		}},
	{"the wrapped start is late", "{at: runtime.start, do: delay, delay: 400ms}",
		func(t *testing.T, s *stage) {
			if err := s.Create(s.ctx); err != nil {
				t.Fatal(err)
			}
			begin := testbed.Now()
			s.call(t, "", "start", s.ID)
			if took := testbed.Now() - begin; took < 400*time.Millisecond {
				t.Errorf("the call took %v", took)
			}
		}},
	{"a plan that makes no sense", senseless,
		func(t *testing.T, s *stage) {
			if err := s.Create(s.ctx); err == nil || !strings.Contains(err.Error(), "bad word") {
				t.Errorf("create: %v", err)
			}
		}},
}

// stage is a container of ours with a fault plan.
type stage struct {
	*testbed.Container
	t         *testing.T
	ctx       context.Context
	recording *recorder.Recorder
}

func TestFaultsStrike(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make these containers")
	}
	bin := t.TempDir()
	for _, why := range testbed.Build(bin, "gracemon", "gracerun") {
		t.Fatal(why)
	}
	stack := testbed.Ours(bin, "runc")
	if stack.Missing != "" {
		t.Skip(stack.Missing)
	}
	for _, strike := range strikes {
		t.Run(strike.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), testbed.Patience)
			defer cancel()
			recording, err := recorder.Start()
			if err != nil {
				t.Skip(err)
			}
			defer recording.Close()
			c, err := stack.New(t.TempDir(), testbed.Options{
				Workload: workload, Grace: 2 * time.Second, Env: []string{variable(t, strike.plan)},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Remove(); err != nil {
					t.Log(err) // what is left of a supervisor that was killed
				}
			}()
			strike.check(t, &stage{c, t, ctx, recording})
		})
	}
}

// logIsWhole: whatever strikes at the log, each line is in it once, in order.
func logIsWhole(t *testing.T, s *stage) {
	s.mustRun()
	s.call(t, "", "kill", s.ID, "TERM")
	if err := s.Await(s.ctx, "TERM"); err != nil {
		t.Fatal(err)
	}
	s.call(t, "", "kill", s.ID, "USR1")
	s.ends(t, "5")
	text, err := os.ReadFile(s.Log)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for line := range strings.Lines(string(text)) {
		said = append(said, strings.Fields(line)[3])
	}
	if got := strings.Join(said, " "); got != "ready TERM bye" {
		t.Errorf("the log says %q\n%s", got, text)
	}
}

// logGoesOn: the same, and another supervisor has seen to it.
func logGoesOn(t *testing.T, s *stage) {
	logIsWhole(t, s)
	s.journalHas(t, "recovered", 1)
}

const senseless = "effect.deliver do=sing"

// variable compiles a plan of one fault for the environment.
func variable(t *testing.T, fault string) string {
	if fault == senseless {
		return faults.Variable + "=" + fault
	}
	rules, err := plan.Parse([]byte("faults:\n  - " + fault + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return faults.Variable + "=" + plan.Compile(rules)
}

func (s *stage) mustRun() {
	s.t.Helper()
	if err := s.Create(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Start(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Await(s.ctx, "ready"); err != nil {
		s.t.Fatal(err)
	}
}

// call calls gracerun, which must say the words in its error, or work if there
// are none.
func (s *stage) call(t *testing.T, words string, args ...string) {
	t.Helper()
	_, err := s.Call(s.ctx, "a test", args...)
	switch {
	case words == "" && err != nil:
		t.Fatal(err)
	case words != "" && (err == nil || !strings.Contains(strings.ToLower(err.Error()), words)):
		t.Errorf("%v: %v; want an error with %q", args, err, words)
	}
}

// ends waits for the exit file.
func (s *stage) ends(t *testing.T, status string) {
	t.Helper()
	if err := s.AwaitExitFile(s.ctx); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(s.Exit); err != nil || string(text) != status {
		t.Errorf("the exit file has %q, %v; want %s", text, err, status)
	}
}

// sent counts the signals that the kernel saw.
func (s *stage) sent(t *testing.T, sig signals.Signal) (n int) {
	t.Helper()
	events, err := s.recording.Events(s.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, ev := range events {
		if ev.What == recorder.Generate && ev.Signal == sig {
			n++
		}
	}
	return n
}

func (s *stage) journalHas(t *testing.T, event string, want int) {
	t.Helper()
	n := 0
	err := testbed.Until(s.ctx, "the journal says so", func() bool {
		n = 0
		j, err := history.ReadDir(s.StateDir())
		if err != nil {
			return false
		}
		for _, r := range j.Records {
			if r.Event == event {
				n++
			}
		}
		return n >= want
	})
	if err != nil || n != want {
		t.Errorf("the journal has %q %d times, want %d (%v)", event, n, want, err)
	}
}
