//go:build linux && (amd64 || arm64)

package process

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

// Pidfd is an open file descriptor that stands for one process (pidfd_open(2)),
// close-on-exec. It never comes to mean another process, whatever becomes of
// the number. It becomes readable when the process exits, so int(p) may go into
// an epoll set.
type Pidfd int

// Open opens a pidfd for the process that has the number pid now. Whether that
// is the process the caller means is known only if it cannot have been reaped
// (a child of the caller) or by OpenVerified. The error is ErrGone if no
// process has the number.
func Open(pid int) (Pidfd, error) {
	op := "pidfd_open " + strconv.Itoa(pid)
	if pid <= 0 {
		return -1, &Error{Op: op, Err: unix.EINVAL}
	}
	fd, err := unix.PidfdOpen(pid, 0)
	switch err {
	case nil:
		return Pidfd(fd), nil
	case unix.EINVAL, unix.ENOENT:
		// The number is that of a thread, not of a process (EINVAL before Linux
		// 6.16, ENOENT since), or of a process in the midst of being reaped.
		err = unix.ESRCH
	}
	return -1, failed(op, err)
}

// Close closes the descriptor.
func (p Pidfd) Close() error { return failed("close pidfd", unix.Close(int(p))) }

// Send sends a signal to the process, or asks whether it is there
// (signals.Probe). The error is ErrGone if it was reaped. A process that has
// exited and waits to be reaped takes every signal without an error and without
// effect: ask Exited where the difference matters.
func (p Pidfd) Send(sig signals.Signal) error {
	return failed("pidfd_send_signal", unix.PidfdSendSignal(int(p), unix.Signal(sig), nil, 0))
}

// Exited reports whether the process has exited, reaped or not, with all its
// threads: /proc shows the state Z as soon as the first thread is gone.
func (p Pidfd) Exited() (bool, error) { return p.Wait(0) }

// Wait blocks until the process has exited, at most for the timeout; a negative
// timeout waits for ever. It reports whether the process has exited. It does
// not reap.
func (p Pidfd) Wait(timeout time.Duration) (bool, error) {
	deadline := time.Now().Add(timeout)
	fds := []unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}
	for {
		var limit *unix.Timespec
		if timeout >= 0 {
			left := unix.NsecToTimespec(int64(max(0, time.Until(deadline))))
			limit = &left
		}
		n, err := unix.Ppoll(fds, limit, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err == nil && fds[0].Revents&unix.POLLNVAL != 0:
			err = unix.EBADF
		}
		return err == nil && n > 0, failed("ppoll pidfd", err)
	}
}

// AwaitReaped waits until the process was reaped, at most for the timeout. It
// reports whether it was.
func (p Pidfd) AwaitReaped(timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for {
		if reaped, err := p.reaped(); err != nil || reaped {
			return reaped
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		// Since Linux 6.9 the reaping is told as a hang-up. The pause is for
		// kernels before that, which tell nothing.
		pause := unix.NsecToTimespec(int64(min(left, time.Millisecond)))
		_, _ = unix.Ppoll([]unix.PollFd{{Fd: int32(p)}}, &pause, nil)
	}
}

// reaped reports whether the process was reaped. As long as it was not, its
// number is its own: what /proc/PID says is said of it.
func (p Pidfd) reaped() (bool, error) {
	switch err := unix.PidfdSendSignal(int(p), 0, nil, 0); err {
	case nil, unix.EPERM:
		return false, nil
	case unix.ESRCH:
		return true, nil
	default:
		return false, failed("pidfd_send_signal", err)
	}
}
