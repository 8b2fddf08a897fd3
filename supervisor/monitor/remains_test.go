//go:build linux && (amd64 || arm64)

package monitor

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/signals/process"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// creating is a container whose runtime is that script.
func creating(t *testing.T, runtime, create string) *Container {
	t.Helper()
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &Supervisor{loop: l, children: map[int]func(){}, creating: 1}
	c := &Container{s: s, o: &cmdline.Options{ID: "half", Runtime: runtime}, notes: new(notes), env: os.Environ()}
	c.prepare()
	c.parent.none()
	c.streams.ours = [3]int{-1, -1, -1}
	c.machine = lifecycle.New(lifecycle.DefaultConfig())
	s.containers = append(s.containers, c)
	if c.create.runtime, err = s.start([]string{"/bin/sh", "-c", create}, c.env, [3]int{0, 1, 2}, true, false); err != nil {
		t.Fatal(err)
	}
	if err := s.waitFor(c.create.runtime, c.runtimeEnded); err != nil {
		t.Fatal(err)
	}
	return c
}

// when has something done in the loop, once the condition holds.
func when(l *loop.Loop, holds func() bool, do func()) {
	var timer loop.Timer
	timer.Fire = func() {
		if holds() {
			do()
			return
		}
		l.Arm(&timer, loop.Now().After(2*lifecycle.Millisecond))
	}
	l.Arm(&timer, loop.Now())
}

// What a runtime that is killed has started dies with it, down to the children of
// its children.
func TestOrphansOfTheRuntime(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	const children = 3
	born := t.TempDir() + "/born"
	c := creating(t, "/bin/true", `one() { sleep 600 & echo $! >>`+born+`; wait; }; one & echo $! >>`+born+`; one`)
	pids := func() []string {
		text, _ := os.ReadFile(born)
		return strings.Fields(string(text))
	}
	when(c.s.loop, func() bool { return len(pids()) == children }, c.abortCreate)
	if err := c.s.loop.Run(); err != nil {
		t.Fatal(err)
	}
	for _, digits := range pids() {
		pid, _ := strconv.Atoi(digits)
		if p, err := process.Open(pid); err == nil {
			t.Errorf("process %d is left: %s", pid, commandLine(pid))
			_ = p.Send(9)
			p.Close()
		}
	}
}

// A runtime's delete that hangs is waited for so long and no longer.
func TestRemovalThatHangs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/runtime", []byte("#!/bin/sh\necho >"+dir+"/deleting\nexec sleep 600 # \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := creating(t, dir+"/runtime", "exec sleep 600")
	c.abortCreate()
	hung := false
	when(c.s.loop, func() bool { _, err := os.Stat(dir + "/deleting"); return err == nil }, func() {
		hung = true
		if got := c.s.waitedFor(); !strings.Contains(got, "sleep 600") && !strings.Contains(got, "delete --force half") {
			t.Errorf("waits for %s", got)
		}
		c.create.removal.Fire()
	})
	if err := c.s.loop.Run(); err != nil {
		t.Fatal(err)
	}
	if !hung {
		t.Error("the delete was not run")
	}
	for pid := range c.s.children {
		_ = unix.Kill(pid, unix.SIGKILL) // a child of this process that nobody has reaped
		_, _ = unix.Wait4(pid, nil, 0, nil)
	}
}
