//go:build linux && (amd64 || arm64)

package monitor

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/signals/process"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/keeper"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// passed gives what a container's next program would be told by these variables.
func passed(c *Container) map[string]string {
	env, _ := c.passOn(nil)
	told := map[string]string{}
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		told[name] = value
	}
	return told
}

func newWaking(t *testing.T) *Container {
	t.Helper()
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	c := &Container{s: &Supervisor{loop: l, children: map[int]func(){}}, o: &cmdline.Options{ID: "waking", Bundle: t.TempDir()}, notes: new(notes)}
	c.prepare()
	c.streams.ours = [3]int{-1, -1, -1}
	c.machine = lifecycle.New(lifecycle.DefaultConfig())
	return c
}

// What listens for the end of somebody else's child hears of it while the
// supervisor sleeps.
func TestSleeperHearsOfInitsEnd(t *testing.T) {
	c := newWaking(t)
	var err error
	if c.init.watch, err = process.WatchExit(os.Getpid()); err != nil {
		t.Skip("only root in the first namespaces hears of other processes: ", err)
	}
	defer c.init.watch.Close()
	fd := number(strings.TrimPrefix(passed(c)[keeper.KeptVariable], exitsName+"="))
	if fd != c.init.watch.FD() {
		t.Fatalf("the next program gets %q, want the descriptor of what listens", passed(c)[keeper.KeptVariable])
	}
	if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	woken := newWaking(t)
	woken.init.pid = os.Getpid()
	if woken.init.pidfd, err = process.Open(woken.init.pid); err != nil {
		t.Fatal(err)
	}
	woken.lookAfter(&heritage{kept: map[string]int{exitsName: fd}})
	defer woken.census.Close()
	defer woken.closeOOM()
	if woken.init.watch == nil || woken.init.watch.FD() != fd {
		t.Error("who was woken does not go on with it")
	}
	woken.init.watch.Close()
}

// An init whose end wakes the supervisor has left its cgroup, and that may have
// been removed, which counts as one event (cgroup v1). Nobody was killed for memory.
func TestRemovedCgroupIsNoOOM(t *testing.T) {
	asleep := newWaking(t)
	asleep.oom.events = "/nowhere/cgroup.event_control"
	init := exec.Command("/bin/true")
	if err := init.Start(); err != nil {
		t.Fatal(err)
	}
	defer init.Wait()
	c := newWaking(t)
	c.init.pid = init.Process.Pid
	var err error
	if c.init.pidfd, err = process.Open(c.init.pid); err != nil {
		t.Fatal(err)
	}
	defer c.init.pidfd.Close()
	fds := []unix.PollFd{{Fd: int32(c.init.pidfd), Events: unix.POLLIN}}
	for n := 0; n == 0; {
		if n, err = unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	if c.oom.fd, err = unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	c.oom.events = passed(asleep)[oomVariable]
	c.watchOOM()
	c.checkOOM()
	c.closeOOM()
	if _, err := os.Stat(c.o.Bundle + "/oom"); err == nil {
		t.Error("it says that its memory ran out")
	}
	if slices.ContainsFunc(c.events, func(ev lifecycle.Event) bool { return ev.Kind == lifecycle.OOM }) {
		t.Error("the machine is told that it was killed for memory")
	}
}
