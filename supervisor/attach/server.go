// Package attach gives clients access to a container's streams: the attach socket
// for its output and input, the console socket on which the runtime passes the
// terminal, the FIFOs for its size and for reopening the log, and the socket for
// notifications to systemd.
//
// Places, formats and meanings are conmon's (src/conn_sock.c, src/ctrl.c), since
// Podman and CRI-O are the clients. A successor can create all of it anew in the
// same places.
//
// Everything runs on one loop; nothing here is safe for concurrent use.
// A supervisor stays resident: no os, no fmt, no net.
package attach

import (
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// Stream is the first byte of each packet to a client and says where the rest
// of it came from.
type Stream byte

// The streams of a container. What a terminal shows is Stdout.
const (
	Stdout Stream = 2
	Stderr Stream = 3
)

// MaxData is how many bytes of output a packet can have: clients of conmon have
// room for one more, the stream.
const MaxData = 8192

// DefaultLimit is how far a client may lag behind, in bytes; DefaultTotal how far
// all of them together.
const (
	DefaultLimit = 1 << 20
	DefaultTotal = 8 << 20
)

// Config says how clients are served.
type Config struct {
	Place
	Terminal       bool // the container has a terminal
	Stdin          bool // what clients send goes to the container
	LeaveStdinOpen bool // a client that has nothing more to send does not end the container's stdin
	Limit          int  // how far a client may lag behind, in bytes; DefaultLimit if 0
	Total          int  // how far all of them together may, that came later; DefaultTotal if 0
	Listening      int  // the socket, if this process listens on it already (HandOver); else 0

	// InputClosed is called when the container's input is about to end, if it is not nil.
	InputClosed func()
	// Room is called when Full was true and is no more, by way of loop.Defer.
	Room func()
	// Warn is called with what an operator should know.
	Warn func(message string)
}

// Server serves the clients of one container.
//
// A client that does not read must not hold up a container that others watch or
// that is logged, and must not lose output without knowing. What is sent to it
// while its socket is full is kept, up to the limit. Past the limit it depends:
//
//   - A client that was there before the container started is in front of it, as
//     with `podman run`, `podman start --attach` and `podman exec`: it may be a
//     pipeline that has to get every byte, and it sets the pace. Full tells so;
//     whoever reads the container's output is to wait for Room.
//   - One that came later watches. It is cut off: it gets what was kept for it,
//     then one line that says how much is missing, then the end of the stream.
//     If there are so many that what is kept for all of them exceeds the total,
//     those that lag most lose the newest half of theirs and are cut off there.
//
// conmon writes to all of them and waits, so that one `kubectl attach` that hangs
// stops the container and its log.
type Server struct {
	cfg     Config
	loop    *loop.Loop
	sock    socket
	clients []*client
	started bool
	retry   loop.Timer

	stdin  stdin
	spare  *block // blocks that no queue needs at present
	spares int
	full   int // how many clients set the pace and are at their limit
	kept   int // bytes in the queues of all clients
	finish func()

	// What send needs.
	stream Stream
	iov    [2]unix.Iovec
	msg    unix.Msghdr
}

// acceptPause is how long clients wait when there are no descriptors for them.
const acceptPause = lifecycle.Second

// Listen makes the attach socket. One that is there already is replaced: who
// made it must be known to be dead.
func Listen(l *loop.Loop, cfg Config) (*Server, error) {
	if cfg.Limit == 0 {
		cfg.Limit = DefaultLimit
	}
	if cfg.Total == 0 {
		cfg.Total = DefaultTotal
	}
	s := &Server{cfg: cfg, loop: l}
	s.stdin.server = s
	s.stdin.fd = -1
	s.retry.Fire = s.listenAgain
	var err error
	if cfg.Listening > 0 {
		s.sock, err = cfg.adopt(cfg.Listening)
	} else {
		s.sock, err = cfg.listen()
	}
	if err != nil {
		return nil, err
	}
	if err := l.Add(s.sock.fd, loop.Readable, loop.HandlerFunc(s.accept)); err != nil {
		s.sock.close()
		return nil, &Error{"wait for clients on " + s.sock.path, err}
	}
	return s, nil
}

// Started: the container's program runs. Clients that come from now on do not
// set the pace.
func (s *Server) Started() { s.started = true }

// Clients is how many there are.
func (s *Server) Clients() int { return len(s.clients) }

// accept takes all that have connected.
func (s *Server) accept(uint32) {
	for {
		fd, _, err := unix.Accept4(s.sock.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			s.add(fd)
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EAGAIN:
			return
		default:
			// EMFILE and its like: the client waits in the backlog, and without a
			// pause epoll would report it for ever.
			s.warn("Failed to accept client connection on attach socket: " + err.Error() + "; trying again in a second")
			s.loop.Remove(s.sock.fd)
			s.loop.Arm(&s.retry, loop.Now().After(acceptPause))
			return
		}
	}
}

func (s *Server) listenAgain() {
	if s.sock.fd < 0 {
		return
	}
	if err := s.loop.Add(s.sock.fd, loop.Readable, loop.HandlerFunc(s.accept)); err != nil {
		s.loop.Arm(&s.retry, loop.Now().After(acceptPause))
	}
}

func (s *Server) add(fd int) {
	c := &client{server: s, fd: fd, paces: !s.started, receives: true, sends: (s.cfg.Stdin || s.cfg.Terminal) && !s.stdin.gone}
	if err := c.register(); err != nil {
		s.warn("Failed to wait for a client of the attach socket: " + err.Error())
		unix.Close(fd)
		return
	}
	s.clients = append(s.clients, c)
}

func (s *Server) drop(c *client) {
	for i := range s.clients {
		if s.clients[i] == c {
			last := len(s.clients) - 1
			s.clients[i], s.clients[last] = s.clients[last], nil
			s.clients = s.clients[:last]
			break
		}
	}
	if len(s.clients) == 0 && s.finish != nil {
		done := s.finish
		s.finish = nil
		done()
	}
}

// Output sends what the container wrote to all clients. It does not wait, and
// keeps nothing of data.
func (s *Server) Output(stream Stream, data []byte) {
	if len(data) > 0 {
		s.started = true
	}
	// From the end, since a client that fails leaves the list.
	for i := len(s.clients) - 1; i >= 0; i-- {
		s.clients[i].output(stream, data)
	}
}

// bound makes room if what is kept for all clients is more than it may be.
func (s *Server) bound() {
	for s.kept > s.cfg.Total {
		var worst *client
		for _, c := range s.clients {
			if !c.paces && c.blocks > 1 && (worst == nil || c.size > worst.size) {
				worst = c
			}
		}
		if worst == nil {
			return // what is left is a block each
		}
		worst.cut = true
		worst.missing += worst.halve(s)
	}
}

// Full tells that a client that sets the pace is behind by as much as it may
// be. Output takes more all the same, and loses nothing of it.
func (s *Server) Full() bool { return s.full > 0 }

// Finish says that all output was given. Clients get what is left of it and then
// the end of the stream; done is called once the last of them has it. Nobody new
// is let in, and the socket is gone from its place.
func (s *Server) Finish(done func()) {
	s.stopListening()
	s.stdin.close()
	s.finish = done
	if len(s.clients) == 0 {
		s.finish = nil
		done()
		return
	}
	for i := len(s.clients) - 1; i >= 0; i-- {
		s.clients[i].end()
	}
}

// Close ends it all now. What a client had not read in time is lost to it.
func (s *Server) Close() {
	s.stopListening()
	s.stdin.close()
	s.finish = nil
	for len(s.clients) > 0 {
		c := s.clients[len(s.clients)-1]
		if c.size > 0 {
			s.warn("an attached client has not read " + strconv.Itoa(c.size) + " bytes of output; they are lost to it")
		}
		c.close()
	}
}

func (s *Server) stopListening() {
	if s.sock.fd < 0 {
		return
	}
	s.loop.Arm(&s.retry, lifecycle.Never)
	s.loop.Remove(s.sock.fd)
	s.sock.close()
}

func (s *Server) warn(message string) {
	if s.cfg.Warn != nil {
		s.cfg.Warn(message)
	}
}
