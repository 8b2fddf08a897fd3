package signalpath

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
	"gracerun.io/recorder"
	"gracerun.io/signals"
)

// supervised runs a test with two pairings under gracemon, which gracerun asks: what
// gracerun does then does not depend on who has made the container.
func supervised(t *testing.T, test func(t *testing.T, p pairing)) {
	for _, p := range pairings(t) {
		if p.name != "gracemon and gracerun over crun" && p.name != "gracemon and runc" {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			if p.stack.Missing != "" {
				t.Skip(p.stack.Missing)
			}
			test(t, p)
		})
	}
}

// stuck stops the container's supervisor, as a debugger or a freezer would. What it
// gives has it go on, at the end of the test at last.
func stuck(t *testing.T, c *testbed.Container) (goOn func()) {
	t.Helper()
	pid := c.Monitor()
	if pid == 0 {
		t.Fatal("no monitor is known")
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn = sync.OnceFunc(func() { _ = unix.Kill(pid, unix.SIGCONT) })
	t.Cleanup(goOn)
	return goOn
}

// soon is how long a call may take whose supervisor does not answer, beside what it
// has to wait for: a second, and what a loaded machine makes of it.
const soon = 8 * time.Second

// within calls gracerun, which must end in time.
func within(t *testing.T, c *testbed.Container, limit time.Duration, args ...string) result {
	t.Helper()
	begin := time.Now()
	got := call(t, c, gracerun(), args...)
	if took := time.Since(begin); took > limit {
		t.Errorf("%v took %v, want %v at most", args, took, limit)
	}
	return got
}

// saysSo checks that the caller was told what was done without whom.
func saysSo(t *testing.T, got result) {
	t.Helper()
	if !strings.Contains(got.stderr, "supervisor") || !strings.Contains(got.stderr, "does not answer") || !strings.Contains(got.stderr, "stopped") {
		t.Errorf("stderr does not say that the supervisor is stopped and does not answer: %q", got.stderr)
	}
}

// count expects that a signal was sent to init so often.
func count(t *testing.T, r *recorder.Recorder, c *testbed.Container, sig signals.Signal, want int) {
	t.Helper()
	if n := sent(t, r, c.Pid, sig); n != want {
		t.Errorf("%v was sent to init %d times, want %d", sig, n, want)
	}
}

// initEnds waits for the end of init, which its stopped supervisor does not reap.
func initEnds(t *testing.T, c *testbed.Container) {
	t.Helper()
	if err := testbed.Until(patience(t), "init has ended", func() bool { return c.Ended() != 0 }); err != nil {
		t.Fatal(err)
	}
}

func TestKillBesideAStuckSupervisor(t *testing.T) {
	supervised(t, func(t *testing.T, p pairing) {
		r := record(t)
		c := start(t, p, testbed.Options{Workload: deaf, Grace: 30 * time.Second})
		goOn := stuck(t, c)
		if got := within(t, c, soon, "state", c.ID); !strings.Contains(got.stdout, `"status": "running"`) {
			t.Errorf("state: %+v", got)
		}
		for range 2 {
			got := within(t, c, soon, "kill", c.ID, "USR1")
			if got.code != 0 {
				t.Errorf("kill USR1: %+v", got)
			}
			saysSo(t, got)
		}
		if got := within(t, c, soon, "kill", c.ID, "TERM"); got.code != 0 {
			t.Errorf("kill TERM: %+v", got)
		}
		count(t, r, c, signals.USR1, 2)
		count(t, r, c, signals.TERM, 1)
		if got := call(t, c, gracerun(), "trace", c.ID); strings.Count(got.stdout, "deliver #") < 2 || !strings.Contains(got.stdout, "deliver stop SIGTERM") {
			t.Errorf("trace: %+v", got)
		}

		// The supervisor finds the requests that it did not answer, and what was done.
		goOn()
		if err := c.Await(patience(t), "TERM"); err != nil {
			t.Error(err)
		}
		if got := within(t, c, soon, "kill", c.ID, "USR2"); got.code != 0 {
			t.Errorf("kill USR2: %+v", got)
		}
		count(t, r, c, signals.USR1, 2)
		count(t, r, c, signals.TERM, 1)
		if got := call(t, c, gracerun(), "trace", c.ID); !strings.Contains(got.stdout, "deliver stop SIGTERM") {
			t.Errorf("the supervisor has not heard of what was done: %+v", got)
		}
	})
}

func TestKillKillBesideAStuckSupervisor(t *testing.T) {
	supervised(t, func(t *testing.T, p pairing) {
		c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Minute})
		goOn := stuck(t, c)
		got := within(t, c, soon, "kill", c.ID, "KILL")
		if got.code != 0 {
			t.Fatalf("kill KILL: %+v", got)
		}
		saysSo(t, got)
		initEnds(t, c)
		if got := within(t, c, soon, "kill", c.ID, "KILL"); got.code != 1 || !strings.Contains(got.stderr, "not running") {
			t.Errorf("a kill after the end: %+v", got)
		}
		goOn()
		if err := c.AwaitExitFile(patience(t)); err != nil {
			t.Error(err)
		}
		if got := c.LastStatus(); got != 137 {
			t.Errorf("the exit file has %d", got)
		}
	})
}

func TestStopBesideAStuckSupervisor(t *testing.T) {
	supervised(t, func(t *testing.T, p pairing) {
		for _, test := range []struct {
			name, workload string
			args           []string
			want           result
			least          time.Duration
		}{
			{"in grace", orderly, nil, result{stdout: "code=7\n", code: 7}, 0},
			{"at the deadline", deaf, []string{"--timeout", "3"}, result{stdout: "signal=9\n", code: 137}, 3 * time.Second},
		} {
			t.Run(test.name, func(t *testing.T) {
				r := record(t)
				c := start(t, p, testbed.Options{Workload: test.workload, Grace: time.Minute})
				stuck(t, c)
				ctx := patience(t)
				begin := testbed.Now()
				atOnce(t, 3, func(int) error {
					got, err := try(ctx, c, gracerun(), nil, append(append([]string{"stop"}, test.args...), c.ID)...)
					if err != nil || got.code != test.want.code || got.stdout != test.want.stdout {
						t.Errorf("stop: %+v, %v; want %+v", got, err, test.want)
					}
					saysSo(t, got)
					return nil
				})
				if took := testbed.Now() - begin; took < test.least || took > test.least+soon {
					t.Errorf("it took %v, with a grace of %v", took, test.least)
				}
				count(t, r, c, signals.TERM, 1)
			})
		}
	})
}

// A supervisor that goes on in the middle of a stop goes on with that stop.
func TestStuckSupervisorComesBack(t *testing.T) {
	supervised(t, func(t *testing.T, p pairing) {
		r := record(t)
		c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Minute})
		goOn := stuck(t, c)
		ctx := patience(t)
		begin := testbed.Now()
		answered := make(chan result, 1)
		go func() {
			got, err := try(ctx, c, gracerun(), nil, "stop", "--timeout", "6", c.ID)
			if err != nil {
				t.Error(err)
			}
			answered <- got
		}()
		delivered := func() bool {
			text, _ := os.ReadFile(c.StateDir() + "/journal.beside")
			return strings.Contains(string(text), "delivered stop SIGTERM")
		}
		if err := testbed.Until(ctx, "TERM was sent", delivered); err != nil {
			t.Fatal(err)
		}
		goOn()
		if got := <-answered; got.code != 137 || got.stdout != "signal=9\n" {
			t.Errorf("stop: %+v", got)
		}
		if took := testbed.Now() - begin; took < 6*time.Second || took > 6*time.Second+soon {
			t.Errorf("it took %v, with a grace of 6s", took)
		}
		count(t, r, c, signals.TERM, 1)
		if err := c.AwaitExitFile(ctx); err != nil {
			t.Error(err)
		}
	})
}

// Policy enforce is kept by whoever acts: SIGKILL waits for the grace period that the
// supervisor has opened before it was stuck.
func TestEnforceBesideAStuckSupervisor(t *testing.T) {
	supervised(t, func(t *testing.T, p pairing) {
		r := record(t)
		c := start(t, p, testbed.Options{Workload: deaf, Grace: 5 * time.Second, Policy: "enforce"})
		begin := testbed.Now()
		if got := call(t, c, gracerun(), "kill", c.ID, "TERM"); got.code != 0 {
			t.Fatalf("kill TERM: %+v", got)
		}
		stuck(t, c)
		if got := within(t, c, soon, "kill", c.ID, "TERM"); got.code != 0 {
			t.Errorf("a second TERM: %+v", got)
		}
		if got := within(t, c, 5*time.Second+soon, "kill", c.ID, "KILL"); got.code != 0 {
			t.Errorf("kill KILL: %+v", got)
		}
		if took := testbed.Now() - begin; took < 5*time.Second {
			t.Errorf("SIGKILL came %v after TERM, with a grace of 5s", took)
		}
		count(t, r, c, signals.TERM, 1)
		count(t, r, c, signals.KILL, 1)
	})
}

// Nothing that is done to a container waits for a supervisor that does not answer.
func TestEverythingElseBesideAStuckSupervisor(t *testing.T) {
	supervised(t, func(t *testing.T, p pairing) {
		c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Minute})
		stuck(t, c)
		for _, command := range []string{"pause", "resume"} {
			if got := within(t, c, soon, command, c.ID); got.code != 0 {
				t.Errorf("%s: %+v", command, got)
			}
		}
		if got := within(t, c, soon, "start", c.ID); got.code == 0 {
			t.Errorf("start of a container that runs: %+v", got)
		}
		if got := within(t, c, soon, "delete", c.ID); got.code == 0 {
			t.Errorf("delete of a container that runs: %+v", got)
		}
		if got := within(t, c, soon, "delete", "--force", c.ID); got.code != 0 {
			t.Errorf("delete --force: %+v", got)
		}
		initEnds(t, c)
	})
}

// More callers than the supervisor's socket has room for: none waits for ever.
func TestManyBesideAStuckSupervisor(t *testing.T) {
	for _, p := range pairings(t)[:1] {
		r := record(t)
		c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Minute})
		goOn := stuck(t, c)
		const callers = 80
		ctx, cancel := context.WithTimeout(context.Background(), testbed.Patience)
		defer cancel()
		atOnce(t, callers, func(int) error {
			if got, err := try(ctx, c, gracerun(), nil, "kill", c.ID, "USR1"); err != nil || got.code != 0 {
				t.Errorf("kill: %+v, %v", got, err)
			}
			return nil
		})
		count(t, r, c, signals.USR1, callers)
		goOn()
		if got := call(t, c, gracerun(), "kill", c.ID, "USR2"); got.code != 0 {
			t.Errorf("kill USR2: %+v", got)
		}
		count(t, r, c, signals.USR1, callers)
	}
}
