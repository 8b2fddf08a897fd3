// Package inherited finds the descriptors that this process inherited from its caller.
// A process that outlives its caller must not keep them: a pipe of the caller's would
// never end.
package inherited

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// Descriptors lists the descriptors from least on that are open and that another
// program in this process would have, too: those that the Go runtime has opened
// for itself are not among them. The list is empty where there is no /proc.
func Descriptors(least int) (fds []int) {
	dir, err := unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(dir)
	var buf [4096]byte
	for {
		n, err := unix.ReadDirent(dir, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return fds
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			fd, err := strconv.Atoi(name)
			if err != nil || fd < least {
				continue
			}
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
				fds = append(fds, fd)
			}
		}
	}
}

// Close closes those from least on.
func Close(least int) {
	for _, fd := range Descriptors(least) {
		unix.Close(fd)
	}
}
