// Package pipes creates the anonymous pipes that are a container's stdin, stdout and
// stderr, and finds them again for a successor.
//
// The pipes have no name. A security module (SELinux, AppArmor, Landlock) sees them as
// pipes of their creator, not as files of a directory, and nothing of the host can be
// reached through them. The kernel frees a pipe with its content when no process has
// it open any more.
//
// The supervisor pays for every import of this package.
package pipes

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// Output makes the pipe of a stdout or stderr: the reading end, which does not
// block, and the container's, which does.
//
// With lasting the container's end is open for reading too. The pipe then has a
// reader as long as somebody has that end: a supervisor that dies is no EPIPE, and
// what is in the pipe waits for the next one.
func Output(lasting bool) (ours, theirs int, err error) {
	ours, theirs, err = make2()
	if err == nil && lasting {
		theirs, err = widen(theirs)
	}
	if err == nil {
		err = unix.SetNonblock(ours, true)
	}
	return whole(ours, theirs, err)
}

// Input makes the pipe of a stdin: the writing end, which does not block, and the
// container's, which does. The container must not have the writing end, or it would
// never see the end of its input.
func Input() (ours, theirs int, err error) {
	theirs, ours, err = make2()
	if err == nil {
		err = unix.SetNonblock(ours, true)
	}
	return whole(ours, theirs, err)
}

// Ended makes a reading end that has nothing to read and never will.
func Ended() (int, error) {
	reader, writer, err := make2()
	if err == nil {
		unix.Close(writer)
		err = unix.SetNonblock(reader, true)
	}
	reader, _, err = whole(reader, -1, err)
	return reader, err
}

// Inode is the number of a pipe, which no other pipe has while anybody has this one
// open: what the kernel shows as "pipe:[NUMBER]".
func Inode(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

func make2() (reader, writer int, err error) {
	fds := [2]int{-1, -1}
	err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
	return fds[0], fds[1], err
}

// whole gives both ends or none.
func whole(ours, theirs int, err error) (int, int, error) {
	if err == nil {
		return ours, theirs, nil
	}
	for _, fd := range [...]int{ours, theirs} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return -1, -1, err
}

// widen puts a descriptor of the same pipe that is open for both in the place of one.
func widen(fd int) (int, error) {
	both, err := reopen(fd, unix.O_RDWR)
	if err == nil {
		unix.Close(fd)
		fd = both
	}
	return fd, err
}

// reopen opens what a descriptor has open once more.
func reopen(fd, flags int) (int, error) {
	return open("/proc/self/fd/"+strconv.Itoa(fd), flags)
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
