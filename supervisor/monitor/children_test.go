//go:build linux && (amd64 || arm64)

package monitor

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/signals/process"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// An init that is traced is its tracer's first, and its end is seen before it can
// be reaped. When it can, it is not an orphan: its status is not thrown away.
func TestReapedLate(t *testing.T) {
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &Supervisor{loop: l, children: map[int]func(){}}
	c := &Container{s: s, o: &cmdline.Options{ID: "traced"}, notes: new(notes)}
	c.prepare()
	c.parent.none()
	c.machine = lifecycle.New(lifecycle.DefaultConfig())
	s.containers = append(s.containers, c)
	init := exec.Command("/bin/sh", "-c", "exit 7")
	if err := init.Start(); err != nil {
		t.Fatal(err)
	}
	c.init.pid = init.Process.Pid
	if c.init.pidfd, err = process.Open(c.init.pid); err != nil {
		t.Fatal(err)
	}
	fds := []unix.PollFd{{Fd: int32(c.init.pidfd), Events: unix.POLLIN}}
	for n := 0; n == 0; {
		if n, err = unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	c.step(lifecycle.Event{Kind: lifecycle.CreateDone})
	c.init.retry.Fire = func() { t.Error("it is asked for once more") }
	l.Arm(&c.init.retry, loop.Now())
	s.reap()
	c.settle()
	if got := c.machine.Status(); got != lifecycle.Exited(7) {
		t.Errorf("it ended with %v, want exit status 7", got)
	}
	l.Defer(l.Stop)
	if err := l.Run(); err != nil {
		t.Fatal(err)
	}
}

// A descriptor of the caller that was closed before the end of the container is
// not closed once more, when its number is another's.
func TestInheritedClosedOnce(t *testing.T) {
	var sync [2]int
	if err := unix.Pipe2(sync[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	unix.Close(sync[0]) // the caller is gone
	s := &Supervisor{inherited: []int{sync[1]}}
	c := &Container{s: s, o: &cmdline.Options{ID: "orphan"}, notes: new(notes)}
	c.parent = parent{sync: sync[1], attach: -1, start: -1, key: "pid"}
	c.parent.created(c, 1)
	if c.parent.sync != -1 {
		t.Fatal("a caller that is gone is still told")
	}
	other, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, sync[1])
	if err != nil || other != sync[1] {
		t.Fatalf("number %d, %v; want %d again", other, err, sync[1])
	}
	s.letGo(c.parent.sync, c.parent.attach)
	if err := unix.Close(other); err != nil {
		t.Error("what has the number now was closed: " + err.Error())
	}
}

// A runtime that was killed, as by a stop of what is being created, can have made
// a container; one that ended well has made one, though nobody can look after it.
// It does not stay behind. The container of an exec is not the exec's to delete.
func TestRemains(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\n[ \"$1\" = delete ] && echo \"$@\" >" + dir + "/deleted\n"
	if err := os.WriteFile(dir+"/runtime", []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	// More than the kernel's PID_MAX_LIMIT is nobody's number.
	if err := os.WriteFile(dir+"/gone", []byte("4194305"), 0o600); err != nil {
		t.Fatal(err)
	}
	const deleted = "delete --force half\n"
	for _, test := range []struct {
		name    string
		create  []string
		options cmdline.Options
		want    string
	}{
		{"killed", []string{"/bin/sleep", "600"}, cmdline.Options{}, deleted},
		{"no pid file", []string{"/bin/true"}, cmdline.Options{ContainerPIDFile: dir + "/missing"}, deleted},
		{"init is gone", []string{"/bin/true"}, cmdline.Options{ContainerPIDFile: dir + "/gone"}, deleted},
		{"no terminal", []string{"/bin/true"}, cmdline.Options{Terminal: true}, deleted},
		{"failed", []string{"/bin/false"}, cmdline.Options{}, ""},
		{"exec without pid file", []string{"/bin/true"}, cmdline.Options{Exec: true, ContainerPIDFile: dir + "/missing"}, ""},
		{"exec is gone", []string{"/bin/true"}, cmdline.Options{Exec: true, ContainerPIDFile: dir + "/gone"}, ""},
		{"exec without terminal", []string{"/bin/true"}, cmdline.Options{Exec: true, Terminal: true}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_ = os.Remove(dir + "/deleted")
			l, err := loop.New()
			if err != nil {
				t.Fatal(err)
			}
			o := test.options
			o.ID, o.Runtime = "half", dir+"/runtime"
			s := &Supervisor{loop: l, children: map[int]func(){}}
			c := &Container{s: s, o: &o, notes: new(notes), env: os.Environ()}
			c.prepare()
			c.parent.none()
			c.streams.ours = [3]int{-1, -1, -1}
			c.machine = lifecycle.New(lifecycle.DefaultConfig())
			s.containers, s.creating = append(s.containers, c), 1
			if c.create.runtime, err = s.start(test.create, c.env, [3]int{0, 1, 2}, true, false); err != nil {
				t.Fatal(err)
			}
			if err := s.waitFor(c.create.runtime, c.runtimeEnded); err != nil {
				t.Fatal(err)
			}
			if test.name == "killed" {
				c.abortCreate()
			}
			if err := l.Run(); err != nil {
				t.Fatal(err)
			}
			if !c.create.failed {
				t.Error("the create has not failed")
			}
			if got, _ := os.ReadFile(dir + "/deleted"); string(got) != test.want {
				t.Errorf("the runtime was run with %q, want %q", got, test.want)
			}
		})
	}
}
