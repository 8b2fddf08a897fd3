package shim

import (
	"syscall"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
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
	unit := c.prepareScope(dir, n.id, program, config)
	if n.detach {
		return c.make(n, dir, program, supervised, unit)
	}
	if !supervised {
		if err := c.sweepAfter(n.id); err != nil {
			c.warn("nobody will remove the state of container " + n.id + " when it has ended: " + err.Error())
		}
	}
	return c.become(c.argv)
}

// sweeper is the first argument of a call that waits for the end of its parent,
// and then removes the state directory of a container that the runtime has
// deleted. The runtime's own directory of the container, --root and the id
// follow; descriptor 3 is a pidfd of the parent.
const sweeper = "--gracerun-sweep"

// sweepAfter starts the sweeper of this process.
func (c *call) sweepAfter(id string) error {
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
	_, err = syscall.ForkExec("/proc/self/exe", []string{"gracerun", sweeper, where, c.root, id}, &syscall.ProcAttr{
		Env:   syscall.Environ(),
		Files: []uintptr{nowhere, nowhere, nowhere, uintptr(parent)},
		// Not of the terminal's foreground: its signals are for the runtime.
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	return err
}

// sweep is what a sweeper call does: argv is what follows the first argument.
func sweep(argv []string) int {
	where, root, id := argv[0], argv[1], argv[2]
	// What else was inherited is for the container, and held open by whom it is for.
	_ = unix.CloseRange(4, ^uint(0), 0)
	fds := []unix.PollFd{{Fd: 3, Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			break
		}
	}
	dir, err := statedir.Open(root, id)
	if err != nil || oci.Has(where) {
		return 0 // --keep, or killed before it could delete
	}
	if unix.Flock(dir.FD(), unix.LOCK_EX|unix.LOCK_NB) == nil {
		if unit := scopeOf(dir); unit != nil {
			_ = unit.Remove()
		}
		_ = dir.Remove()
	}
	return 0
}
