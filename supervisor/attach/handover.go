package attach

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// A supervisor that executes a newer program goes on in the same process. What it
// serves here it hands over by the numbers of the descriptors, once nothing is in
// its memory that is not in theirs.

// Handed is a client that is handed over.
type Handed struct {
	FD                     int
	Paces, Receives, Sends bool
}

// Idle reports whether all clients have what was written for them, and the
// container what they have sent.
func (s *Server) Idle() bool {
	for _, c := range s.clients {
		if !c.empty() || c.cut || c.ending {
			return false
		}
	}
	return len(s.stdin.pending) == 0
}

// HandOver gives the socket that listens, -1 if there is none any more, and the
// clients. All of it stays as it is, in case that the new program does not run.
func (s *Server) HandOver() (listening int, clients []Handed) {
	for _, c := range s.clients {
		clients = append(clients, Handed{c.fd, c.paces, c.receives, c.sends})
	}
	return s.sock.fd, clients
}

// Take takes over a client.
func (s *Server) Take(h Handed) {
	c := &client{server: s, fd: h.FD, paces: h.Paces, receives: h.Receives, sends: h.Sends && !s.stdin.gone}
	if err := c.register(); err != nil {
		s.warn("an attached client is dropped: " + err.Error())
		unix.Close(h.FD)
		return
	}
	s.clients = append(s.clients, c)
}

// adopt is listen with a socket that is in its place already.
func (p *Place) adopt(fd int) (s socket, err error) {
	s = socket{fd: fd, dir: -1, name: "attach", path: p.Bundle + "/attach"}
	if !p.FullAttach {
		s.link = p.linkPath()
		s.path = s.link + "/attach"
	}
	s.dir, err = openDir(p.Bundle)
	return s, err
}

// Idle reports whether no message is half read.
func (c *Control) Idle() bool { return c.fds[0].lines.n == 0 && c.fds[1].lines.n == 0 }

// HandOver gives the descriptors of ctl and winsz.
func (c *Control) HandOver() [2]int { return [2]int{c.fds[0].fd, c.fds[1].fd} }

// AdoptControl serves FIFOs that another program of this process has served.
func AdoptControl(l *loop.Loop, cfg ControlConfig, fds [2]int) (*Control, error) {
	c := newControl(l, cfg)
	for i := range c.fds {
		c.fds[i].fd = fds[i]
		if err := l.Add(fds[i], loop.Readable, &c.fds[i]); err != nil {
			c.Close()
			return nil, &Error{"Failed to wait for the FIFOs of the container", err}
		}
	}
	return c, nil
}
