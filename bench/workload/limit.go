package main

import "golang.org/x/sys/unix"

// The most that one can hope for: standard input, a pipe, to standard output, a
// file, byte for byte. The end of it is seen by who reads the file.

// copyBySplice does not look at the data.
func copyBySplice(pipeSize int) {
	if _, err := unix.FcntlInt(0, unix.F_SETPIPE_SZ, pipeSize); err != nil {
		fail("pipe size: " + err.Error())
	}
	for {
		n, err := unix.Splice(0, nil, 1, nil, 1<<20, unix.SPLICE_F_MOVE)
		switch {
		case err == unix.EINTR:
		case err != nil:
			fail("splice: " + err.Error())
		case n == 0:
			return
		}
	}
}

// copyByRead could look at them.
func copyByRead() {
	buffer := make([]byte, 64<<10)
	for {
		n, err := unix.Read(0, buffer)
		switch {
		case err == unix.EINTR:
		case err != nil:
			fail("read: " + err.Error())
		case n == 0:
			return
		default:
			writeAll(1, buffer[:n])
		}
	}
}
