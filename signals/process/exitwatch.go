//go:build linux && (amd64 || arm64)

package process

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ExitWatch hears from the kernel how one process ends, child or not, reaped or
// not: for kernels before 6.15, which keep no exit status for pidfds. It must be
// made while the process lives, needs CAP_NET_ADMIN, and hears nothing outside of
// the first pid namespace.
//
// It is the process events connector (include/uapi/linux/cn_proc.h), with a filter
// in the kernel that lets through what concerns this process: nobody is woken up
// for others.
type ExitWatch struct {
	fd, pid int
}

// Where things are in a message: after the headers of netlink and of the connector
// comes struct proc_event.
const (
	cnProc      = 1 // CN_IDX_PROC, CN_VAL_PROC
	listen      = 1 // PROC_CN_MCAST_LISTEN
	eventExit   = 0x80000000
	eventAt     = unix.NLMSG_HDRLEN + 20 // sizeof(struct cn_msg)
	eventPid    = eventAt + 16
	eventTgid   = eventAt + 20
	eventStatus = eventAt + 24
	eventEnd    = eventAt + 28
)

// errAmbiguous: the first thread has ended before others, and with another status.
var errAmbiguous = errors.New("its threads ended with different statuses")

// WatchExit begins to listen for the end of the process with that number.
func WatchExit(pid int) (*ExitWatch, error) {
	fd, err := listenForEvents([]unix.SockFilter{
		load(eventAt), unless(eventExit, 3),
		load(eventTgid), unless(uint32(pid), 1),
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	})
	if err != nil {
		return nil, err
	}
	return &ExitWatch{fd, pid}, nil
}

func load(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
}

func unless(value uint32, skip uint8) unix.SockFilter {
	// The filter's loads take numbers for big-endian, and these are not.
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], value)
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: skip, K: binary.BigEndian.Uint32(b[:])}
}

// listenForEvents gives a socket that hears of those events that the filter lets through.
func listenForEvents(program []unix.SockFilter) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return -1, failed("socket NETLINK_CONNECTOR", err)
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnProc}); err == nil {
			err = askForEvents(fd)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, failed("listen for process events", err)
	}
	return fd, nil
}

func askForEvents(fd int) error {
	var message struct {
		unix.NlMsghdr
		idx, val, seq, ack uint32 // struct cn_msg
		len, flags         uint16
		op                 uint32
	}
	message.Len, message.Type = uint32(unsafe.Sizeof(message)), unix.NLMSG_DONE
	message.idx, message.val, message.len, message.op = cnProc, cnProc, 4, listen
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&message)), unsafe.Sizeof(message))
	return unix.Sendto(fd, bytes, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// Status gives how the process ended: to be asked once its pidfd says that it has.
// The error is ErrRunning if nothing was heard.
func (w *ExitWatch) Status() (Status, error) {
	var leader, last *uint32
	var buf [512]byte
	for {
		n, err := unix.Read(w.fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			return Status{}, failed("read process events", err)
		}
		if n < eventEnd {
			continue
		}
		status := binary.NativeEndian.Uint32(buf[eventStatus:])
		last = &status
		if binary.NativeEndian.Uint32(buf[eventPid:]) == uint32(w.pid) {
			leader = &status
		}
	}
	switch {
	case leader == nil:
		return Status{}, &Error{Op: "process events", Err: ErrRunning}
	case *last != *leader:
		return Status{}, &Error{Op: "process events", Err: errAmbiguous}
	}
	return waitStatus(unix.WaitStatus(*leader)), nil
}

// FD is its descriptor, which another program in the caller's process can go on with
// (execve(2)): what was heard meanwhile is in it.
func (w *ExitWatch) FD() int { return w.fd }

// ResumeExitWatch is what WatchExit has given to a former program of this process,
// for the same number.
func ResumeExitWatch(fd, pid int) *ExitWatch { return &ExitWatch{fd, pid} }

// Close ends it.
func (w *ExitWatch) Close() { unix.Close(w.fd) }
