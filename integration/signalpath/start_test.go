package signalpath

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
)

// delayExec has strace(1) delay the next program that a process executes.
func delayExec(t *testing.T, pid int, delay time.Duration) {
	t.Helper()
	strace := exec.Command("strace", "-f", "-o", "/dev/null", "-e", "trace=execve",
		"-e", "inject=execve:delay_enter="+strconv.FormatInt(delay.Microseconds(), 10)+":when=1", "-p", strconv.Itoa(pid))
	if err := strace.Start(); err != nil {
		t.Skip("no strace: " + err.Error())
	}
	t.Cleanup(func() {
		_ = strace.Process.Kill()
		_ = strace.Wait()
	})
	err := testbed.Until(patience(t), "strace has attached to init", func() bool {
		for _, thread := range threads(t, pid) {
			if thread == "0" {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// threads gives who traces each thread of a process, "0" for nobody.
func threads(t *testing.T, pid int) (tracers []string) {
	t.Helper()
	out, err := exec.Command("grep", "-h", "^TracerPid:", "-r", "/proc/"+strconv.Itoa(pid)+"/task/", "--include=status").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		tracers = append(tracers, strings.Fields(line)[1])
	}
	return tracers
}

// A stop signal that is sent when `start` has returned, and not a moment later,
// reaches the container's program, however late the runtime's init executes it.
func TestSignalRightAfterStart(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		for _, delay := range []time.Duration{0, 700 * time.Millisecond} {
			for _, args := range [][]string{{"stop", "ID"}, {"kill", "ID", "TERM"}, {"kill", "--all", "ID", "TERM"}} {
				t.Run(strings.Join(args, " ")+", program after "+delay.String(), func(t *testing.T) {
					t.Parallel()
					c := create(t, p, testbed.Options{Workload: orderly, Grace: time.Minute})
					ctx := patience(t)
					if delay > 0 {
						delayExec(t, c.Pid, delay)
					}
					if err := c.Start(ctx); err != nil {
						t.Fatal(err)
					}
					got := call(t, c, gracerun(), strings.Split(strings.ReplaceAll(strings.Join(args, " "), "ID", c.ID), " ")...)
					if want := map[string]int{"stop": 7}[args[0]]; got.code != want {
						t.Errorf("%v: %+v, want code %d", args, got, want)
					}
					if err := c.AwaitEnd(ctx); err != nil {
						t.Fatal(err)
					}
					if status := c.LastStatus(); status != 7 && status != -1 {
						t.Errorf("it ended with %d: its program has not heard the signal", status)
					}
				})
			}
		}
	})
}

// What is started before the create has returned, as by who polls `state`, is known to
// be running; nobody deletes it without force.
func TestStartBeforeCreateReturns(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		c, err := p.stack.New(t.TempDir(), testbed.Options{
			Workload: orderly, Grace: time.Minute,
			Trouble: &testbed.Trouble{Command: "create", Do: "linger", For: 2 * time.Second},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { call(t, c, gracerun(), "delete", "--force", c.ID) })
		ctx := patience(t)
		created := make(chan error, 1)
		go func() { created <- c.Create(ctx) }()
		err = testbed.Until(ctx, "there is a container", func() bool {
			text, err := c.Call(ctx, "client", "state", c.ID)
			return err == nil && strings.Contains(text, `"status": "creat`)
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Call(ctx, "client", "start", c.ID); err != nil {
			t.Errorf("start: %v", err)
		}
		if err := <-created; err != nil {
			t.Fatal(err)
		}
		if err := c.Await(ctx, "ready"); err != nil {
			t.Fatal(err)
		}
		if got := call(t, c, gracerun(), "state", c.ID); !strings.Contains(got.stdout, `"status": "running"`) {
			t.Errorf("state of a container that runs: %+v", got)
		}
		if got := call(t, c, gracerun(), "delete", c.ID); got.code == 0 {
			t.Errorf("it is deleted while it runs: %+v", got)
		}
		if exited, err := c.Init.Exited(); exited || err != nil {
			t.Fatalf("it was killed by a delete that is not forced (%v)", err)
		}
		if got := call(t, c, gracerun(), "stop", c.ID); got.code != 7 {
			t.Errorf("stop: %+v", got)
		}
	})
}

// The runtime's start can be over, and its caller dead, before init has executed the
// program: the signal waits all the same.
func TestSignalAfterADeadStart(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		if !strings.Contains(p.name, "gracerun over") {
			t.Skip("without gracerun no start is asked for")
		}
		c := create(t, p, testbed.Options{Workload: orderly, Grace: time.Minute})
		ctx := patience(t)
		delayExec(t, c.Pid, 700*time.Millisecond)
		// gracerun, and not the runtime, dies: after its start, before it has said so.
		got, err := try(ctx, c, gracerun(), []string{"GRACERUN_FAULTS=runtime.start after do=crash"}, "start", c.ID)
		if err != nil || got.code == 0 {
			t.Fatalf("start with a fault: %+v, %v", got, err)
		}
		if got := call(t, c, gracerun(), "stop", c.ID); got.code != 7 {
			t.Errorf("stop: %+v", got)
		}
	})
}

// A delete that is not forced, while a start is under way, waits for its end: to the
// runtime the container may seem to be a created one still, which it would kill.
func TestDeleteDuringStart(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		if !strings.Contains(p.name, "gracerun over") {
			t.Skip("without gracerun no start is asked for")
		}
		c := create(t, p, testbed.Options{
			Workload: orderly, Grace: time.Minute,
			Trouble: &testbed.Trouble{Command: "start", Do: "delay", For: time.Second},
		})
		ctx := patience(t)
		started := make(chan error, 1)
		go func() { started <- c.Start(ctx) }()
		err := testbed.Until(ctx, "the start is under way", func() bool {
			return strings.Contains(call(t, c, gracerun(), "trace", c.ID).stdout, "granted")
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := call(t, c, gracerun(), "delete", c.ID); got.code == 0 {
			t.Errorf("it is deleted: %+v", got)
		}
		if err := <-started; err != nil {
			t.Errorf("start: %v", err)
		}
		if got := call(t, c, gracerun(), "stop", c.ID); got.code != 7 {
			t.Errorf("stop: %+v", got)
		}
	})
}
