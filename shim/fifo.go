package shim

import (
	"golang.org/x/sys/unix"

	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
)

// A start without the wrapped runtime. Between create and start a container's init
// waits at a FIFO in the directory in which its runtime keeps it. All that the start of
// crun (1.8 to 1.29) and of runc (1.1 to 1.5) does is to let it through, unless there
// are poststart hooks to run or a NOTIFY_SOCKET to serve. To start the runtime for that
// takes several times as long as to do it.

// startDirectly lets init through, and reports whether it has. Whatever is in the way
// is for the runtime to say: nothing was done then.
func startDirectly(dir *statedir.Dir, k known) bool {
	if _, notify := unix.Getenv("NOTIFY_SOCKET"); notify || k.Container == nil || k.init < 0 {
		return false
	}
	if !oci.DirectStartAllowed(dir) {
		return false
	}
	if exited, err := k.init.Exited(); err != nil || exited {
		return false
	}
	if k.Style == oci.Crun {
		return writeFIFO(k.FIFO())
	}
	return readFIFO(k.FIFO(), k.init)
}

// writeFIFO is crun's way. Who removes the FIFO is the one who starts the container.
func writeFIFO(path string) bool {
	fd, err := open(path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false // nobody waits there any more
	}
	defer unix.Close(fd)
	if unix.Unlink(path) != nil {
		return false
	}
	for {
		_, err = unix.Write(fd, []byte{0})
		if err != unix.EINTR {
			return err == nil
		}
	}
}

// readFIFO is the way of libcontainer: init opens the FIFO for writing, which waits for
// a reader, and writes one byte. From when there is a reader until that is read, which
// takes as long as init is frozen, the reader must not go.
func readFIFO(path string, init process.Pidfd) bool {
	fd, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(init), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return false
		}
		if fds[0].Revents|fds[1].Revents == 0 {
			continue
		}
		var buf [16]byte
		n, err := unix.Read(fd, buf[:])
		if err == unix.EINTR || err == unix.EAGAIN && fds[1].Revents == 0 {
			continue
		}
		if n <= 0 {
			return false // another one has read it, or init has ended
		}
		_ = unix.Unlink(path)
		return true
	}
}
