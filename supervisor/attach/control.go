package attach

import (
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// Control is the FIFOs "ctl" and "winsz" in the bundle, by which callers tell the
// size of the terminal and have the log reopened:
//
//	ctl:   1 HEIGHT WIDTH    resize
//	       2 0 0             reopen the log; the numbers must be there
//	winsz: HEIGHT WIDTH      resize; conmon uses it for itself
//
// A size that comes before there is a terminal is kept until SetTerminal.
type Control struct {
	loop   *loop.Loop
	cfg    ControlConfig
	fds    [2]fifo
	term   int // -1 if there is none yet
	height int
	width  int
	sized  bool
}

// ControlConfig says where the FIFOs are and what to do.
type ControlConfig struct {
	Bundle   string
	Keep     bool                 // FIFOs that are there already: a caller may wait in the open of one
	Terminal bool                 // the container has a terminal; sizes mean nothing else
	Reopen   func()               // reopen the log
	Warn     func(message string) // of what cannot be understood
}

// fifo is one of the two: fd is open for both directions, so that it is not
// reported closed when the last writer goes.
type fifo struct {
	control *Control
	fd      int
	lines   lines
	take    func(line []byte)
}

// OpenControl makes the FIFOs anew, or goes on with those of a predecessor (Keep),
// and serves them.
func OpenControl(l *loop.Loop, cfg ControlConfig) (*Control, error) {
	c := newControl(l, cfg)
	for i, name := range []string{"ctl", "winsz"} {
		if err := c.fds[i].open(cfg.Bundle+"/"+name, cfg.Keep); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

func newControl(l *loop.Loop, cfg ControlConfig) *Control {
	c := &Control{loop: l, cfg: cfg, term: -1}
	c.fds[0] = fifo{control: c, fd: -1, take: c.ctl}
	c.fds[1] = fifo{control: c, fd: -1, take: c.winsz}
	return c
}

// open opens the FIFO for both directions. CRI-O opens it for writing, and that
// open waits for a reader: one that waits in a FIFO whose name is taken away waits
// for ever.
func (f *fifo) open(path string, keep bool) error {
	err := unix.Mkfifo(path, 0o660)
	var st unix.Stat_t
	switch {
	case err != unix.EEXIST:
	case keep && unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO:
		err = nil
	default:
		if err = unix.Unlink(path); err == nil {
			err = unix.Mkfifo(path, 0o660)
		}
	}
	if err != nil {
		return &Error{"Failed to mkfifo at " + path, err}
	}
	f.fd, err = unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		f.fd = -1
		return &Error{"Failed to open " + path, err}
	}
	if err := f.control.loop.Add(f.fd, loop.Readable, f); err != nil {
		return &Error{"Failed to wait for " + path, err}
	}
	return nil
}

// SetTerminal gives the master side of the container's terminal. It stays the
// caller's and must stay open until Close.
func (c *Control) SetTerminal(fd int) {
	c.term = fd
	if c.sized {
		c.apply()
	}
}

// Close ends the service. The FIFOs stay where they are, as conmon leaves them:
// a caller may have one open that it will write to.
func (c *Control) Close() {
	for i := range c.fds {
		if f := &c.fds[i]; f.fd >= 0 {
			c.loop.Remove(f.fd)
			unix.Close(f.fd)
			f.fd = -1
		}
	}
}

// Ready reads once; the rest is reported again.
func (f *fifo) Ready(uint32) {
	n, err := unix.Read(f.fd, f.lines.room())
	if err != nil || n == 0 {
		return
	}
	if f.lines.add(n, f.take) {
		f.control.warn("Could not find newline in entire buffer")
	}
}

// The types of a message on ctl.
const (
	resizeMessage = 1
	reopenMessage = 2
)

// maxSide is how high and wide a terminal may be. Programs allocate for each
// cell.
const maxSide = 1000

func (c *Control) ctl(line []byte) {
	var n [3]int
	if !numbers(line, n[:]) {
		c.warn("Invalid control message format")
		return
	}
	kind, height, width := n[0], n[1], n[2]
	switch {
	case kind != resizeMessage && kind != reopenMessage:
		c.warn("Invalid control message type: " + strconv.Itoa(kind))
	case !c.validSize(height, width):
	case kind == resizeMessage:
		c.resize(height, width)
	case c.cfg.Reopen != nil:
		c.cfg.Reopen()
	}
}

func (c *Control) winsz(line []byte) {
	var n [2]int
	if !numbers(line, n[:]) {
		c.warn("Failed to parse window size")
		return
	}
	if c.validSize(n[0], n[1]) {
		c.resize(n[0], n[1])
	}
}

func (c *Control) validSize(height, width int) bool {
	if height < 0 || width < 0 || height > maxSide || width > maxSide {
		c.warn("Invalid window size: " + strconv.Itoa(height) + "x" + strconv.Itoa(width) + " (must be between 0 and 1000)")
		return false
	}
	return true
}

func (c *Control) resize(height, width int) {
	if !c.cfg.Terminal {
		return
	}
	c.height, c.width, c.sized = height, width, true
	if c.term >= 0 {
		c.apply()
	}
}

func (c *Control) apply() {
	size := unix.Winsize{Row: uint16(c.height), Col: uint16(c.width)}
	if err := unix.IoctlSetWinsize(c.term, unix.TIOCSWINSZ, &size); err != nil {
		c.warn("Failed to set process pty terminal size: " + err.Error())
	}
}

func (c *Control) warn(message string) {
	if c.cfg.Warn != nil {
		c.cfg.Warn(message)
	}
}

// maxLine is more than any message needs.
const maxLine = 200

// lines makes lines of what is read. One that is too long is dropped.
type lines struct {
	buf     [maxLine]byte
	n       int
	tooLong bool // until the next newline
}

// room is where to read to.
func (l *lines) room() []byte { return l.buf[l.n:] }

// add takes n bytes that were read into room, and gives each whole line to take.
// It tells whether a line turned out to be too long.
func (l *lines) add(n int, take func(line []byte)) (tooLong bool) {
	text := l.buf[:l.n+n]
	for {
		end := newline(text)
		if end < 0 {
			break
		}
		if !l.tooLong {
			take(text[:end])
		}
		l.tooLong = false
		text = text[end+1:]
	}
	if l.tooLong {
		text = nil
	} else if len(text) == len(l.buf) {
		l.tooLong, tooLong = true, true
		text = nil
	}
	l.n = copy(l.buf[:], text)
	return tooLong
}

func newline(text []byte) int {
	for i, c := range text {
		if c == '\n' {
			return i
		}
	}
	return -1
}

// numbers reads as many numbers as there is room for, as scanf's "%d %d" does:
// white space before each, a sign, decimal digits. What follows is not looked
// at. A number that does not fit is none, while scanf takes what remains of it
// modulo 2^32.
func numbers(text []byte, n []int) bool {
	for i := range n {
		for len(text) > 0 && (text[0] == ' ' || text[0] >= '\t' && text[0] <= '\r') {
			text = text[1:]
		}
		end := 0
		if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
			end = 1
		}
		for end < len(text) && text[end] >= '0' && text[end] <= '9' {
			end++
		}
		v, err := strconv.ParseInt(string(text[:end]), 10, 32)
		if err != nil {
			return false
		}
		n[i] = int(v)
		text = text[end:]
	}
	return true
}
