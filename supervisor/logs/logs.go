// Package logs takes what a container writes and puts it where its log drivers
// say, and to attached clients. A driver is a file of its own, behind the interface
// log of driver.go, which has the table of all of them.
//
// A supervisor opens the logs of its container once, and gives each pipe (or
// pty) of the container to them:
//
//	l, err := logs.Open(logs.Options{Targets: targets, Dir: stateDir, Loop: loop, ...})
//	out := l.Stream(logs.Stdout, pipe, false)
//	out.Sink = attached.Send            // optional
//	out.Watch(func() { ... })           // told when the container has closed it
//	...
//	out.Drain()                         // init has exited: take what is left
//	l.Finish()                          // write lines without an end, release the spool
//	l.Sync(); l.Close()
//
// After the death of a supervisor the next one does the same with the same
// state directory: Open finds the spool and goes on at the exact byte (see
// package spool for why that holds). It does not wait and does not block: a log
// that cannot be written leaves the output in the spool, and a timer of the loop
// tries again.
//
// # What is lost, and when
//
// While a log cannot be written (disk full, journald dead), up to SpoolMax bytes
// of each stream are kept for it. What goes beyond that is dropped, the oldest
// lines first, since the last words of a container tell more about its end. When
// the log can be written again a line in it says how many bytes are missing. If
// the tmpfs of the spool is full too, output is taken from the pipe without it,
// and is lost to a log that cannot be written at that moment; the count of
// dropped bytes has it. A journald that lives but is slow slows the container
// down, as it does with conmon, until it has not moved for five seconds.
//
// Nothing here allocates while output flows. Buffers are mapped when there is
// something to move and given back when the container has been quiet.
//
// Source of truth for formats and messages: containers/conmon,
// src/ctr_logging.c, version 2.2.1.
package logs

import (
	"slices"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs/spool"
	"gracerun.io/supervisor/loop"
)

// Source is the stream of a container that output came from.
type Source uint8

// The streams. A container with a terminal has Stdout alone.
const (
	Stdout Source = iota
	Stderr

	sources = 2
)

func (s Source) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// Result is what Readable has left behind.
type Result uint8

// The results of Readable.
const (
	// More: a batch was moved and there is more; call again, after others had
	// their turn.
	More Result = iota
	// Again: everything was moved. Wait for the descriptor to become readable.
	Again
	// EOF: nobody has the other end open. Of a pipe that is final as soon as the
	// container was given its end; a terminal may be opened again.
	EOF
	// Held: the log is alive but slow and the spool is full. Stop polling the
	// descriptor until Tick has been called; Watch does so by itself.
	Held
)

// Options says where output goes. The zero value of a limit means no limit.
type Options struct {
	Targets []Target // the logs

	SizeMax       int64    // --log-size-max, bytes; not positive: no limit
	GlobalSizeMax int64    // --log-global-size-max, bytes; not positive: no limit
	Rotate        bool     // --log-rotate: keep what was full instead of dropping it
	MaxFiles      int      // --log-max-files
	AllowDirs     []string // each --log-allowlist-dir

	ID     string   // --cid
	Name   string   // --name, "" for none
	Tag    string   // --log-tag, "" for none
	Labels []string // each --log-label

	NoPartialMessage bool // --no-container-partial-message

	// Dir is the state directory (a descriptor that stays open as long as the
	// logs), for spool and cursor. -1: without them, so that a dead supervisor
	// takes what it had read with it.
	Dir int

	// SpoolMax is how many bytes of each stream are kept for a log that cannot
	// be written; 0 is DefaultSpoolMax.
	SpoolMax int64

	// Loop is for timers and for Watch. Without one the caller calls Tick.
	Loop *loop.Loop

	// JournalSocket is where journald listens; "" is JournalSocket.
	JournalSocket string

	// Warn is told what an operator should know, one line without its end, once
	// for each time that something begins to fail.
	Warn func(text string)

	// Fault, if not nil, is called before and after each write to a log file; an
	// error is taken for one of the write. It is for fault plans.
	Fault func(after bool) error

	step func() // of the cursor, for tests
}

// DefaultSpoolMax is small enough that a full log disk under some hundred
// containers does not fill /run, and large enough for a restart of journald.
const DefaultSpoolMax = 8 << 20

// Logs are the logs of one container, and what is on its way to them.
type Logs struct {
	options     Options
	logs        []placed
	passthrough bool

	cursor  *spool.Cursor
	streams [sources]*Stream
	in      input

	due   lifecycle.Instant
	timer loop.Timer

	finished bool              // no more output will come
	quiet    lifecycle.Instant // when to see whether the buffers are to be given back; 0: they are small
	moved    int               // bytes, since quiet was set
}

// Open opens the logs. With the cursor
// of a predecessor in the state directory it first settles the write that the
// predecessor had begun; what is in its spool then is written at once.
//
// Errors have conmon's words, without its "[conmon:e]: ". A log that a
// predecessor had open and that cannot be opened now is not an error: it is
// tried again later.
func Open(options Options) (*Logs, error) {
	l := &Logs{options: options, due: lifecycle.Never}
	l.timer.Fire = l.Tick
	if l.options.SpoolMax <= 0 {
		l.options.SpoolMax = DefaultSpoolMax
	}
	if l.options.Warn == nil {
		l.options.Warn = func(string) {}
	}
	l.makeLogs()
	if l.openCursor() {
		l.resume()
		return l, nil
	}
	for _, log := range l.logs {
		if err := log.open(); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// Check finds what Open would find wrong, and makes the log files. A FIFO it does not
// open: its reader would see the end of the log.
func Check(options Options) error {
	var fifo error
	options.Targets = slices.DeleteFunc(slices.Clone(options.Targets), func(t Target) bool {
		if t.Path == "" || !isFIFO(t.Path) {
			return false
		}
		if err := unix.Access(t.Path, unix.R_OK|unix.W_OK); err != nil {
			fifo = words("Failed to open log file", err)
		}
		return true
	})
	if fifo != nil {
		return fifo
	}
	options.Dir = -1
	l, err := Open(options)
	if err == nil {
		l.Close()
	}
	return err
}

// Passthrough reports whether the container is to write to the caller's own
// stdout and stderr. There are no streams to read then, whatever other drivers
// were asked for, and no attach socket.
func (l *Logs) Passthrough() bool { return l.passthrough }

// openCursor opens the cursor of the state directory, and reports whether a
// predecessor has left one there. Without one it goes on in memory.
func (l *Logs) openCursor() (successor bool) {
	if l.options.Dir >= 0 && !l.passthrough {
		successor = spool.Exists(l.options.Dir, spool.CursorName)
		cursor, err := spool.OpenCursor(l.options.Dir)
		if err == nil {
			cursor.Step = l.options.step
			l.cursor = cursor
			return successor
		}
		l.options.Warn("No cursor for the log spool: " + explain(err) +
			": what is on its way to the log dies with this process")
		l.options.Dir = -1
	}
	l.cursor = spool.NewCursor()
	return false
}

// resume goes on where a predecessor was killed.
func (l *Logs) resume() {
	for source := range Source(sources) {
		if spool.Exists(l.options.Dir, spoolName(source)) {
			l.stream(source)
		}
	}
	l.abortUnused()
	for _, log := range l.logs {
		log.resume()
	}
	for _, s := range l.streams {
		if s != nil {
			s.seen = s.spool.Size() // whoever was attached is not any more
			moved := s.left()
			s.distribute(false, false)
			l.touched(s, int(moved))
		}
	}
}

// fit puts positions right that a predecessor could not put right any more.
func (l *Logs) fit() {
	for _, s := range l.streams {
		if s != nil {
			l.cursor.Fit(int(s.source), s.spool.First(), s.spool.Size())
		}
	}
}

// Kept reports whether nothing of the output is in this process alone: another
// one with the same state directory can go on with it at any time.
func (l *Logs) Kept() bool {
	if l.options.Dir < 0 || l.passthrough {
		return false
	}
	for _, log := range l.logs {
		if !log.isKept() {
			return false
		}
	}
	for _, s := range l.streams {
		if s != nil && (s.volatile || s.throwing || s.held) {
			return false
		}
	}
	return true
}

// Carried is how many bytes there are that a log has not had and that this
// process alone has.
func (l *Logs) Carried() (bytes int64) {
	for _, s := range l.streams {
		if s != nil && s.volatile {
			bytes += s.left()
		}
	}
	return bytes
}

// Keep opens a log that is a FIFO once more, for writing, the first one if there are
// several; -1 if none is. Whoever
// has it open when this process ends keeps its reader from taking that for the end,
// and its content, until a successor has opened it.
func (l *Logs) Keep() int {
	for _, log := range l.logs {
		if fd := log.keep(); fd >= 0 {
			return fd
		}
	}
	return -1
}

// Reopen is what conmon does when its ctl FIFO tells it to reopen its logs: the
// log file gives way to a new one. One that somebody has moved away is left
// where it is; else it is rotated (Rotate), or written on.
func (l *Logs) Reopen() {
	for _, log := range l.logs {
		log.reopen()
	}
}

// Late brings all that was written to the journal, or a FIFO, lines without an end
// too, and reports whether one has to be waited for that takes what is left as fast
// as it can, or a journald that has gone a short while ago and may be on its way
// back, or a file system that is slow. It is for before Finish, as often as it gives
// true.
func (l *Logs) Late() bool {
	left := [spool.Logs]bool{}
	for _, s := range l.streams {
		if s == nil || s.fd < 0 {
			continue
		}
		s.Drain()
		s.distribute(true, true)
		for place := range left {
			left[place] = left[place] || s.pos(place) < s.spool.Size()
		}
	}
	late := false
	for _, log := range l.logs {
		late = log.isLate(left[log.place]) || late
	}
	return late || !l.Synced()
}

// exitPatience is how long the exit waits for one write to a file, or for its content
// to be on its disk.
const exitPatience = 2 * lifecycle.Second

// Synced reports whether the content of all log files is on its disk, as Sync wants
// it, or nobody is to wait for that.
func (l *Logs) Synced() bool {
	for _, log := range l.logs {
		if since := log.hangs(); since != 0 && loop.Now() < since.After(exitPatience) {
			return false
		}
	}
	return true
}

// Finish writes what is there of lines that have no end yet, since none will come.
// The container has ended; nothing may be read from its streams afterwards. What a
// log in trouble cannot take goes on being tried: Owed tells when it is done.
func (l *Logs) Finish() {
	l.finished = true
	for _, s := range l.streams {
		if s == nil {
			continue
		}
		l.tryAgain(lifecycle.Never)
		s.distribute(true, true)
		if s.left() == 0 {
			s.empty()
		}
		s.rest() // the state directory may stay for long
	}
}

// Hangs reports whether a call for a log file has not come back yet: then something
// is to be waited for even if nothing is owed.
func (l *Logs) Hangs() bool {
	return slices.ContainsFunc(l.logs, func(log placed) bool { return log.hangs() != 0 })
}

// Owed is how many bytes of output a log has not had yet.
func (l *Logs) Owed() (bytes int64) {
	for _, s := range l.streams {
		if s != nil {
			bytes += s.left()
		}
	}
	return bytes
}

// Forgo takes note that the logs will never have what is owed to them.
func (l *Logs) Forgo() {
	for _, s := range l.streams {
		if s == nil {
			continue
		}
		for _, log := range l.logs {
			if left := s.spool.Size() - s.pos(log.place); left > 0 {
				l.cursor.Lose(int(s.source), log.place, left)
			}
		}
	}
}

// Sync has the log file written to its disk.
func (l *Logs) Sync() {
	for _, log := range l.logs {
		log.sync()
	}
}

// Close gives descriptors and memory back. What Finish has not written stays in
// the spool, for a successor.
func (l *Logs) Close() {
	if l.options.Loop != nil {
		l.options.Loop.Arm(&l.timer, lifecycle.Never)
	}
	for _, log := range l.logs {
		log.close()
	}
	for _, s := range l.streams {
		if s != nil {
			s.close()
		}
	}
	l.cursor.Close()
	l.in.free()
}
