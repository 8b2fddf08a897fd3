package shim

import (
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/oci"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/lifecycle"
)

// span measures how long something has been so.
type span struct{ since lifecycle.Instant }

// isTooLong is told again and again whether it is so, and reports whether it has been
// for longer than a caller should wait.
func (s *span) isTooLong(so bool) bool {
	switch {
	case !so:
		s.since = 0
	case s.since == 0:
		s.since = now()
	}
	return so && now() >= s.since.After(lifecycle.Duration(patience))
}

// undying: SIGKILL has not ended the container's first process for so long that
// nobody is to wait for it. pid is 0 if it is another one of the container.
type undying struct{ pid int }

func (u *undying) Error() string {
	text := "it has not ended " + patience.String() + " after SIGKILL"
	_, state, err := process.Dying(u.pid)
	switch {
	case u.pid == 0:
		text += ": its first process has, others in its cgroup have not"
	case err != nil:
	case state == process.DiskSleep:
		number := strconv.Itoa(u.pid)
		text += ": its process " + number + " is in uninterruptible sleep, until the kernel comes back with what it waits for (/proc/" +
			number + "/stack says where), such as a file system that is frozen or does not answer"
	default:
		text += ": its process " + strconv.Itoa(u.pid) + " is in state " + string(rune(state)) + ": is its cgroup, or one below, frozen?"
	}
	return text + "; nothing of it is removed before that"
}

// spawnDelete runs the wrapped runtime's delete. A container that SIGKILL does not end
// some runtimes wait for without an end: such a one is ended, and the error is an
// *undying.
func (c *call) spawnDelete(container *oci.Container, force bool) (status int, err error) {
	if container == nil || !force {
		return c.spawn(c.argv[1:])
	}
	pid, err := c.launch(c.argv[1:], []uintptr{0, 1, 2})
	if err != nil {
		return 0, err
	}
	child, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return wait(pid), nil
	}
	defer unix.Close(child)
	for !isReadable(child, patience) {
		if left := survivor(container); left != nil {
			_ = unix.Kill(pid, unix.SIGKILL) // it is our child, and not reaped
			wait(pid)
			return 1, left
		}
	}
	return wait(pid), nil
}

// survivor tells who of a container that was killed lives on, nil if nobody does:
// what else a runtime does, such as a hook, may take its time.
func survivor(container *oci.Container) error {
	if p, err := process.OpenVerified(container.Init); err == nil {
		exited, err := p.Exited()
		p.Close()
		if err == nil && !exited {
			return &undying{container.Init.Pid}
		}
	}
	if container.Cgroup.Dir != "" {
		if empty, err := container.Cgroup.Empty(); err == nil && !empty {
			return &undying{}
		}
	}
	return nil
}

// isReadable waits at most so long until a descriptor is.
func isReadable(fd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		left := unix.NsecToTimespec(int64(max(0, time.Until(deadline))))
		n, err := unix.Ppoll(fds, &left, nil)
		if !errors.Is(err, unix.EINTR) {
			return n > 0 || err != nil
		}
	}
}

// waitWithin is wait for a child that may be ended after so long.
func waitWithin(pid int, limit time.Duration) (status int, ended bool) {
	child, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return wait(pid), true
	}
	defer unix.Close(child)
	if isReadable(child, limit) {
		return wait(pid), true
	}
	return 0, false
}
