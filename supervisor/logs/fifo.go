package logs

import (
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// A log "file" that is a FIFO or a terminal has no place to go back to, may take a
// part of what is written, or nothing at present. It is opened once, since a reader
// takes it for the end of the log when nobody has it open any more.
//
// A FIFO is opened for reading too: that waits for nobody, and what is in it stays
// there when its reader goes and another one comes.

// atOnce is how much is written to one at a time: a FIFO takes that whole or not at
// all (pipe(7), PIPE_BUF), so that a supervisor that is killed leaves no part of a
// record. Only a record of a longer line is longer.
const atOnce = 4096

// isFIFO reports whether there is a FIFO at the path.
func isFIFO(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO
}

func openFIFO(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// push writes records to what is no regular file. The intent is set. A part that is
// left is written before anything else, and until then the intent stays.
func (k *file) push(records []byte) bool {
	k.rest = append(k.rest[:0], records...)
	return k.pushRest()
}

// pushRest reports whether all is written.
func (k *file) pushRest() bool {
	whole := len(k.rest)
	written, err := k.writeRest()
	if written > 0 {
		k.flow.moved()
	}
	switch err {
	case nil:
		k.l.cursor.Commit(k.place)
		k.works()
		return true
	case unix.EAGAIN:
		k.rest = k.rest[:copy(k.rest, k.rest[written:])]
		if written == 0 && whole == int(k.intent.Bytes) {
			k.forgetRest() // it is made again, together with what has come meanwhile
		}
		k.flow.wait(k.fd, &k.trouble)
	default:
		k.forgetRest()
		k.failed(err)
	}
	return false
}

func (k *file) writeRest() (written int, err error) {
	if fault := k.l.options.Fault; fault != nil {
		if err := fault(false); err != nil {
			return 0, err
		}
		defer func() {
			if err == nil {
				err = fault(true)
			}
		}()
	}
	for written < len(k.rest) {
		n, err := unix.Write(k.fd, k.rest[written:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return written, err
		}
		written += n
	}
	k.rest = k.rest[:0]
	return written, nil
}

func (k *file) forgetRest() {
	k.rest = k.rest[:0]
	k.l.cursor.Abort(k.place)
}

// openWriter opens it anew, for writing only.
func (k *file) openWriter() (int, error) {
	return unix.Open("/proc/self/fd/"+strconv.Itoa(k.fd), unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
}

// unread reports whether there is something in a FIFO that has no reader, which
// would be lost if it were closed now.
func (k *file) unread() bool {
	if k.fd < 0 || k.regular {
		return false
	}
	if n, err := unix.IoctlGetInt(k.fd, unix.TIOCINQ); err != nil || n == 0 {
		return false
	}
	if !k.writesOnly {
		// This process is a reader of it itself, as far as the kernel can tell.
		fd, err := k.openWriter()
		if err != nil {
			return false
		}
		k.flow.stop()
		unix.Close(k.fd)
		k.fd, k.writesOnly = fd, true
	}
	poll := []unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLOUT}}
	if _, err := unix.Poll(poll, 0); err != nil || poll[0].Revents&unix.POLLERR == 0 {
		return false
	}
	if k.flow.since == 0 {
		k.flow.since = loop.Now()
	}
	return true
}
