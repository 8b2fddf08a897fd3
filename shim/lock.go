package shim

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
)

// Locks in the state directory. That of the directory itself (journal.Lock) is for
// who steps the machine, and held while nothing is waited for but a create. For as
// long as the wrapped runtime starts or deletes the container a file of its own is
// locked: the runtime waits for hooks, which may call gracerun.

// startLock is locked for as long as a start is under way that the machine has
// granted: whoever can lock it knows that the one who was granted it is dead.
const startLock = "start"

// deleteLock is locked for as long as a delete is under way that no supervisor was
// asked for.
const deleteLock = "delete"

var errBusy = errors.New("is locked")

// lockFile locks a file of the state directory, for as long as the descriptor is
// open. It waits for at most so long, and then fails with errBusy; with errDeleted
// if the directory is removed, or was meanwhile.
func lockFile(dir *statedir.Dir, name string, limit time.Duration) (fd int, err error) {
	fd, err = unix.Openat(dir.FD(), name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err == unix.ENOENT {
		return -1, errDeleted
	}
	if err != nil {
		return -1, err
	}
	if err = lockWithin(fd, limit); err == nil && isRemoved(dir) {
		err = errDeleted
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// closeLock gives the lock of a file back, if there is one.
func closeLock(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// lockWithin is flock(2) that waits for at most so long.
func lockWithin(fd int, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; {
		switch err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); {
		case err == unix.EINTR:
		case err != unix.EWOULDBLOCK:
			return err
		case !time.Now().Before(deadline):
			return errBusy
		default:
			time.Sleep(pause)
		}
	}
}

// isLocked tells whether somebody has that file of the state directory locked.
func isLocked(dir *statedir.Dir, name string) bool {
	fd, err := unix.Openat(dir.FD(), name, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err != unix.ENOENT
	}
	defer unix.Close(fd)
	return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil
}

// isRemoved tells whether the directory that is open has no name any more.
func isRemoved(dir *statedir.Dir) bool {
	var st unix.Stat_t
	return unix.Fstat(dir.FD(), &st) == nil && st.Nlink == 0
}
