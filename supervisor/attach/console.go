package attach

import (
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// Console is the socket on which the runtime sends the container's terminal
// (runc's docs/terminals.md). It is needed until the runtime has ended.
//
// github.com/containerd/console would do for the terminal itself; it brings os
// and fmt, for three calls of ioctl.
type Console struct {
	loop     *loop.Loop
	path     string
	fd       int // listens; -1 once the terminal is there
	conn     int // the runtime's connection, -1 if there is none
	received func(terminal int)
	warn     func(message string)
}

// ListenConsole makes the socket, with a random name in $TMPDIR or /tmp. received
// is called with the master side of the terminal, which is the receiver's to
// close: nonblocking, and set to end lines with CR and LF.
func ListenConsole(l *loop.Loop, received func(terminal int), warn func(message string)) (*Console, error) {
	c := &Console{loop: l, fd: -1, conn: -1, received: received, warn: warn}
	if err := c.bind(tempDir()); err != nil {
		return nil, err
	}
	if err := unix.Listen(c.fd, 1); err != nil {
		c.Close()
		return nil, &Error{"Failed to listen on console-socket " + c.path, err}
	}
	if err := l.Add(c.fd, loop.Readable, loop.HandlerFunc(c.accept)); err != nil {
		c.Close()
		return nil, &Error{"Failed to wait on console-socket " + c.path, err}
	}
	return c, nil
}

// Path is what the runtime gets as --console-socket.
func (c *Console) Path() string { return c.path }

func tempDir() string {
	if dir, ok := unix.Getenv("TMPDIR"); ok && dir != "" {
		return strings.TrimRight(dir, "/")
	}
	return "/tmp"
}

func (c *Console) bind(dir string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return &Error{"Failed to create console-socket", err}
	}
	// The mode of the descriptor becomes that of the name.
	if err = unix.Fchmod(fd, 0o700); err == nil {
		err = unix.EADDRINUSE
		for try := 0; err == unix.EADDRINUSE && try < 100; try++ {
			c.path = dir + "/conmon-term." + randomName()
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: c.path})
		}
	}
	if err != nil {
		unix.Close(fd)
		return &Error{"Failed to bind to console-socket " + c.path, err}
	}
	c.fd = fd
	return nil
}

func randomName() string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	var b [10]byte
	_, _ = unix.Getrandom(b[:], 0) // without it names collide, and bind finds out
	for i := range b {
		b[i] = letters[b[i]%32]
	}
	return string(b[:])
}

// accept takes the connection of the runtime. Another one waits until it has
// turned out to be of no use.
func (c *Console) accept(uint32) {
	if c.conn >= 0 {
		return
	}
	fd, _, err := unix.Accept4(c.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		if err != unix.EAGAIN && err != unix.EINTR && err != unix.ECONNABORTED {
			c.say("Failed to accept console-socket connection: " + err.Error())
		}
		return
	}
	if err := c.loop.Add(fd, loop.Readable, loop.HandlerFunc(c.receive)); err != nil {
		c.say("Failed to wait for the terminal: " + err.Error())
		unix.Close(fd)
		return
	}
	c.conn = fd
	c.loop.Remove(c.fd)
}

func (c *Console) receive(uint32) {
	terminal, err := receiveFD(c.conn)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	c.loop.Remove(c.conn)
	unix.Close(c.conn)
	c.conn = -1
	if err != nil {
		c.say("Failed to receive console file descriptor: " + err.Error())
		if err := c.loop.Add(c.fd, loop.Readable, loop.HandlerFunc(c.accept)); err != nil {
			c.say("Failed to wait on console-socket " + c.path + ": " + err.Error())
		}
		return
	}
	c.Close()
	c.prepare(terminal)
	c.received(terminal)
}

// receiveFD takes the one descriptor that comes with a message.
func receiveFD(conn int) (fd int, err error) {
	var data [4096]byte // the runtime names the terminal, for nobody
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := unix.Recvmsg(conn, data[:], oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return -1, err
	}
	var fds []int
	for i := range messages {
		more, err := unix.ParseUnixRights(&messages[i])
		if err == nil {
			fds = append(fds, more...)
		}
	}
	switch {
	case len(fds) == 1 && flags&unix.MSG_CTRUNC == 0:
		return fds[0], nil
	case n == 0 && len(fds) == 0:
		err = &Error{"the runtime hung up", unix.ENODATA}
	default:
		err = &Error{"not exactly one descriptor was sent", unix.EBADMSG}
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return -1, err
}

// prepare sets the terminal as Kubernetes expects it.
func (c *Console) prepare(terminal int) {
	settings, err := unix.IoctlGetTermios(terminal, unix.TCGETS)
	if err != nil {
		c.say("Failed to get console terminal settings: " + err.Error())
	} else {
		settings.Oflag |= unix.ONLCR
		if err := unix.IoctlSetTermios(terminal, unix.TCSETS, settings); err != nil {
			c.say("Failed to set console terminal settings: " + err.Error())
		}
	}
	if err := unix.SetNonblock(terminal, true); err != nil {
		c.say("Failed to set the terminal to non blocking: " + err.Error())
	}
}

// Close takes the socket away, and with it a terminal that never came.
func (c *Console) Close() {
	if c.conn >= 0 {
		c.loop.Remove(c.conn)
		unix.Close(c.conn)
		c.conn = -1
	}
	if c.fd >= 0 {
		c.loop.Remove(c.fd)
		unix.Close(c.fd)
		unix.Unlink(c.path)
		c.fd = -1
	}
}

func (c *Console) say(message string) {
	if c.warn != nil {
		c.warn(message)
	}
}
