package logs

import (
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

const (
	// patience is how long a journald, or a FIFO, that does not move may hold the
	// container up before output is dropped instead.
	patience = 5 * lifecycle.Second

	// restartPatience is how long the exit of a container waits for a journald that
	// has gone: it is started again by systemd within a second or two.
	restartPatience = 10 * lifecycle.Second

	// quietFor is how long hardly anything must have moved before buffers are given
	// back.
	quietFor = lifecycle.Second

	// paceAfter times in a row must a stream have been ready within two periods,
	// before it is looked at only once a period.
	paceAfter  = 16
	pacePeriod = lifecycle.Millisecond

	// paceMost is how much may have come in a period, so that the pipe has room for
	// four of them, and paceAgainAfter how often more a stream must have been ready
	// that was looked at once a period, and had more.
	paceMost       = bigPipe / 4
	paceAgainAfter = 10 * paceAfter
)

// Due is when Tick wants to be called; lifecycle.Never if it does not. It is for
// those who have given no Loop.
func (l *Logs) Due() lifecycle.Instant { return l.due }

// wake has Tick called at the instant, if not sooner.
func (l *Logs) wake(at lifecycle.Instant) {
	if at < l.due {
		l.due = at
		if l.options.Loop != nil {
			l.options.Loop.Arm(&l.timer, at)
		}
	}
}

// Tick does what is due: tries again what did not work, and gives memory back.
// The Loop calls it; it does no harm at any time.
func (l *Logs) Tick() {
	now := loop.Now()
	l.due = lifecycle.Never
	l.tryAgain(now)
	l.rewatch()
	for _, s := range l.streams {
		if s != nil {
			s.backToState()
		}
	}
	if l.quiet != 0 && now >= l.quiet {
		if l.moved >= idleSize {
			l.moved, l.quiet = 0, now.After(quietFor)
		} else {
			l.rest()
		}
	}
	if l.quiet != 0 {
		l.wake(l.quiet)
	}
}

// tryAgain tries logs that were in trouble, and writes what they have not had.
func (l *Logs) tryAgain(now lifecycle.Instant) {
	tried := false
	for _, log := range l.logs {
		tried = log.retry(now) || tried
	}
	if tried {
		l.catchUp()
	}
}

// catchUp gives logs what they have not had.
func (l *Logs) catchUp() {
	for _, s := range l.streams {
		if s != nil {
			s.distribute(true, l.finished)
		}
	}
	l.rewatch()
}

// rewatch watches streams again that were held, if they need not be any more.
func (l *Logs) rewatch() {
	for _, s := range l.streams {
		if s != nil && s.held && !s.mustWait() {
			s.held = false
			s.rewatch()
		}
	}
}

// touched takes note that n bytes were moved: buffers are in use, and are to be
// given back some time.
func (l *Logs) touched(s *Stream, n int) {
	l.moved += n
	if l.quiet == 0 && (n >= idleSize || s.spool.InRing()) {
		l.quiet = loop.Now().After(quietFor)
		l.moved = 0
		l.wake(l.quiet)
	}
}

// rest gives back what a quiet container does not need.
func (l *Logs) rest() {
	l.quiet = 0
	l.in.shrink()
	for _, log := range l.logs {
		log.idle()
	}
	for _, s := range l.streams {
		if s == nil {
			continue
		}
		if s.left() == 0 {
			s.empty()
		}
		s.rest()
	}
}

// mustWait reports whether a log of the stream is alive but slow, and no room is
// left to put output that it has not taken.
func (s *Stream) mustWait() bool {
	for _, log := range s.l.logs {
		if s.spool.Size()-s.pos(log.place) >= s.l.options.SpoolMax-batch && log.isSlow() {
			return true
		}
	}
	return false
}

// Watch has the Loop call Readable, and ended each time that nobody has the
// other end open any more. For a pipe that is once: it is not watched any longer
// then. A terminal may be opened again, and is looked at every 100 ms.
//
// A container that writes all the time is not looked at for each of its writes,
// which would cost both sides a switch of the processor, but once in a
// millisecond, as long as its pipe has room for what it writes meanwhile.
func (s *Stream) Watch(ended func()) error {
	s.ended = ended
	if s.handler == nil {
		s.handler, s.timer.Fire = loop.HandlerFunc(s.ready), s.look
	}
	if s.left() > 0 {
		s.distribute(true, false) // what a predecessor has left, should nothing more come
	}
	return s.watch()
}

// Unwatch ends Watch.
func (s *Stream) Unwatch() {
	s.unwatch()
	if s.l.options.Loop != nil {
		s.l.options.Loop.Arm(&s.timer, lifecycle.Never)
	}
	s.ended = nil
}

func (s *Stream) watch() error {
	if s.watched {
		return nil
	}
	err := s.l.options.Loop.Add(s.fd, loop.Readable, s.handler)
	s.watched = err == nil
	return err
}

func (s *Stream) unwatch() {
	if s.watched {
		s.l.options.Loop.Remove(s.fd)
		s.watched = false
	}
}

// rewatch watches again what was not watched for a while.
func (s *Stream) rewatch() {
	if s.ended != nil && !s.watched {
		if err := s.watch(); err != nil {
			s.l.options.Warn("Failed to watch " + s.source.String() + " of the container: " + err.Error())
		}
	}
}

func (s *Stream) ready(uint32) {
	switch s.Readable() {
	case Again:
		s.pace()
	case Held:
		s.held = true
		s.unwatch()
	case EOF:
		s.end()
	}
}

// pace stops watching a stream that is ready again and again, for a moment.
func (s *Stream) pace() {
	now := loop.Now()
	if busy := now < s.last.After(2*pacePeriod); !busy || s.terminal {
		s.streak = 0
	} else if s.streak++; s.streak >= paceAfter && s.grow() && s.took < paceMost {
		s.unwatch()
		s.l.options.Loop.Arm(&s.timer, now.After(pacePeriod))
	}
	s.last = now
}

// look is called some time after watching a stream was given up.
func (s *Stream) look() {
	if s.ended == nil || s.held || s.watched {
		return
	}
	if s.terminal {
		s.rewatch()
		return
	}
	result, took := s.Readable(), s.took
	for result == More && took < paceMost {
		result = s.Readable()
		took += s.took
	}
	switch result {
	case Again, More:
		if took > 0 && took < paceMost {
			s.last = loop.Now()
			s.l.options.Loop.Arm(&s.timer, s.last.After(pacePeriod))
			return
		}
		s.streak = 0
		if took > 0 {
			s.streak = -paceAgainAfter // it is too fast for that
		}
		s.rewatch()
	case Held:
		s.held = true
	case EOF:
		s.end()
	}
}

func (s *Stream) end() {
	s.unwatch()
	ended := s.ended
	if s.terminal {
		s.l.options.Loop.Arm(&s.timer, loop.Now().After(reopenTerminal))
	} else {
		s.ended = nil
	}
	if ended != nil {
		ended()
	}
}
