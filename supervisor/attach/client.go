package attach

import (
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// client is one connection. A packet from it is input for the container, at most
// 32 KiB; one of length zero says, as the end of the connection does, that there
// is no more. It leaves when it neither receives nor sends any longer.
type client struct {
	server   *Server
	fd       int
	waits    bool   // is with the loop
	events   uint32 // for these
	paces    bool
	receives bool // can still be sent output
	sends    bool // can still have input
	hungUp   bool

	queue
	cut     bool // gets no more than what is in the queue, and then a notice
	missing int  // bytes of output since then
	ending  bool // likewise, without a notice
	full    bool // counted in server.full
}

// register has the loop wait for what the client is to do next.
func (c *client) register() error {
	var want uint32
	if c.sends && c.server.stdin.ready() {
		want |= loop.Readable
	}
	if c.receives && (!c.empty() || c.cut) {
		want |= loop.Writable
	}
	switch wait := want != 0 || !c.hungUp; {
	case !wait && c.waits:
		// It has input that nobody can take at present; the hangup would be
		// reported all the while.
		c.server.loop.Remove(c.fd)
		c.waits = false
	case wait && !c.waits:
		if err := c.server.loop.Add(c.fd, want, c); err != nil {
			return err
		}
		c.waits, c.events = true, want
	case wait && want != c.events:
		if err := c.server.loop.Modify(c.fd, want); err != nil {
			return err
		}
		c.events = want
	}
	return nil
}

// next waits for what comes next, or leaves.
func (c *client) next() {
	if !c.receives && !c.sends {
		c.close()
		return
	}
	if err := c.register(); err != nil {
		c.server.warn("an attached client is dropped: " + err.Error())
		c.close()
	}
}

// Ready reads from the client and writes to it.
func (c *client) Ready(events uint32) {
	if events&(loop.Hup|loop.Error) != 0 {
		c.hungUp = true
		c.deaf()
	}
	if events&loop.Writable != 0 && c.receives {
		c.flush()
	}
	if events&loop.Readable != 0 && c.sends && c.fd >= 0 {
		c.read()
	}
	if c.fd >= 0 {
		c.next()
	}
}

// read takes one packet, so that the others get their turn.
func (c *client) read() {
	in := &c.server.stdin
	if !in.ready() {
		return // another one filled it in this batch
	}
	buf := in.buffer()
	n, err := receive(c.fd, buf)
	switch {
	case err == unix.EAGAIN, err == unix.EINTR:
	case err != nil, n == 0:
		c.sends = false
		unix.Shutdown(c.fd, unix.SHUT_RD)
		in.end()
	case n > len(buf):
		c.server.warn("an attached client sent " + strconv.Itoa(n) + " bytes at once; the container gets the first " + strconv.Itoa(len(buf)))
		n = len(buf)
		fallthrough
	default:
		in.write(buf[:n])
	}
}

// output sends, or keeps until it can be sent.
func (c *client) output(stream Stream, data []byte) {
	if !c.receives || c.ending {
		return
	}
	if c.cut {
		c.missing += len(data)
		return
	}
	if c.empty() {
		data = c.send(stream, data)
	}
	if len(data) > 0 && c.receives {
		c.keep(stream, data)
	}
	c.next()
}

// send gives what could not be sent at present.
func (c *client) send(stream Stream, data []byte) (rest []byte) {
	for len(data) > 0 {
		n := min(len(data), MaxData)
		switch err := c.server.send(c.fd, stream, data[:n]); err {
		case nil:
			data = data[n:]
		case unix.EINTR:
		case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
			return data
		default:
			c.deaf()
			return nil
		}
	}
	return nil
}

func (c *client) keep(stream Stream, data []byte) {
	s := c.server
	if c.paces {
		c.push(s, stream, data)
		if !c.full && c.size >= s.cfg.Limit {
			c.full = true
			s.full++
		}
		return
	}
	n := min(len(data), max(s.cfg.Limit-c.size, 0))
	c.push(s, stream, data[:n])
	if n < len(data) {
		c.cut = true
		c.missing += len(data) - n
	}
	s.bound()
}

// flush sends what was kept.
func (c *client) flush() {
	for !c.empty() {
		packet := c.packet()
		if rest := c.send(Stream(packet[0]), packet[1:]); len(rest) > 0 {
			return // a packet goes whole or not at all
		}
		if !c.receives {
			return
		}
		c.pop(c.server)
		if c.full && c.size <= c.server.cfg.Limit/2 {
			c.notFull()
		}
	}
	if c.cut {
		c.notify()
	} else if c.ending {
		c.close()
	}
}

// notify ends the output of one that was cut off. The notice looks like what the
// container says, as there is no other way to reach whoever reads.
func (c *client) notify() {
	stream, end := Stderr, "\n"
	if c.server.cfg.Terminal {
		stream, end = Stdout, "\r\n"
	}
	text := "gracemon: this client reads too slowly and is cut off: " + strconv.Itoa(c.missing) + " bytes of output are missing here" + end
	if rest := c.send(stream, []byte(text)); len(rest) > 0 {
		return
	}
	unix.Shutdown(c.fd, unix.SHUT_WR)
	c.deaf()
	if c.ending {
		c.close()
	}
}

// end: there is no more output.
func (c *client) end() {
	c.ending = true
	if c.empty() && !c.cut || !c.receives {
		c.close()
	}
}

// deaf: the client can be sent nothing any more.
func (c *client) deaf() {
	c.receives, c.cut = false, false
	for !c.empty() {
		c.pop(c.server)
	}
	c.notFull()
}

func (c *client) notFull() {
	if !c.full {
		return
	}
	c.full = false
	if c.server.full--; c.server.full == 0 && c.server.cfg.Room != nil {
		c.server.loop.Defer(c.server.cfg.Room)
	}
}

// close ends the connection. What the client has sent and nobody read is taken
// away first, or the kernel would have it read an error (ECONNRESET) where the
// end of the output is.
func (c *client) close() {
	if c.fd < 0 {
		return
	}
	c.deaf()
	if c.waits {
		c.server.loop.Remove(c.fd)
	}
	unix.Shutdown(c.fd, unix.SHUT_RDWR)
	var waste [1]byte
	for {
		if n, err := receive(c.fd, waste[:]); err != nil && err != unix.EINTR || n == 0 && err == nil {
			break
		}
	}
	unix.Close(c.fd)
	c.fd = -1
	c.sends = false
	c.server.drop(c)
}
