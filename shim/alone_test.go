package shim

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

// lonely makes the state directory of a running container that has no supervisor,
// with init as its first process.
func lonely(t *testing.T, id string, init process.Identity) *statedir.Dir {
	t.Helper()
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	dir, err := statedir.Create("", id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	container, err := oci.NewContainer("/bin/false", t.TempDir(), id, &oci.Status{
		Style: oci.Runc, Pid: init.Pid, StartTime: init.StartTime, Created: "2026-08-19T12:00:00Z",
	})
	if err != nil {
		t.Fatal(err)
	}
	container.Init = init
	if err := oci.WriteContainer(dir, container); err != nil {
		t.Fatal(err)
	}
	if err := dir.WriteRecord(&statedir.Record{ID: id, Bundle: "/b", Runtime: "/bin/false", StopSignal: signals.TERM, Policy: "observe"}); err != nil {
		t.Fatal(err)
	}
	w, err := journal.Create(dir.FD(), lifecycle.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	m := lifecycle.New(w.Config())
	for _, ev := range []lifecycle.Event{{Kind: lifecycle.CreateDone}, {Kind: lifecycle.StartDone}} {
		if _, err := w.Step(m, now(), ev); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// stopping has a caller of that number ask for a stop whose signal arrives.
func stopping(t *testing.T, dir *statedir.Dir, id lifecycle.RequestID) {
	t.Helper()
	w, m, err := journal.Resume(dir.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, ev := range []lifecycle.Event{
		{Kind: lifecycle.StopRequest, Request: id, Grace: 3600 * lifecycle.Second},
		{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM},
	} {
		if _, err := w.Step(m, now(), ev); err != nil {
			t.Fatal(err)
		}
	}
}

// gone is a process that was reaped.
func gone(t *testing.T) process.Identity {
	t.Helper()
	cmd := exec.Command("/bin/cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := process.Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return id
}

// attended is a call that takes the machine.
func attended(t *testing.T, id string) *alone {
	t.Helper()
	a, err := parsed("stop "+id).attend(reopen(t, id), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.leave)
	return a
}

func reopen(t *testing.T, id string) *statedir.Dir {
	t.Helper()
	dir, err := statedir.Open("", id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

// A caller died while it waited, and its number is another process's by now: that
// one is not waited for.
func TestDeadCallerWhoseNumberIsReused(t *testing.T) {
	dir := lonely(t, "c", gone(t))
	stopping(t, dir, lifecycle.FirstRequest+lifecycle.RequestID(unix.Getppid())-1)
	if a := attended(t, "c"); a.machine.State() != lifecycle.Stopped {
		t.Errorf("the end of the container is left to a stranger: %v", a.machine.State())
	}
}

// A caller who waits has had a pidfd of init in time: the end is for it to tell. One
// who does not come to do so is not waited for any longer than patience.
func TestLiveCallerTellsOfTheEnd(t *testing.T) {
	dir := lonely(t, "c", gone(t))
	const id = lifecycle.FirstRequest + 7
	stopping(t, dir, id)
	waiter := &alone{dir: dir, self: id}
	if err := waiter.beginToWait(); err != nil {
		t.Fatal(err)
	}
	a := attended(t, "c")
	if a.machine.State() != lifecycle.Stopping {
		t.Errorf("the end is told by who cannot know the status: %v", a.machine.State())
	}
	a.defers -= lifecycle.Instant(patience)
	a.catchUp()
	if a.machine.State() != lifecycle.Stopped {
		t.Errorf("a caller who does not move is waited for: %v", a.machine.State())
	}
}

// Two callers never have one name: not even of two pid namespaces, or when the number
// of one who died is this process's.
func TestEachCallerHasItsOwnName(t *testing.T) {
	own, err := process.Identify(unix.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	dir := lonely(t, "c", own)
	first := lifecycle.FirstRequest + lifecycle.RequestID(unix.Getpid()) - 1
	stopping(t, dir, first)
	if a := attended(t, "c"); a.self != first+1 {
		t.Errorf("the name is %d, with %d taken", a.self, first)
	}
}

// Where no file can be made, as on a full or read-only file system, a container can be
// stopped and deleted all the same.
func TestNoRoomForLocks(t *testing.T) {
	cmd := exec.Command("/bin/cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // after its end was asked for
	init, err := process.Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	dir := lonely(t, "c", init)
	for _, name := range []string{callersFile, deleteLock} {
		if err := unix.Mkdirat(dir.FD(), name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	stop := lifecycle.Event{Kind: lifecycle.StopRequest, Grace: 3600 * lifecycle.Second}
	reply, err := parsed("stop c").askAlone(reopen(t, "c"), "c", stop)
	if err != nil || reply.Answer != control.Ended || reply.Exit != lifecycle.Signaled(signals.TERM) {
		t.Errorf("stop: %+v, %v", reply, err)
	}
	lock, err := parsed("delete c").beginDelete(reopen(t, "c"), "c", false)
	if err != nil || lock != -1 {
		t.Errorf("delete: %d, %v", lock, err)
	}
}
