package attach

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// rig is a loop under the test's control, and what was warned of.
type rig struct {
	t        *testing.T
	loop     *loop.Loop
	epoll    int // the loop's descriptor
	dir      string
	warnings []string
}

func newRig(t *testing.T) *rig {
	// The loop gets the lowest number that is free.
	epoll, err := unix.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(epoll)
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	if link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(epoll)); link != "anon_inode:[eventpoll]" {
		t.Fatalf("descriptor %d is %q: %v", epoll, link, err)
	}
	t.Cleanup(func() { unix.Close(epoll) })
	// Short, so that the test decides how long paths are.
	dir, err := os.MkdirTemp("/tmp", "attach")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &rig{t: t, loop: l, epoll: epoll, dir: dir}
}

func (r *rig) warn(message string) { r.warnings = append(r.warnings, message) }

func (r *rig) warned(part string) bool {
	for _, w := range r.warnings {
		if strings.Contains(w, part) {
			return true
		}
	}
	return false
}

// turn tells handlers what is ready now. Sockets and pipes of one machine know at
// once what their other end did.
func (r *rig) turn() {
	r.t.Helper()
	r.loop.Defer(r.loop.Stop)
	if err := r.loop.Run(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) turns() {
	r.t.Helper()
	for range 20 {
		r.turn()
	}
}

// until turns until the condition holds.
func (r *rig) until(what string, holds func() bool) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain: %s", what)
		}
		r.turn()
	}
}

func (r *rig) listen(cfg Config) *Server {
	r.t.Helper()
	cfg.Place = Place{Bundle: r.dir, FullAttach: true}
	cfg.Warn = r.warn
	s, err := Listen(r.loop, cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(s.Close)
	return s
}

// stdin gives the server a pipe as the container's stdin.
func (r *rig) stdin(s *Server) (read int) {
	r.t.Helper()
	read, write := r.pipe()
	s.SetStdin(write)
	return read
}

func (r *rig) pipe() (read, write int) {
	r.t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		r.t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { unix.Close(fds[0]) })
	return fds[0], fds[1]
}

// peer is a client as Podman is one, with the same room for a packet.
type peer struct {
	t        *testing.T
	fd       int
	closed   bool
	out, err bytes.Buffer
	packets  int
}

func (r *rig) dial(path string) *peer {
	r.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	// By descriptor, as Podman does it, for the sake of long paths.
	file, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer unix.Close(file)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(file)}); err != nil {
		r.t.Fatalf("connect to %s: %v", path, err)
	}
	p := &peer{t: r.t, fd: fd}
	r.t.Cleanup(p.close)
	return p
}

// attach connects and waits until the server has noticed.
func (r *rig) attach(s *Server) *peer {
	r.t.Helper()
	before := s.Clients()
	p := r.dial(s.sock.path)
	r.until("accepted", func() bool { return s.Clients() > before })
	return p
}

func (p *peer) close() {
	if !p.closed {
		unix.Close(p.fd)
	}
	p.closed = true
}

func (p *peer) send(data string) {
	p.t.Helper()
	if err := unix.Send(p.fd, []byte(data), unix.MSG_NOSIGNAL); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

// read takes one packet; more is false if there is none at present, and end says
// that there will be none.
func (p *peer) read() (more, end bool) {
	p.t.Helper()
	var buf [MaxData + 1]byte
	n, err := receive(p.fd, buf[:])
	switch {
	case err == unix.EAGAIN:
		return false, false
	case err != nil:
		p.t.Fatalf("read: %v", err)
	case n == 0:
		return false, true
	case n > len(buf):
		p.t.Fatalf("packet of %d bytes: Podman and CRI-O have room for %d", n, len(buf))
	}
	p.packets++
	switch Stream(buf[0]) {
	case Stdout:
		p.out.Write(buf[1:n])
	case Stderr:
		p.err.Write(buf[1:n])
	default:
		p.t.Fatalf("packet of stream %d", buf[0])
	}
	return true, false
}

// readAll takes what is there.
func (p *peer) readAll() (end bool) {
	p.t.Helper()
	for {
		more, end := p.read()
		if !more {
			return end
		}
	}
}

// readEnd takes everything until the end of the output.
func (r *rig) readEnd(p *peer) {
	r.t.Helper()
	r.until("the end of the output", p.readAll)
}

// drain reads what a pipe has; end says that its writer is gone.
func drain(t *testing.T, fd int, into *bytes.Buffer) (end bool) {
	t.Helper()
	var buf [4096]byte
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case err == unix.EAGAIN:
			return false
		case err != nil:
			t.Fatal(err)
		case n == 0:
			return true
		}
		into.Write(buf[:n])
	}
}

// pattern is data in which a missing or doubled byte shows.
func pattern(n int) []byte {
	data := make([]byte, 0, n+16)
	for i := 0; len(data) < n; i++ {
		data = strconv.AppendInt(data, int64(i), 10)
		data = append(data, '\n')
	}
	return data[:n]
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	t.Errorf("%s: %d bytes instead of %d, different from byte %d on", what, len(got), len(want), at)
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
