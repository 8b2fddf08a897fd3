package control

import (
	"errors"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Name is the name of the socket in the state directory.
const Name = "control"

// ErrNoSupervisor: nobody listens. Either the state directory has no socket, or
// the supervisor that made it is gone.
var ErrNoSupervisor = errors.New("no supervisor listens on the control socket")

// ErrTimeout: the supervisor has not replied in time. What became of the request
// is not known.
var ErrTimeout = errors.New("no reply from the supervisor in time")

// connectPatience is how long a connection waits for a place in the queue of a
// supervisor that does not take any out of it.
const connectPatience = time.Second

// ErrHungUp: the supervisor ended the connection without a reply. What became of
// the request is not known.
var ErrHungUp = errors.New("the supervisor hung up without a reply")

// Error says which call on the socket failed. Err is a unix.Errno.
type Error struct {
	Op  string
	Err error
}

func (e *Error) Error() string { return "control socket: " + e.Op + ": " + e.Err.Error() }

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// Listen makes the socket in the state directory with descriptor dir and listens
// on it, without blocking. A socket that is there already is replaced: its
// supervisor must be known to be dead.
func Listen(dir int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, &Error{"socket", err}
	}
	if err = unix.Unlinkat(dir, Name, 0); err == nil || err == unix.ENOENT {
		// The mode of the socket file is the mode of the socket, cut by the umask.
		if err = unix.Fchmod(fd, 0o600); err == nil {
			err = unix.Bind(fd, address(dir))
		}
	}
	if err == nil {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		unix.Close(fd)
		return -1, &Error{"listen", err}
	}
	return fd, nil
}

// Accept takes a connection from the socket that Listen gave, without blocking.
// Unlike unix.Accept4 it makes nothing of the caller's address, which it has none of.
func Accept(listener int) (fd int, err error) {
	n, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

// Peer is who connected. A supervisor has one for all, as each would take memory.
type Peer struct {
	unix.Ucred
	size uint32
}

// Ask asks who is at the other end of a connection, as the kernel noted it when
// that was made (SO_PEERCRED, unix(7)).
func (p *Peer) Ask(fd int) error {
	p.size = uint32(unsafe.Sizeof(p.Ucred))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERCRED,
		uintptr(unsafe.Pointer(&p.Ucred)), uintptr(unsafe.Pointer(&p.size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// address goes by the descriptor, since the path can be longer than the 107
// bytes that fit into an address (unix(7)).
func address(dir int) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/" + Name}
}

// Conn is a caller's connection to a supervisor.
type Conn int

// Dial connects to the supervisor of the container whose state directory has
// the descriptor dir. The error is ErrNoSupervisor, an *Error, or ErrTimeout if so
// many callers wait for the supervisor to take their connections that there is no
// room for one more.
func Dial(dir int) (Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, &Error{"socket", err}
	}
	boundConnect(fd)
	err = again(func() error { return unix.Connect(fd, address(dir)) })
	switch err {
	case nil:
		return Conn(fd), nil
	case unix.ECONNREFUSED, unix.ENOENT:
		err = ErrNoSupervisor
	case unix.EAGAIN:
		err = ErrTimeout
	default:
		err = &Error{"connect", err}
	}
	unix.Close(fd)
	return -1, err
}

// DialAt is Dial for who knows the path of the directory as well. A path that
// fits into an address is found sooner than a descriptor in /proc, where a new
// process has to have its entries made. That it leads to the directory of the
// descriptor is checked: one that was replaced does not come back.
func DialAt(dir int, path string) (Conn, error) {
	var address unix.RawSockaddrUnix
	if len(path)+len("/"+Name) >= len(address.Path) {
		return Dial(dir)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, &Error{"socket", err}
	}
	address.Family = unix.AF_UNIX
	to := unsafe.Slice((*byte)(unsafe.Pointer(&address.Path)), len(address.Path))
	n := copy(to, path)
	n += copy(to[n:], "/"+Name)
	size := unsafe.Offsetof(address.Path) + uintptr(n) + 1
	boundConnect(fd)
	errno := unix.EINTR
	for errno == unix.EINTR {
		_, _, errno = unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&address)), size)
	}
	if errno == 0 && isAt(dir, path) {
		return Conn(fd), nil
	}
	unix.Close(fd)
	switch errno {
	case unix.ECONNREFUSED, unix.ENOENT:
		return -1, ErrNoSupervisor
	case unix.EAGAIN:
		return -1, ErrTimeout
	case 0:
		return Dial(dir)
	}
	return -1, &Error{"connect", errno}
}

// boundConnect has connect(2) fail with EAGAIN, in place of waiting for ever, when
// the queue of the socket is full and stays so (unix(7), SO_SNDTIMEO).
func boundConnect(fd int) {
	limit := unix.NsecToTimeval(int64(connectPatience))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
}

// isAt tells whether the path leads to the directory.
func isAt(dir int, path string) bool {
	var mine, named unix.Stat_t
	return unix.Fstat(dir, &mine) == nil && unix.Lstat(path, &named) == nil && mine.Ino == named.Ino && mine.Dev == named.Dev
}

// Close ends the connection. A request without a reply is abandoned.
func (c Conn) Close() error { return unix.Close(int(c)) }

// Supervisor gives the process number of the supervisor that listens, as the
// kernel noted it at Listen.
func (c Conn) Supervisor() (pid int, err error) {
	cred, err := unix.GetsockoptUcred(int(c), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, &Error{"SO_PEERCRED", err}
	}
	return int(cred.Pid), nil
}

// Ask makes a request and waits for the reply: no longer than timeout, for ever
// if that is negative. The error is ErrTimeout, ErrHungUp, an *Error, or says
// what was wrong with the reply; after any of them but ErrTimeout, which leaves
// the reply to Await, the connection is of no use.
func (c Conn) Ask(r Request, timeout time.Duration) (Reply, error) {
	reply, err := c.ask(r, timeout)
	if err == nil && reply.Answer == Bad && r.By != nil {
		// One of an earlier version, which has not learnt of callers.
		r.By = nil
		reply, err = c.ask(r, timeout)
	}
	return reply, err
}

func (c Conn) ask(r Request, timeout time.Duration) (Reply, error) {
	var room [256]byte // mostly enough
	request := r.Append(room[:0])
	err := again(func() error { return unix.Send(int(c), request, unix.MSG_NOSIGNAL) })
	if err == unix.EPIPE || err == unix.ECONNRESET {
		return Reply{}, ErrHungUp
	}
	if err != nil {
		return Reply{}, &Error{"send", err}
	}
	return c.Await(timeout)
}

// Await waits for the reply to a request whose Ask has ended with ErrTimeout.
func (c Conn) Await(timeout time.Duration) (Reply, error) {
	if err := c.await(timeout); err != nil {
		return Reply{}, err
	}
	var packet [MaxPacket]byte
	var n int
	err := again(func() (err error) {
		n, err = unix.Read(int(c), packet[:])
		return err
	})
	switch {
	case err == unix.ECONNRESET, err == nil && n == 0:
		return Reply{}, ErrHungUp
	case err != nil:
		return Reply{}, &Error{"read", err}
	}
	return ParseReply(string(packet[:n]))
}

// Withdraw tells a supervisor that has not replied in time that its caller sees to
// the request itself. What it has begun with it goes on with.
func (c Conn) Withdraw() {
	_ = again(func() error {
		return unix.Send(int(c), []byte(verbNames[Withdraw]), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	})
}

// IsWithdrawn reports, to the supervisor, whether the caller on the connection has
// withdrawn the request that was read from it.
func IsWithdrawn(fd int) bool {
	var packet [16]byte
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&packet)), uintptr(len(packet)),
		unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return errno == 0 && string(packet[:n]) == verbNames[Withdraw]
}

// await waits until there is something to read.
func (c Conn) await(timeout time.Duration) error {
	if timeout < 0 {
		return nil // read will wait
	}
	deadline := time.Now().Add(timeout)
	fds := []unix.PollFd{{Fd: int32(c), Events: unix.POLLIN}}
	for {
		left := unix.NsecToTimespec(int64(max(0, time.Until(deadline))))
		n, err := unix.Ppoll(fds, &left, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return &Error{"poll", err}
		case n == 0:
			return ErrTimeout
		default:
			return nil
		}
	}
}

func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
