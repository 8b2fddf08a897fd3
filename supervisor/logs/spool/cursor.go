package spool

import (
	"errors"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Streams and Logs are how many of each a cursor has room for. A log is known by its
// number, which a successor of another version must give it, too.
const (
	Streams = 2
	Logs    = 4
)

// CursorName is the cursor's file in the state directory.
const CursorName = "cursor"

// ErrCursor: the cursor file does not hold what a supervisor writes.
var ErrCursor = errors.New("cursor file is damaged")

// magic names the layout below. Another layout needs another magic, since a
// container may outlive the supervisor that wrote it.
const magic = 0x315352434c524721 // "!GRLCRS1"

// words is the content of the file, in the byte order of the machine: it never
// leaves it. Every word is written whole, so that none is ever torn.
type words struct {
	magic   uint64
	total   uint64                       // of log 0
	pos     [Streams][firstLogs]position // of log 0 and 1
	counted [Streams]uint64              // only of a terminal, which sets the top bit: bytes of the spool that are output
	intent  intent                       // of log 0
	// Of supervisors that knew no ring all this is 0, which means that there is none.
	ring [Streams]struct {
		// place says where the byte of an offset is: in the spool's file, at the
		// offset less this; or, with the top bit, in the ring, at the offset and this.
		place     uint64
		count, to uint64 // in the ring: where the output ends, and up to where it is being filled
	}
	mark [2]uint64 // what is at the end of a page of the ring before it is filled
	lost uint64    // bytes that a log will never have, of all streams and logs, said or not
	// more is 0 likewise of supervisors that knew no more than two logs, of which only
	// the first was a file.
	more [Logs]struct {
		total  uint64
		pos    [Streams]position
		intent intent
	}
}

// firstLogs are those that have had a place in the cursor from the beginning.
const firstLogs = 2

// position is how far one log has come in the spool of one stream.
type position struct {
	at      uint64 // offset up to which the log has everything; top bit: Inside
	dropped uint64 // bytes that the log will never have, not said in it yet
}

type intent struct {
	set, stream, from, to, dev, ino, before, bytes, total, dropped uint64
}

func (w *words) posOf(stream, log int) *position {
	if log < firstLogs {
		return &w.pos[stream][log]
	}
	return &w.more[log].pos[stream]
}

func (w *words) intentOf(log int) *intent {
	if log == 0 {
		return &w.intent
	}
	return &w.more[log].intent
}

func (w *words) totalOf(log int) *uint64 {
	if log == 0 {
		return &w.total
	}
	return &w.more[log].total
}

const (
	cursorSize = 4096
	inside     = 1 << 63
	counts     = 1 << 63
	inRing     = 1 << 63
	detached   = 2 // of intent.set
	maxOffset  = 1<<62 - 1
)

// Cursor holds how far each log has come in each spool. It is a page of the
// file in the state directory, mapped: to store a word takes no system call,
// and the page outlives the process.
type Cursor struct {
	w   *words
	mem []byte // nil: a cursor in plain memory
	fd  int    // of the file, as long as somebody else has it locked; else -1

	// Step is for tests that kill the process at every point: it is called before
	// and after each store.
	Step func()
}

func (c *Cursor) store(word *uint64, value uint64) {
	if c.Step != nil {
		c.Step()
	}
	atomic.StoreUint64(word, value)
	if c.Step != nil {
		c.Step()
	}
}

// Intent is what one write to a log file is going to do. While it is set the
// write may have happened wholly, partly, or not at all; Resolve tells which.
type Intent struct {
	Stream   int
	From, To int64  // of the spool: what is written
	Dev, Ino uint64 // the log file
	Before   int64  // its size before the write
	Bytes    int64  // how many are appended
	Total    int64  // Total afterwards
	Dropped  int64  // Dropped of the stream afterwards
}

// Outcome is what became of an interrupted write.
type Outcome uint8

// The outcomes.
const (
	Redo   Outcome = iota // nothing is in the file, write it again
	Torn                  // a part is in the file: cut it to Before and write it again
	Done                  // all of it is in the file
	Beyond                // the file is shorter than before: somebody else has cut it
)

// Resolve compares the intent with the size that the log file has now.
func (i Intent) Resolve(size int64) Outcome {
	switch {
	case size < i.Before:
		return Beyond
	case size == i.Before:
		return Redo
	case size < i.Before+i.Bytes:
		return Torn
	}
	return Done
}

// NewCursor makes a cursor in memory, for output that nobody is to go on with.
func NewCursor() *Cursor { return &Cursor{w: &words{magic: magic}, fd: -1} }

// OpenCursor opens the cursor of a state directory, or makes it. The error is
// ErrCursor if there is one that makes no sense, or a unix.Errno.
func OpenCursor(dir int) (*Cursor, error) {
	fd, err := open(dir, CursorName, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	c, err := useCursor(fd)
	if err != nil || c.lockSoon() {
		unix.Close(fd)
	}
	return c, err
}

func useCursor(fd int) (*Cursor, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Size != cursorSize {
		// Made just now, or by a supervisor that died before it used it. Written,
		// not extended: on a full tmpfs this is an error, where a store to the
		// mapping would be a SIGBUS.
		if _, err := unix.Pwrite(fd, make([]byte, cursorSize), 0); err != nil {
			return nil, err
		}
	}
	mem, err := unix.Mmap(fd, 0, cursorSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	c := &Cursor{w: (*words)(unsafe.Pointer(&mem[0])), mem: mem, fd: fd}
	if c.w.magic == 0 {
		atomic.StoreUint64(&c.w.magic, magic)
	}
	if !c.w.valid() {
		unix.Munmap(mem)
		return nil, ErrCursor
	}
	return c, nil
}

// A cursor is locked by the process that has it mapped: the kernel gives the lock
// back when the last thread of that is gone (flock(2), of the open file that the
// mapping keeps). Until then a write to a log may be under way in it, though it was
// killed: in a file system that does not answer. It has done nothing else since.

// lockSoon locks the cursor. One who was killed needs a moment to go.
func (c *Cursor) lockSoon() bool {
	const pause = 2 * time.Millisecond
	for range 50 {
		if c.lock() {
			return true
		}
		time.Sleep(pause)
	}
	return false
}

func (c *Cursor) lock() bool {
	if c.fd >= 0 && unix.Flock(c.fd, unix.LOCK_EX|unix.LOCK_NB) == unix.EWOULDBLOCK {
		return false
	}
	c.fd = -1
	return true
}

// Lock reports whether no other process can be writing to a log any more.
func (c *Cursor) Lock() bool {
	fd := c.fd
	if !c.lock() {
		return false
	}
	if fd >= 0 {
		unix.Close(fd)
	}
	return true
}

// Reset forgets everything: the spools are taken from their beginning.
func (c *Cursor) Reset() { *c.w = words{magic: magic} }

// valid reports whether a supervisor can have written this.
func (w *words) valid() bool {
	sum := w.lost
	for log := range Logs {
		sum |= *w.totalOf(log)
		if !w.intentOf(log).valid() {
			return false
		}
	}
	for s := range Streams {
		for log := range Logs {
			p := w.posOf(s, log)
			sum |= p.at&^uint64(inside) | p.dropped
		}
		sum |= w.counted[s] &^ counts
		r := &w.ring[s]
		sum |= r.place&^inRing | r.count | r.to
		if r.place&inRing != 0 && (r.place&^inRing >= ringSize || r.to < r.count || r.to-r.count > ringSize) {
			return false
		}
	}
	return sum <= maxOffset && w.magic == magic
}

func (i *intent) valid() bool {
	return i.set == 0 || i.set <= detached && i.stream < Streams && i.from <= i.to && i.to <= maxOffset &&
		i.before <= maxOffset && i.bytes <= maxOffset && i.total <= maxOffset && i.dropped <= maxOffset
}

// Close gives the mapping back. The file stays.
func (c *Cursor) Close() {
	if c.mem != nil {
		unix.Munmap(c.mem)
		c.mem = nil
	}
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
	c.w = nil
}

// Pos is how far the log has come in the spool of the stream.
func (c *Cursor) Pos(stream, log int) int64 {
	return int64(atomic.LoadUint64(&c.w.posOf(stream, log).at) &^ inside)
}

// Inside reports whether the last piece that the log took ended inside a line.
func (c *Cursor) Inside(stream, log int) bool {
	return atomic.LoadUint64(&c.w.posOf(stream, log).at)&inside != 0
}

// SetPos moves a log on, in one store.
func (c *Cursor) SetPos(stream, log int, to int64, insideLine bool) {
	at := uint64(to)
	if insideLine {
		at |= inside
	}
	c.store(&c.w.posOf(stream, log).at, at)
}

// Dropped is how many bytes of the stream the log has lost, and not said yet.
func (c *Cursor) Dropped(stream, log int) int64 {
	return int64(atomic.LoadUint64(&c.w.posOf(stream, log).dropped))
}

// SetDropped changes it.
func (c *Cursor) SetDropped(stream, log int, bytes int64) {
	c.store(&c.w.posOf(stream, log).dropped, uint64(bytes))
}

// Lose takes note of bytes that the log will never have.
func (c *Cursor) Lose(stream, log int, bytes int64) {
	c.SetDropped(stream, log, c.Dropped(stream, log)+bytes)
	c.store(&c.w.lost, atomic.LoadUint64(&c.w.lost)+uint64(bytes))
}

// Total is how many bytes were written to a log file, and to those before it, as
// --log-global-size-max counts.
func (c *Cursor) Total(log int) int64 { return int64(atomic.LoadUint64(c.w.totalOf(log))) }

// SetTotal changes it.
func (c *Cursor) SetTotal(log int, bytes int64) { c.store(c.w.totalOf(log), uint64(bytes)) }

// Begin sets the intent of a log, its mark last.
func (c *Cursor) Begin(log int, i *Intent) {
	w := c.w.intentOf(log)
	c.store(&w.stream, uint64(i.Stream))
	c.store(&w.from, uint64(i.From))
	c.store(&w.to, uint64(i.To))
	c.store(&w.dev, i.Dev)
	c.store(&w.ino, i.Ino)
	c.store(&w.before, uint64(i.Before))
	c.store(&w.bytes, uint64(i.Bytes))
	c.store(&w.total, uint64(i.Total))
	c.store(&w.dropped, uint64(i.Dropped))
	c.store(&w.set, 1)
}

// Intent gives the intent of a log that is set, if one is.
func (c *Cursor) Intent(log int) (Intent, bool) {
	w := c.w.intentOf(log)
	return Intent{
		Stream: int(w.stream), From: int64(w.from), To: int64(w.to),
		Dev: w.dev, Ino: w.ino, Before: int64(w.before), Bytes: int64(w.bytes),
		Total: int64(w.total), Dropped: int64(w.dropped),
	}, atomic.LoadUint64(&w.set) != 0
}

// Detach has the intent of a log, if it is one of the stream, say only what it says of the
// log file: before output is given up whose write is not settled yet, or offsets
// begin anew. It gives the offset up to which output is to be given up then, since
// the log may have it.
func (c *Cursor) Detach(stream, log int) (to int64) {
	if i := c.w.intentOf(log); atomic.LoadUint64(&i.set) == 1 && i.stream == uint64(stream) {
		c.store(&i.set, detached)
		return int64(i.to)
	}
	return 0
}

// Commit says that the intended write has happened: it moves the log on and
// clears the intent, the mark last. Done again by a successor it does the same.
func (c *Cursor) Commit(log int) {
	i, _ := c.Intent(log)
	set := &c.w.intentOf(log).set
	if atomic.LoadUint64(set) != detached {
		c.SetPos(i.Stream, log, i.To, false)
		c.SetDropped(i.Stream, log, i.Dropped)
	}
	c.SetTotal(log, i.Total)
	c.store(set, 0)
}

// Abort says that nothing of the intended write is in the log.
func (c *Cursor) Abort(log int) { c.store(&c.w.intentOf(log).set, 0) }

// place says where the output of a stream is: in the ring, or in the spool's
// file.
func (c *Cursor) place(stream int) (ring bool, at int64) {
	place := atomic.LoadUint64(&c.w.ring[stream].place)
	return place&inRing != 0, int64(place &^ inRing)
}

func (c *Cursor) setPlace(stream int, ring bool, at int64) {
	place := uint64(at)
	if ring {
		place |= inRing
	}
	c.store(&c.w.ring[stream].place, place)
}

// ringFill is where the output in the ring ends, and up to where it was going to
// be filled.
func (c *Cursor) ringFill(stream int) (count, to int64) {
	r := &c.w.ring[stream]
	return int64(atomic.LoadUint64(&r.count)), int64(atomic.LoadUint64(&r.to))
}

func (c *Cursor) setRingCount(stream int, offset int64) {
	c.store(&c.w.ring[stream].count, uint64(offset))
}

func (c *Cursor) setRingTo(stream int, offset int64) {
	c.store(&c.w.ring[stream].to, uint64(offset))
}

func (c *Cursor) pageMark() (low, high uint64) { return c.w.mark[0], c.w.mark[1] }

// makeMark makes the mark, once. It is random, so that no output ends like it.
func (c *Cursor) makeMark() error {
	if atomic.LoadUint64(&c.w.mark[1]) != 0 {
		return nil
	}
	var random [2]uint64
	b := unsafe.Slice((*byte)(unsafe.Pointer(&random)), unsafe.Sizeof(random))
	if n, err := unix.Getrandom(b, 0); err != nil || n < len(b) {
		return unix.EAGAIN
	}
	c.store(&c.w.mark[0], random[0])
	c.store(&c.w.mark[1], random[1]|1)
	return nil
}

// Truncated puts the logs of a stream back to the beginning after its spool was
// cut to nothing.
func (c *Cursor) Truncated(stream int) {
	for log := range Logs {
		c.Detach(stream, log)
	}
	if atomic.LoadUint64(&c.w.ring[stream].place) != 0 {
		c.setPlace(stream, false, 0)
	}
	for log := range Logs {
		c.SetPos(stream, log, 0, c.Inside(stream, log))
	}
	if counted := &c.w.counted[stream]; atomic.LoadUint64(counted) != 0 {
		c.store(counted, counts)
	}
}

// Fit puts logs right that are not between the first byte that the spool has and
// its end: they had everything, and the spool was cut.
func (c *Cursor) Fit(stream int, first, size int64) {
	for log := range Logs {
		if at := c.Pos(stream, log); at < first || at > size {
			c.SetPos(stream, log, first, c.Inside(stream, log))
		}
	}
}
