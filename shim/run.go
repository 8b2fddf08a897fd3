package shim

import (
	"errors"
	"syscall"

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
// away by a process that does nothing but wait for the end of this one.
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
		if err := c.sweepAfter(dir, n.id); err != nil {
			c.warn("nobody will remove the state of container " + n.id + " when it has ended: " + err.Error())
		}
	}
	return c.become(c.argv)
}

// sweeper is the first argument of a call that waits for the end of the one that
// runs the container, and then removes the state directory of a container that the runtime has
// deleted. The runtime's own directory of the container, --root, the id and what
// is in runFile follow; descriptor 3 is a pidfd of it.
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

// sweepAfter starts the sweeper of this process.
func (c *call) sweepAfter(dir *statedir.Dir, id string) error {
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
	nowhere := uintptr(null)
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"gracerun", detach, where, c.root, id, own.String()}, &syscall.ProcAttr{
		Env:   syscall.Environ(),
		Files: []uintptr{nowhere, nowhere, nowhere, uintptr(parent)},
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
	where, root, id, run := argv[0], argv[1], argv[2], argv[3]
	// What else was inherited is for the container, and held open by whom it is for.
	inherited.Close(4)
	fds := []unix.PollFd{{Fd: 3, Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			break
		}
	}
	dir, err := statedir.Open(root, id)
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
