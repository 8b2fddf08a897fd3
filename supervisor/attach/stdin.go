package attach

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// stdin is the container's input. It has room for one packet of one client:
// while the container does not read, no client is read from.
type stdin struct {
	server  *Server
	fd      int // -1 if there is none yet, or no longer
	gone    bool
	buf     []byte
	pending []byte // part of buf that is to be written
}

// maxInput is the largest packet from a client (conmon's CONN_SOCK_BUF_SIZE).
const maxInput = 32768

// SetStdin gives the write end of the container's stdin, or its terminal, which
// comes once the runtime has sent it. It becomes the server's, and stops
// blocking.
func (s *Server) SetStdin(fd int) {
	if s.stdin.gone || s.stdin.fd >= 0 {
		unix.Close(fd)
		return
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		s.warn("Failed to set mainfd_stdin to non blocking: " + err.Error())
	}
	s.stdin.fd = fd
	s.nextAll()
}

// Input is the descriptor that SetStdin has given, -1 if there is none, or no longer.
func (s *Server) Input() int { return s.stdin.fd }

// CloseStdin ends the container's input, whoever may still have some.
func (s *Server) CloseStdin() { s.stdin.close() }

func (in *stdin) ready() bool { return in.fd >= 0 && len(in.pending) == 0 }

func (in *stdin) buffer() []byte {
	if in.buf == nil {
		in.buf = make([]byte, maxInput)
	}
	return in.buf
}

// write gives data, which is in the buffer, to the container.
func (in *stdin) write(data []byte) {
	in.pending = data
	in.flush()
	if len(in.pending) == 0 || in.fd < 0 {
		return
	}
	if err := in.server.loop.Add(in.fd, loop.Writable, in); err != nil {
		in.server.warn("Failed to wait for the container's stdin: " + err.Error())
		in.close()
		return
	}
	in.server.nextAll()
}

// flush writes what the container takes at present.
func (in *stdin) flush() {
	for len(in.pending) > 0 {
		n, err := unix.Write(in.fd, in.pending)
		switch err {
		case nil:
			in.pending = in.pending[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return
		default: // EPIPE, EIO: it was closed in there
			in.close()
			return
		}
	}
}

// Ready: the container reads again.
func (in *stdin) Ready(uint32) {
	in.flush()
	if in.fd >= 0 && len(in.pending) == 0 {
		in.server.loop.Remove(in.fd)
		in.server.nextAll()
	}
}

// end: a client has no more input.
func (in *stdin) end() {
	if in.server.cfg.Stdin && !in.server.cfg.LeaveStdinOpen {
		in.close()
	}
}

// close ends the container's input for good. Clients are not read from any more,
// so that one with endless input waits instead of being read for nothing.
func (in *stdin) close() {
	in.gone = true
	in.pending, in.buf = nil, nil
	if in.fd >= 0 {
		if in.server.cfg.InputClosed != nil {
			in.server.cfg.InputClosed()
		}
		in.server.loop.Remove(in.fd)
		unix.Close(in.fd)
		in.fd = -1
	}
	for i := len(in.server.clients) - 1; i >= 0; i-- {
		in.server.clients[i].sends = false
	}
	in.server.nextAll()
}

// nextAll has all clients wait for what they are to do next.
func (s *Server) nextAll() {
	for i := len(s.clients) - 1; i >= 0; i-- {
		if i < len(s.clients) {
			s.clients[i].next()
		}
	}
}
