package shim

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/inherited"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/journal"
)

// run is `run [option...] ID`: create, start and, unless detached, wait and
// delete, all in one call of the wrapped runtime.
//
// In the foreground this process becomes the runtime, which passes on the signals
// it receives and has the terminal: nothing may stand between. What is known of the
// container is then taken down by the first who wants to signal it, and taken
// away by a process that waits for the end of this one. That one also looks at the
// container's scope when it is there.
func (c *call) run() int {
	n, ok := c.scanCreation()
	if !ok {
		return c.become(c.argv)
	}
	program, err := c.program()
	if err != nil {
		return c.fail(err)
	}
	dir, config, supervised, status := c.place(n)
	if dir == nil {
		return status
	}
	unit := c.prepareScope(dir, n.id, program, config, supervised)
	if n.detach {
		return c.make(n, dir, program, supervised, unit)
	}
	if !supervised {
		if err := c.sweepAfter(dir, n.id, unit != nil); err != nil {
			c.warn("nobody will remove the state of container " + n.id + " when it has ended: " + err.Error())
		}
	}
	return c.become(c.argv)
}

// sweeper is the first argument of a call that waits for the end of the one that
// runs the container, and then removes the state directory of a container that the
// runtime has deleted. The runtime's own directory of the container, what is in
// runFile and the command line of the call follow; descriptor 3 is a pidfd of it.
const sweeper = "--gracerun-sweep"

// runFile, in the state directory, has the identity of the process that runs the
// container in the foreground. With its end the directory is of no use, whether
// its sweeper or the next container of that id comes first.
const runFile = "run"

// endOfRun tells whether the container was run in the foreground by a process that
// has ended.
func endOfRun(dir *statedir.Dir) bool {
	text, err := dir.ReadFile(runFile)
	if err != nil {
		return false
	}
	id, err := process.ParseIdentity(string(text))
	if err != nil {
		return false
	}
	p, err := process.OpenVerified(id)
	if err != nil {
		return errors.Is(err, process.ErrGone) || errors.Is(err, process.ErrReused)
	}
	defer p.Close()
	exited, err := p.Exited()
	return err == nil && exited
}

// sweepAfter starts the sweeper of this process. It has the caller's standard error
// if it is to verify the scope.
func (c *call) sweepAfter(dir *statedir.Dir, id string, verify bool) error {
	own, err := process.Identify(unix.Getpid())
	if err != nil {
		return err
	}
	if err := dir.WriteFile(runFile, []byte(own.String())); err != nil {
		return err
	}
	program, err := c.program()
	if err != nil {
		return err
	}
	where, err := c.runtimeDir(program, id)
	if err != nil {
		return err
	}
	parent, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	null, err := open("/dev/null", unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	nowhere, said := uintptr(null), uintptr(null)
	if verify {
		said = 2
	}
	argv := append([]string{"gracerun", detach, where, own.String()}, c.argv...)
	pid, err := syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Env:   syscall.Environ(),
		Files: []uintptr{nowhere, nowhere, said, uintptr(parent)},
		// Not of the terminal's foreground: its signals are for the runtime.
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err == nil && wait(pid) != 0 {
		err = errors.New("its sweeper did not start")
	}
	return err
}

// detach is the first argument of a call that starts the sweeper and ends. crun's
// run waits for all its children (libcrun/container.c, reap_subprocesses): a
// sweeper among them would wait for crun, and crun for it.
const detach = "--gracerun-sweep-detached"

func startSweeper(argv []string) int {
	_, err := syscall.ForkExec("/proc/self/exe", append([]string{"gracerun", sweeper}, argv...), &syscall.ProcAttr{
		Env:   syscall.Environ(),
		Files: []uintptr{0, 1, 2, 3},
	})
	if err != nil {
		return 1
	}
	return 0
}

// sweep is what a sweeper call does: argv is what follows the first argument.
func sweep(argv []string) int {
	where, run := argv[0], argv[1]
	c := parse(argv[2:])
	n, ok := c.scanCreation()
	if !ok {
		return 1
	}
	// What else was inherited is for the container, and held open by whom it is for.
	inherited.Close(4)
	c.verifyWhenMade(n, where)
	_ = unix.Dup3(0, 2, 0)
	for !hasEndedWithin(-1) {
	}
	dir, err := statedir.Open(c.root, n.id)
	if err != nil || journal.Lock(dir.FD()) != nil {
		return 0
	}
	// By now the id may be another container's.
	if text, err := dir.ReadFile(runFile); err != nil || string(text) != run {
		return 0
	}
	if oci.Has(where) {
		return 0 // --keep, or killed before it could delete
	}
	if unit := scopeOf(dir); unit != nil {
		_ = unit.Remove()
	}
	_ = dir.Remove()
	return 0
}

// hasEndedWithin tells whether the call that runs the container has ended, and waits
// for it so long; a negative limit is none.
func hasEndedWithin(limit time.Duration) bool {
	timeout := -1
	if limit >= 0 {
		timeout = int(limit.Milliseconds())
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: 3, Events: unix.POLLIN}}, timeout)
	return n > 0 || err != nil && err != unix.EINTR
}

// verifyWhenMade looks at the scope of the container as soon as the runtime has
// written down that there is one.
func (c *call) verifyWhenMade(n creation, where string) {
	dir, err := statedir.Open(c.root, n.id)
	if err != nil {
		return
	}
	prepared := scopeOf(dir) != nil
	dir.Close()
	if !prepared {
		return
	}
	program, err := c.program()
	if err != nil {
		return
	}
	config, err := c.load(n)
	if err != nil {
		c.warn("container " + n.id + ": check the properties of its scope: " + err.Error())
		return
	}
	step := 10 * time.Millisecond
	for tries := 0; ; tries++ {
		if _, err = oci.ReadStatus(where); err == nil {
			break
		}
		if hasEndedWithin(step) {
			return
		}
		if tries > mostTries {
			c.warn("container " + n.id + ": check the properties of its scope: it is not known whether there is one: " + err.Error())
			return
		}
		step = min(2*step, time.Second)
	}
	// When the run has ended the id may be another container's.
	if !c.verifyScope(n.id, program, scopeFor(n.id, program, config, "")) && !hasEndedWithin(0) {
		c.end(n.id, "kill", n.id, "KILL") // the runtime that runs it deletes it
	}
}

// mostTries, a second apart, is how often it is looked whether a runtime has made the
// container: the files of one that is not known are not understood, and hooks may
// take their time.
const mostTries = 120
