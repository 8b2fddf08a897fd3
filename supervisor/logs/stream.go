package logs

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs/spool"
	"gracerun.io/supervisor/loop"
)

const (
	// batch is how much is moved before others have their turn: as much as stays
	// in a core's cache from the pipe to the log. Larger ones are slower.
	batch = 256 << 10

	// smallPipe is what the kernel makes, bigPipe what Readable makes of a pipe
	// that was found full.
	smallPipe = 64 << 10
	bigPipe   = 1 << 20

	// emptyFrom is how large the spool grows before it is cut: a system call for
	// each line would cost more than the memory.
	emptyFrom = 16 << 10

	// punchStep is how much is done with before its pages are given back, while
	// something behind it is not.
	punchStep = 1 << 20

	// reopenTerminal is how often a terminal that nobody has open is looked at
	// again; conmon's figure.
	reopenTerminal = 100 * lifecycle.Millisecond
)

func spoolName(s Source) string { return "spool." + s.String() }

// Stream is one stream of the container.
type Stream struct {
	// Sink is given what the container writes, once, in order, in pieces of up to
	// 256 KiB that are valid until it returns. It may be set and unset at any
	// time.
	Sink func(data []byte)

	l         *Logs
	source    Source
	fd        int
	terminal  bool
	unspliced bool // what fd is cannot be spliced
	pipe      int  // its size, since it was asked to be large
	took      int  // bytes, the last time

	spool    *spool.Spool
	throwing bool  // there is no memory either
	volatile bool  // the spool is in memory: the state directory has no room
	seen     int64 // what Sink was given, as an offset in the spool

	ended   func()
	handler loop.Handler
	watched bool
	held    bool
	timer   loop.Timer
	last    lifecycle.Instant // when it was ready
	streak  int               // how often in a row it was, in short succession
}

// Stream gives the stream that reads from fd, which is non-blocking and stays
// the caller's: the reading end of a pipe, or the master of a terminal.
func (l *Logs) Stream(source Source, fd int, terminal bool) *Stream {
	s := l.stream(source)
	s.fd, s.terminal = fd, terminal
	if terminal && !s.volatile {
		s.spool.Terminal()
	}
	return s
}

// stream opens the spool of a stream, if that was not done before.
func (l *Logs) stream(source Source) *Stream {
	if s := l.streams[source]; s != nil {
		return s
	}
	s := &Stream{l: l, source: source, fd: -1}
	if l.options.Dir >= 0 {
		var err error
		if s.spool, err = spool.Open(l.options.Dir, spoolName(source)); err != nil {
			l.options.Warn("No spool for " + source.String() + ": " + explain(err) +
				": what is on its way to the log dies with this process")
		} else if err := s.spool.Resume(l.cursor, int(source)); err != nil {
			l.options.Warn("Failed to read the log spool of " + source.String() + ": " + explain(err))
		}
	}
	if s.spool == nil && !s.useMemory() {
		s.spool, s.volatile = spool.None(), true
		l.wake(loop.Now().After(lastPause))
	}
	l.streams[source] = s
	return s
}

// Readable moves what the container has written, at most 256 KiB, to the logs
// and to Sink. It is for when the descriptor is readable, and does not wait.
func (s *Stream) Readable() Result {
	if s.mustWait() {
		return Held
	}
	if len(s.l.logs) == 0 && s.Sink == nil && !s.terminal && s.spool.Size() == 0 {
		result := s.discard()
		s.l.touched(s, s.took)
		return result
	}
	n, result := s.take()
	s.took = n
	if n > 0 || result != Again {
		s.distribute(result != More, false)
		s.l.touched(s, n)
	}
	return result
}

// Drain moves everything that is there when it is called, and reports whether
// that was all for good: nobody has the other end open. What comes meanwhile it
// may leave: it would not return while somebody writes faster than a log can be
// written.
func (s *Stream) Drain() (ended bool) {
	there := bigPipe // of a terminal: more than the kernel keeps
	if !s.terminal {
		there, _ = unix.IoctlGetInt(s.fd, unix.TIOCINQ)
	}
	for there >= 0 {
		switch s.Readable() {
		case EOF:
			return true
		case Held:
			return false
		case Again:
			if s.took == 0 {
				return false
			} // else the spool may have had no room for more
		}
		there -= s.took
	}
	return false
}

// take moves a batch into the spool.
func (s *Stream) take() (n int, result Result) {
	n, more, err := s.fill()
	switch {
	case err == unix.EAGAIN:
		return 0, Again
	case err == unix.EIO && s.terminal:
		return 0, EOF
	case err != nil:
		return s.throwAway(err)
	case n == 0:
		return 0, EOF
	}
	s.throwing = false
	if n >= smallPipe {
		s.grow()
	}
	if more {
		return n, More
	}
	// The pipe was empty. What came since makes the descriptor readable again.
	return n, Again
}

// fill fills the spool of the state directory. If that has no room, what logs in
// trouble have not had makes room, the oldest half first; else a spool in memory
// takes its place.
func (s *Stream) fill() (n int, more bool, err error) {
	n, more, err = s.fillOnce()
	for !s.volatile && (err == unix.ENOSPC || err == unix.EDQUOT) {
		s.distribute(true, false)
		if left := s.left(); left >= batch {
			s.dropOldest(left / 2)
			s.spool.Forget(s.spool.Size()-s.left(), 0)
		} else {
			if !s.throwing {
				s.l.options.Warn("No room in the state directory: what is on its way to the log dies with this process, until there is room again")
			}
			if !s.useMemory() {
				return 0, false, err
			}
		}
		n, more, err = s.fillOnce()
	}
	return n, more, err
}

// backToState leaves a spool in memory as soon as the state directory has room
// for one again.
func (s *Stream) backToState() {
	if !s.volatile || s.l.options.Dir < 0 {
		return
	}
	s.l.wake(loop.Now().After(lastPause))
	if s.left() > 0 {
		return
	}
	state, err := spool.Open(s.l.options.Dir, spoolName(s.source))
	if err != nil {
		return
	}
	if !state.HasRoom(2 * batch) {
		state.Close()
		return
	}
	s.spool.Close()
	s.spool, s.volatile, s.seen = state, false, 0
	s.l.cursor.Truncated(int(s.source))
	s.spool.Use(s.l.cursor, int(s.source))
	if s.terminal {
		s.spool.Terminal()
	}
	s.l.options.Warn("The state directory has room again")
}

func (s *Stream) fillOnce() (n int, more bool, err error) {
	s.l.in.forget()
	if s.terminal && !s.volatile {
		n, err = s.spool.FillTerminal(s.fd, batch)
		return n, n == batch, err
	}
	if !s.terminal && !s.unspliced {
		n, more, err = s.spool.Fill(s.fd, batch, s.spool.Size()-s.left())
		if err != unix.EINVAL {
			return n, more, err
		}
		s.unspliced = true
	}
	in := s.l.in.all()
	if n, err = s.read(in); err != nil || n == 0 {
		return 0, false, err
	}
	before := s.spool.Size()
	if err = s.spool.Put(in[:n]); err != nil {
		s.lose(n - int(s.spool.Size()-before))
	}
	return n, n == batch, err
}

// read reads as much as there is and fits: a terminal gives 4 KiB at a time.
func (s *Stream) read(b []byte) (got int, err error) {
	for got < len(b) {
		n, err := unix.Read(s.fd, b[got:])
		switch {
		case err == unix.EINTR:
			continue
		case got > 0 && (err != nil || n == 0):
			return got, nil
		case err != nil || n == 0:
			return 0, err
		}
		got += n
	}
	return got, nil
}

// throwAway reads and forgets, for when there is no memory for a spool: the
// container goes on, and the logs will say what they miss.
func (s *Stream) throwAway(reason error) (int, Result) {
	n, err := s.read(s.l.in.all())
	if err == unix.EAGAIN {
		return 0, Again
	}
	if err != nil || n == 0 {
		return 0, EOF
	}
	s.lose(n)
	if !s.throwing {
		s.throwing = true
		s.l.options.Warn("Output of " + s.source.String() + " is lost: no memory for the log spool: " + explain(reason))
	}
	return n, More
}

// lose takes note of output that no log will have.
func (s *Stream) lose(n int) {
	for _, log := range s.l.logs {
		s.l.cursor.Lose(int(s.source), log.place, int64(n))
	}
}

// discard empties the pipe for nobody.
func (s *Stream) discard() Result {
	n, err := s.read(s.l.in.all())
	s.took = n
	switch {
	case err == unix.EAGAIN:
		return Again
	case err != nil || n == 0:
		return EOF
	case n < batch:
		return Again
	}
	return More
}

// grow makes the pipe of a container larger that fills it faster than it is
// emptied, and reports whether it is large. It is not done at once for all: the
// kernel would keep the memory for containers that say a line a day.
func (s *Stream) grow() bool {
	if s.pipe == 0 && !s.terminal {
		s.pipe, _ = unix.FcntlInt(uintptr(s.fd), unix.F_SETPIPE_SZ, bigPipe)
	}
	return s.pipe >= bigPipe
}

// distribute gives logs and Sink what they have not had yet. flush says that no
// more is there at present, finish that none will ever come.
func (s *Stream) distribute(flush, finish bool) {
	for _, log := range s.l.logs {
		log.advance(s, flush, finish)
	}
	if size := s.spool.Size(); s.Sink != nil {
		for s.seen < size {
			data := s.view(s.seen, batch)
			if len(data) == 0 {
				break
			}
			s.seen += int64(len(data))
			s.Sink(data)
		}
	} else {
		s.seen = size
	}
	s.bound()
	s.trim()
}

// view gives the bytes of the spool at the offset, at most max. They are valid
// until the next call.
func (s *Stream) view(at int64, max int) []byte {
	return s.l.in.read(s, at, max)
}

// left is how far the slowest log is behind the end of the spool.
func (s *Stream) left() int64 {
	size := s.spool.Size()
	least := size
	for _, log := range s.l.logs {
		least = min(least, s.pos(log.place))
	}
	return size - least
}

func (s *Stream) pos(place int) int64 { return s.l.cursor.Pos(int(s.source), place) }

// bound drops what is more than is to be kept for a log that cannot be written.
func (s *Stream) bound() {
	if most := s.l.options.SpoolMax; s.left() > most {
		s.dropOldest(most - most/4)
	}
}

// dropOldest leaves the newest bytes to the logs that have not had more.
func (s *Stream) dropOldest(keep int64) {
	for _, log := range s.l.logs {
		s.dropFor(log.place, keep)
	}
}

func (s *Stream) dropFor(place int, keep int64) {
	from, to := s.pos(place), s.spool.Size()-keep
	if to <= from {
		return
	}
	c := s.l.cursor
	to = max(to, c.Detach(int(s.source), place))
	to += wholeLine(s.view(to, maxRecord))
	c.Lose(int(s.source), place, to-from)
	c.SetPos(int(s.source), place, to, false)
}

// trim gives the memory of the spool back.
func (s *Stream) trim() {
	left := s.left()
	s.l.in.forget()
	if left > 0 {
		s.spool.Forget(s.spool.Size()-left, punchStep)
		return
	}
	if s.spool.Filed() >= emptyFrom {
		s.empty()
	}
}

// empty cuts the spool to nothing; every log has everything.
func (s *Stream) empty() {
	if s.spool.Size() > 0 && s.spool.Empty() == nil {
		s.l.cursor.Truncated(int(s.source))
		s.seen = 0
	}
}

// rest gives back what only a spool needs that much comes to.
func (s *Stream) rest() {
	s.l.in.forget()
	if s.spool.InRing() {
		_ = s.spool.Rest(s.spool.Size() - s.left()) // if there is no room for it elsewhere: the next time
	}
}

// useMemory changes the spool for one that dies with the process, and reports
// whether there is one. What a log has not had, at most a batch, goes with it.
func (s *Stream) useMemory() bool {
	memory, err := spool.New()
	if err != nil {
		if !s.throwing {
			s.l.options.Warn("No memory for the log spool: " + explain(err))
		}
		return false
	}
	var behind [spool.Logs]int64
	c, source := s.l.cursor, int(s.source)
	if s.spool != nil {
		size, unsettled := s.spool.Size(), false
		for place := range spool.Logs {
			unsettled = c.Detach(source, place) > 0 || unsettled
		}
		if left := s.left(); left > 0 && (unsettled || memory.Put(s.view(size-left, batch)) != nil) {
			_ = memory.Empty()
			s.dropOldest(0)
		}
		for log := range behind {
			behind[log] = size - s.pos(log)
		}
		s.empty()
		s.rest()
		s.spool.Close()
	}
	s.spool, s.volatile, s.seen = memory, true, memory.Size()
	c.Truncated(source)
	for log := range behind {
		c.SetPos(source, log, max(0, memory.Size()-behind[log]), c.Inside(source, log))
	}
	if s.l.options.Dir >= 0 {
		s.l.wake(loop.Now().After(lastPause))
	}
	return true
}

// close leaves the spool to a successor.
func (s *Stream) close() {
	s.Unwatch()
	if s.spool != nil {
		s.spool.Close()
	}
}
