package signalpath

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
	"gracerun.io/recorder"
	"gracerun.io/signals"
)

// deaf says what it hears and goes on.
const deaf = `
trap 'say TERM' TERM; trap 'say USR1' USR1
say ready
while :; do sleep 1000 & wait $!; done`

// orderly ends with status 7 on TERM.
const orderly = `
trap 'say TERM; exit 7' TERM
say ready
while :; do sleep 1000 & wait $!; done`

// record has the kernel say which signals were sent.
func record(t *testing.T) *recorder.Recorder {
	r, err := recorder.Start()
	if err != nil {
		t.Skipf("the kernel's trace of signals cannot be had here: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// sent counts how often a signal was sent to init, by whomever.
func sent(t *testing.T, r *recorder.Recorder, pid int, sig signals.Signal) (n int) {
	t.Helper()
	events, err := r.Events(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, ev := range events {
		if ev.What == recorder.Generate && ev.Signal == sig && ev.Pid == pid {
			n++
		}
	}
	return n
}

// Every kill of hundreds reaches init once (I3), every caller is told so (I5), and
// every state asked meanwhile is true.
func TestEachSignalOnce(t *testing.T) {
	each(t, false, func(t *testing.T, p pairing) {
		r := record(t)
		c := start(t, p, testbed.Options{Workload: deaf, Grace: 30 * time.Second})
		const kills, states = 150, 50
		ctx := patience(t)
		atOnce(t, kills+states, func(i int) error {
			if i%4 == 3 {
				got, err := try(ctx, c, gracerun(), nil, "state", c.ID)
				if err != nil || got.code != 0 || !strings.Contains(got.stdout, `"status": "running"`) ||
					!strings.Contains(got.stdout, fmt.Sprintf(`"pid": %d`, c.Pid)) {
					return fmt.Errorf("state: %+v, %v", got, err)
				}
				return nil
			}
			got, err := try(ctx, c, gracerun(), nil, "kill", c.ID, "USR1")
			if err != nil || got != (result{}) {
				return fmt.Errorf("kill: %+v, %v", got, err)
			}
			return nil
		})
		if n := sent(t, r, c.Pid, signals.USR1); n != kills {
			t.Errorf("%d kills, and %d signals were sent", kills, n)
		}
	})
}

// Under enforce a hundred TERMs are one, and no KILL of several callers comes
// before the grace period is over; the callers wait for it. The period is an hour
// until all of them wait, so that no machine is too slow for the test.
func TestEnforce(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		r := record(t)
		c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Hour, Policy: "enforce"})
		ctx := patience(t)
		atOnce(t, 100, func(int) error { return succeed(ctx, c, "kill", c.ID, "TERM") })
		if n := sent(t, r, c.Pid, signals.TERM); n != 1 {
			t.Errorf("TERM was sent %d times", n)
		}
		const kills = 8
		var callers sync.WaitGroup
		for range kills {
			callers.Go(func() {
				if err := succeed(ctx, c, "kill", c.ID, "KILL"); err != nil {
					t.Error(err)
				}
			})
		}
		awaitHeld(t, c, kills)
		if exited, err := c.Init.Exited(); exited || err != nil {
			t.Errorf("init has exited, with all KILLs held: %t, %v", exited, err)
		}
		begin := testbed.Now()
		if got := call(t, c, gracerun(), "stop", "--timeout", "1", c.ID); got.code != 137 && !(p.forgets && got == late) {
			t.Errorf("stop: %+v", got)
		}
		callers.Wait()
		if err := c.AwaitEnd(ctx); err != nil {
			t.Fatal(err)
		}
		if took := c.Ended() - begin; took < time.Second {
			t.Errorf("killed after %v, with a grace of 1s", took)
		}
	})
}

// succeed calls gracerun and wants it to say nothing, but that SIGKILL is held.
func succeed(ctx context.Context, c *testbed.Container, args ...string) error {
	got, err := try(ctx, c, gracerun(), nil, args...)
	if strings.Contains(got.stderr, "SIGKILL is held by its policy") && strings.Count(got.stderr, "\n") == 1 {
		got.stderr = ""
	}
	if err == nil && got != (result{}) {
		err = fmt.Errorf("%+v", got)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return err
}

var askedToKill = regexp.MustCompile(`signal #[0-9]+ SIGKILL( |\n)`)

// awaitHeld waits until so many KILLs wait for the end of the grace period.
func awaitHeld(t *testing.T, c *testbed.Container, n int) {
	t.Helper()
	if err := testbed.Until(patience(t), "KILLs are held", func() bool {
		return len(askedToKill.FindAllString(call(t, c, gracerun(), "trace", c.ID).stdout, -1)) >= n
	}); err != nil {
		t.Fatal(err)
	}
}

// A bare TERM has its grace period too: a KILL waits until it has lapsed.
func TestKillAfterTerm(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		const grace = 2 * time.Second
		c := start(t, p, testbed.Options{Workload: deaf, Grace: grace, Policy: "enforce"})
		begin := testbed.Now() // not after the first TERM is delivered, from when the period counts
		for _, sig := range []string{"TERM", "KILL"} {
			if err := succeed(patience(t), c, "kill", c.ID, sig); err != nil {
				t.Error(err)
			}
		}
		if err := c.AwaitEnd(patience(t)); err != nil {
			t.Fatal(err)
		}
		if lived := c.Ended() - begin; lived < grace {
			t.Errorf("killed %v after TERM, with a grace of %v", lived, grace)
		}
	})
}

// --force passes at once.
func TestForce(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Hour, Policy: "enforce"})
		for _, args := range [][]string{{"kill", c.ID, "TERM"}, {"kill", "--force", c.ID, "KILL"}} {
			if got := call(t, c, gracerun(), args...); got != (result{}) {
				t.Errorf("%v: %+v", args, got)
			}
		}
		if err := c.AwaitEnd(patience(t)); err != nil {
			t.Error(err)
		}
	})
}

// A caller who is killed while its KILL is held takes nothing with it: others are
// answered, and the container is signalled on.
func TestCallerDies(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		r := record(t)
		c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Hour, Policy: "enforce"})
		if got := call(t, c, gracerun(), "kill", c.ID, "TERM"); got != (result{}) {
			t.Fatalf("kill TERM: %+v", got)
		}
		ctx, cancel := context.WithCancel(patience(t))
		first := make(chan error)
		go func() { first <- succeed(ctx, c, "kill", c.ID, "KILL") }()
		second := make(chan error)
		go func() { second <- succeed(patience(t), c, "kill", c.ID, "KILL") }()
		awaitHeld(t, c, 2)
		cancel() // kills the first
		<-first
		if got := call(t, c, gracerun(), "kill", c.ID, "USR1"); got != (result{}) {
			t.Errorf("kill USR1: %+v", got)
		}
		if got := call(t, c, gracerun(), "stop", "--timeout", "1", c.ID); got.code != 137 && !(p.forgets && got == late) {
			t.Errorf("stop: %+v", got)
		}
		if err := <-second; err != nil {
			t.Errorf("the second caller: %v", err)
		}
		if err := c.AwaitEnd(patience(t)); err != nil {
			t.Error(err)
		}
		if n := sent(t, r, c.Pid, signals.TERM); n != 1 {
			t.Errorf("TERM was sent %d times", n)
		}
	})
}

// late is what stop says of a container that has ended and whose status nobody has
// kept.
var late = result{stdout: "unknown\n", code: 255}

// stop owns the whole stop and gives the status, whoever else signals.
func TestStop(t *testing.T) {
	each(t, false, func(t *testing.T, p pairing) {
		for _, test := range []struct {
			name, workload string
			args           []string
			want           result
			least          time.Duration
		}{
			{"in grace", orderly, nil, result{stdout: "code=7\n", code: 7}, 0},
			{"at the deadline", deaf, []string{"--timeout", "1"}, result{stdout: "signal=9\n", code: 137}, time.Second},
			{"without grace", deaf, []string{"-t=0"}, result{stdout: "signal=9\n", code: 137}, 0},
			{"another signal", strings.Replace(orderly, "exit 7' TERM", "exit 9' QUIT", 1), []string{"--signal=SIGQUIT"}, result{stdout: "code=9\n", code: 9}, 0},
		} {
			t.Run(test.name, func(t *testing.T) {
				c := start(t, p, testbed.Options{Workload: test.workload, Grace: time.Minute})
				begin := testbed.Now()
				ctx := patience(t)
				var stopped atomic.Int32
				atOnce(t, 5, func(int) error {
					got, err := try(ctx, c, gracerun(), nil, append(append([]string{"stop"}, test.args...), c.ID)...)
					switch {
					case err == nil && got == test.want:
						stopped.Add(1)
						return nil
					case err == nil && got == late && p.forgets:
						return nil
					}
					return fmt.Errorf("stop: %+v, %v; want %+v", got, err, test.want)
				})
				if stopped.Load() == 0 {
					t.Error("nobody was told the status")
				}
				if took := testbed.Now() - begin; took < test.least {
					t.Errorf("after %v, with a grace of %v", took, test.least)
				}
				if got := call(t, c, gracerun(), "stop", c.ID); got != test.want && !(p.forgets && got == late) {
					t.Errorf("once more: %+v; want %+v", got, test.want)
				}
			})
		}
	})
}

// A stop of a frozen container thaws it, so that it can act on its signal (I11).
func TestStopPaused(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		c := start(t, p, testbed.Options{Workload: orderly, Grace: time.Minute})
		if got := call(t, c, gracerun(), "pause", c.ID); got != (result{}) {
			t.Fatalf("pause: %+v", got)
		}
		if got := call(t, c, gracerun(), "state", c.ID); !strings.Contains(got.stdout, `"status": "paused"`) {
			t.Errorf("state of a paused container: %+v", got)
		}
		if got := call(t, c, gracerun(), "stop", c.ID); got.code != 7 {
			t.Errorf("stop: %+v", got)
		}
	})
}

// --all reaches every process of the container, once.
func TestAll(t *testing.T) {
	each(t, false, func(t *testing.T, p pairing) {
		c := start(t, p, testbed.Options{Grace: time.Minute, Workload: `
			(trap 'say child' USR1; say child-ready; while :; do sleep 1000 & wait $!; done) &
			trap 'say init' USR1
			say ready
			while :; do sleep 1000 & wait $!; done`})
		ctx := patience(t)
		if err := c.Await(ctx, "child-ready"); err != nil {
			t.Fatal(err)
		}
		if got := call(t, c, gracerun(), "kill", "--all", c.ID, "USR1"); got != (result{}) {
			t.Fatalf("kill --all: %+v", got)
		}
		for _, line := range []string{"init\n", "child\n"} {
			if err := c.Await(ctx, line); err != nil {
				t.Error(err)
			}
		}
	})
}

// In the end: kills find nobody, one of several deletes wins, and nothing is left.
func TestDeleteAtOnce(t *testing.T) {
	each(t, false, func(t *testing.T, p pairing) {
		c := start(t, p, testbed.Options{Workload: orderly, Grace: time.Minute})
		ctx := patience(t)
		var deleted atomic.Int32
		atOnce(t, 48, func(i int) error {
			args := [][]string{
				{"kill", c.ID, "KILL"}, {"state", c.ID}, {"kill", c.ID, "TERM"}, {"delete", "--force", c.ID}, {"kill", c.ID, "0"}, {"state", c.ID},
			}[i%6]
			got, err := try(ctx, c, gracerun(), nil, args...)
			switch {
			case err != nil:
				return err
			case got.code == 0 && args[0] == "delete":
				deleted.Add(1)
			case got.code == 0 && args[0] == "state" && json.Valid([]byte(got.stdout)):
			case got.code == 0 && got == (result{}):
			case got.code == 1 && got.stdout == "" && isGone(got.stderr):
			default:
				return fmt.Errorf("%v: %+v", args, got)
			}
			return nil
		})
		if deleted.Load() == 0 {
			t.Error("no delete has worked")
		}
		if got := call(t, c, gracerun(), "state", c.ID); got.code != 1 || !isGone(got.stderr) {
			t.Errorf("afterwards state says %+v", got)
		}
		if exited, err := c.Init.Exited(); !exited {
			t.Errorf("init lives on: %v", err)
		}
		if left := c.Leftovers(); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
	})
}

// isGone: the words by which callers know that a container is gone or going.
// Those of a crun that looks while its files are being removed are among them.
func isGone(text string) bool {
	for _, words := range []string{"does not exist", "not running", "No such file or directory", "no such file or directory", "No such process", "is not in `created` or `stopped`", "error loading `", "error loading config.json"} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

// A caller whose SIGKILL is held is told so after a second, once, and what would not
// wait. The opener's own is not held.
func TestHeldCallerIsTold(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Hour})
		if got := call(t, c, gracerun(), "kill", c.ID, "TERM"); got != (result{}) {
			t.Fatalf("kill TERM: %+v", got)
		}
		ctx := patience(t)
		kill := c.Command(ctx, gracerun(), "kill", c.ID, "KILL")
		other := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `"$@"; exit $?`, "somebody-else"}, kill.Args...)...)
		other.Env, other.Dir = kill.Env, kill.Dir
		var said lockedText
		other.Stderr = &said
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		if err := testbed.Until(ctx, "somebody else is told", func() bool { return strings.HasSuffix(said.String(), "\n") }); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(said.String(), "SIGKILL is held by its policy until the grace period is over, in 3") || !strings.Contains(said.String(), "--force") {
			t.Errorf("somebody else was told %q", said.String())
		}
		if got := call(t, c, gracerun(), "kill", c.ID, "KILL"); got != (result{}) {
			t.Errorf("kill KILL of the opener: %+v", got)
		}
		if err := other.Wait(); err != nil {
			t.Errorf("somebody else: %v", err)
		}
		if strings.Count(said.String(), "\n") != 1 {
			t.Errorf("somebody else was told %q", said.String())
		}
		if err := c.AwaitEnd(ctx); err != nil {
			t.Error(err)
		}
	})
}

// lockedText is what a program says while it runs.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// However a root is written it is one: nobody gets around the policy by a link, or by a
// path with more of it.
func TestOneRootHoweverItIsWritten(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Hour, Policy: "enforce"})
		if got := call(t, c, gracerun(), "kill", c.ID, "TERM"); got != (result{}) {
			t.Fatalf("kill TERM: %+v", got)
		}
		link := t.TempDir() + "/link"
		if err := os.Symlink(c.Root(), link); err != nil {
			t.Fatal(err)
		}
		for n, root := range []string{link, c.Root() + "/../" + filepath.Base(c.Root()) + "/."} {
			ctx, cancel := context.WithCancel(patience(t))
			kill := c.Command(ctx, gracerun(), "kill", c.ID, "KILL")
			for i, arg := range kill.Args {
				if arg == "--root" {
					kill.Args[i+1] = root
				}
			}
			if err := kill.Start(); err != nil {
				t.Fatal(err)
			}
			awaitHeld(t, c, n+1)
			cancel()
			_ = kill.Wait()
		}
		if exited, err := c.Init.Exited(); exited || err != nil {
			t.Errorf("init has exited, with all KILLs held: %t, %v", exited, err)
		}
		if got := call(t, c, gracerun(), "kill", "--force", c.ID, "KILL"); got != (result{}) {
			t.Errorf("kill --force: %+v", got)
		}
	})
}
