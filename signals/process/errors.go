// Package process handles one Linux process by its pidfd: it signals the process,
// waits for it and learns how it ended, so that a reused pid is never hit. It
// recognizes the process later (Identity), and tells whether it would act on a signal
// at all (Dispositions).
//
// It needs Linux 5.4 (waitid by pidfd) on amd64 or arm64, and /proc of the
// caller's own pid namespace. It keeps away from os and fmt: a supervisor that
// stays resident for each container pays for every import.
package process

import (
	"errors"

	"golang.org/x/sys/unix"
)

var (
	// ErrGone: the process has ended and was reaped, or its number is free.
	ErrGone = errors.New("process is gone")

	// ErrReused: the process is gone and another one has its number.
	ErrReused = errors.New("another process has this number")

	// ErrRunning: the process has not exited yet.
	ErrRunning = errors.New("process has not exited")

	// ErrNotReaped: the process has exited, but its parent has not reaped it.
	ErrNotReaped = errors.New("process has exited and was not reaped yet")

	// ErrNotChild: only the parent may reap a process. Also what a child gives
	// that somebody else in this program has reaped.
	ErrNotChild = errors.New("process is not a child to be reaped")

	// ErrUnsupported: the kernel keeps no exit status for pidfds.
	ErrUnsupported = errors.New("kernel keeps no exit status for pidfds (Linux 6.15 does)")
)

// Error says which call failed and why. Err is one of the errors above where
// one fits, and else a unix.Errno.
type Error struct {
	Op  string // system call or file
	Err error
}

func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// failed names the call in an error of the kernel; nil stays nil. ESRCH has one
// meaning in all calls of this package.
func failed(op string, err error) error {
	switch err {
	case nil:
		return nil
	case unix.ESRCH:
		err = ErrGone
	}
	return &Error{Op: op, Err: err}
}
