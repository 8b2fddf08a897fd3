package monitor

import (
	"strconv"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/cmdline"
)

// parent is the caller, as far as it listens: the pipes that its environment
// names. -1 stands for none.
type parent struct {
	sync   int    // the container's pid, and the exit status of an exec
	attach int    // that clients can attach
	start  int    // --exec-attach: that one has
	key    string // what the number in a message is called
}

// none: nobody listens.
func (p *parent) none() { p.sync, p.attach, p.start = -1, -1, -1 }

func (p *parent) open(o *cmdline.Options) (err error) {
	switch {
	case o.APIVersion >= 1:
		p.key = "data"
	case o.Exec:
		p.key = "exit_code"
	default:
		p.key = "pid"
	}
	p.attach, p.start = -1, -1
	if p.sync, err = pipeFromEnv("_OCI_SYNCPIPE"); err != nil {
		return err
	}
	if o.ExecAttach {
		if p.attach, err = pipeFromEnv("_OCI_ATTACHPIPE"); err != nil {
			return err
		}
		if p.attach < 0 {
			return note("--attach specified but _OCI_ATTACHPIPE was not")
		}
		if p.start, err = pipeFromEnv("_OCI_STARTPIPE"); err != nil {
			return err
		}
	}
	for _, fd := range []int{p.sync, p.attach, p.start} {
		if fd > 0 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// attached says that the attach socket is there.
func (p *parent) attached(c *Container) { p.tell(c, &p.attach, 0, "") }

// created tells the number of the container's process. The old API has one
// message for an exec, and that is its exit status.
func (p *parent) created(c *Container, pid int) {
	if c.o.APIVersion >= 1 || !c.o.Exec {
		p.tell(c, &p.sync, pid, "")
	}
}

// failed tells that there is no container.
func (p *parent) failed(c *Container, message string) { p.tell(c, &p.sync, -1, message) }

// exited tells the exit status of an exec.
func (p *parent) exited(c *Container, status int, message string) {
	if c.o.Exec {
		p.tell(c, &p.sync, status, message)
	}
}

func (p *parent) closeStart(c *Container) {
	c.s.loop.Remove(p.start)
	c.s.closeInherited(p.start)
	p.start = -1
}

// tell writes a message, in one write: Podman's pipe keeps packets apart. A
// caller who is gone is told nothing more.
func (p *parent) tell(c *Container, fd *int, number int, message string) {
	if *fd < 0 {
		return
	}
	line := appendMessage(nil, p.key, number, message)
	for len(line) > 0 {
		n, err := unix.Write(*fd, line)
		switch err {
		case nil:
			line = line[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			if waitWritable(*fd) {
				continue
			}
			fallthrough
		default:
			if err != unix.EPIPE {
				c.notes.warn("container " + c.o.ID + ": Unable to send message to parent " + cmdline.Text(err))
			}
			c.s.closeInherited(*fd)
			*fd = -1
			return
		}
	}
}

// patience is how many milliseconds the caller may take to empty its pipe, if it
// has made it non-blocking.
const patience = 10_000

func waitWritable(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, patience)
	return err == unix.EINTR || n > 0
}

// appendMessage appends {"key": number, "message": "text"} and a newline.
func appendMessage(b []byte, key string, number int, message string) []byte {
	b = append(append(append(b, `{"`...), key...), `": `...)
	b = strconv.AppendInt(b, int64(number), 10)
	if message != "" {
		b = append(appendEscaped(append(b, `, "message": "`...), message), '"')
	}
	return append(b, "}\n"...)
}

// appendEscaped escapes as conmon does: the slash too, and characters above ASCII not.
// What is not UTF-8, which conmon passes on and a reader of JSON may refuse, becomes
// U+FFFD.
func appendEscaped(b []byte, text string) []byte {
	const hex = "0123456789abcdef"
	for i, char := range text {
		if char >= utf8.RuneSelf {
			b = utf8.AppendRune(b, char)
			continue
		}
		switch c := text[i]; c {
		case '\\', '"', '/':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		default:
			if c < 0x20 || c == 0x7f {
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			} else {
				b = append(b, c)
			}
		}
	}
	return b
}
