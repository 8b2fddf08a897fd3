// Package wholefile reads whole files that another program wrote, or may have
// replaced.
//
// `gracerun kill` and `gracerun state` pay for every import of this package: it
// keeps away from os and fmt.
package wholefile

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// NoFollow refuses a symbolic link in the file's place (open(2), O_NOFOLLOW).
const NoFollow = unix.O_NOFOLLOW

// Read reads a regular file of at most so many MiB. A name that is not absolute is
// taken from the directory with the descriptor dir (openat(2)); flags is NoFollow
// or 0. The error is the unix.Errno of what failed, or says what is wrong with the
// file.
//
// The file may become shorter meanwhile; of one that becomes longer the beginning is
// read.
func Read(dir int, name string, flags, limitMiB int) ([]byte, error) {
	// O_NONBLOCK: a FIFO in the file's place must not hang the caller.
	fd, err := open(dir, name, flags|unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("is not a regular file")
	}
	if st.Size > int64(limitMiB)<<20 {
		return nil, errors.New("is larger than " + strconv.Itoa(limitMiB) + " MiB")
	}
	data := make([]byte, st.Size)
	for got := 0; got < len(data); {
		n, err := unix.Read(fd, data[got:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return data[:got], nil
		}
		got += n
	}
	return data, nil
}

// open tries again when a signal came between, as the Go runtime's own preemption
// signals do on some file systems.
func open(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
