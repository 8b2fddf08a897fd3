package attach

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// send sends one packet, from two places and without garbage, which
// unix.SendmsgBuffers would make. data is not empty.
func (s *Server) send(fd int, stream Stream, data []byte) error {
	s.stream = stream
	s.iov[0] = unix.Iovec{Base: (*byte)(&s.stream)}
	s.iov[0].SetLen(1)
	s.iov[1] = unix.Iovec{Base: &data[0]}
	s.iov[1].SetLen(len(data))
	s.msg = unix.Msghdr{Iov: &s.iov[0]}
	s.msg.SetIovlen(len(s.iov))
	_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	s.iov[1].Base = nil
	if errno != 0 {
		return errno
	}
	return nil
}

// receive takes one packet and gives its length, which can be more than there
// was room for.
func receive(fd int, buf []byte) (n int, err error) {
	r, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
