package logs

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/aside"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs/spool"
)

// format is how a log file looks.
type format interface {
	// begin begins records of what was read of the stream at that time.
	begin(now time.Time, source Source)

	// records makes records of output, whole ones, and gives the length of them and how
	// much of the data is in them. end says that what is left of the data without the
	// end of a line is to be a record, too.
	records(out, data []byte, end bool, r room) (made, used int, why stop)

	// isEnd says of flush and finish (see log) whether they are such an end.
	isEnd(flush, finish bool) bool

	// longest is the length of the longest record.
	longest() int
}

// room is what may still be written.
type room struct {
	file, total int64
	one         bool // one record goes into the file even if it is too large
}

const noLimit = math.MaxInt64

// stop says why a format has stopped making records.
type stop uint8

const (
	dataDone  stop = iota // of the data nothing is left, or the beginning of a record
	outFull               // no further record fits in the buffer
	fileFull              // none fits in the file (--log-size-max)
	totalFull             // none may be written any more (--log-global-size-max)
)

// file is a log that is a file, in a format.
type file struct {
	l      *Logs
	place  int
	path   string
	format format
	buffer buffer // where records are made: see out

	fd       int // -1: not open
	dev, ino uint64
	regular  bool
	medium   medium // where it is

	// Of what is no regular file.
	flow       congestion
	rest       []byte // of records that were written in part; the intent is theirs
	writesOnly bool   // a FIFO: see unread

	// What may not come back from the kernel is done in calls of the line.
	line      aside.Line
	turn      func()  // of advance, made once
	stream    *Stream // and what for
	flush     bool
	finish    bool
	call      func() // write(2), made once
	unwritten []byte // what it writes
	wrote     int
	errno     unix.Errno
	look      func() // fstat(2), made once
	looked    int
	lookErr   error
	reopens   bool                          // that was asked for while the line was busy
	landed    func(n int, errno unix.Errno) // of fly, made once

	intent  spool.Intent
	rotated bool // nothing was written since, so that a record of any size fits

	trouble   trouble
	unsettled bool              // a write was interrupted, and the file could not be looked at
	oversize  lifecycle.Instant // until when the file grows beyond its limit, since it cannot be replaced
	stat      unix.Stat_t
}

func newFile(l *Logs, place int, path string, format format) *file {
	k := &file{l: l, place: place, path: path, format: format, fd: -1, flow: congestion{l: l, waiting: -1}}
	k.line.Loop, k.line.Ended = l.options.Loop, k.cameBack
	k.turn = func() { k.advanceNow(k.stream) }
	k.call, k.look, k.landed = k.writeOnce, k.fstatOnce, k.land
	return k
}

func (k *file) open() error {
	if err := k.reach(); err != nil {
		return words("Failed to open log file", err)
	}
	return nil
}

func (k *file) resume() {
	k.unsettled = true
	k.tryAgain()
}

// reach opens the file to append to it, as conmon does.
func (k *file) reach() error {
	fd := -1
	var err error
	k.line.Call(func() {
		if err = k.mayCreate(); err != nil {
			return
		}
		if isFIFO(k.path) {
			fd, err = openFIFO(k.path)
		} else {
			fd, err = openLog(k.path, 0)
		}
	})
	if err != nil {
		return err
	}
	return k.use(fd)
}

func openLog(path string, flags int) (int, error) {
	const always = unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NONBLOCK
	for {
		fd, err := unix.Open(path, always|flags, 0o640)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// use takes fd for the log from now on.
func (k *file) use(fd int) error {
	if err := k.fstat(fd); err != nil {
		unix.Close(fd)
		return err
	}
	first := k.fd < 0 && k.ino == 0
	k.leave()
	k.fd, k.dev, k.ino = fd, k.stat.Dev, k.stat.Ino
	k.regular = k.stat.Mode&unix.S_IFMT == unix.S_IFREG
	k.medium = remote
	if k.regular {
		k.line.Call(func() { k.medium = mediumOf(fd) })
	}
	if first && k.l.cursor.Total(k.place) == 0 {
		k.l.cursor.SetTotal(k.place, k.stat.Size)
	}
	return nil
}

func (k *file) close() {
	if k.isBusy() {
		k.line.Abandon() // the kernel may still read the records
		return
	}
	k.leave()
	k.buffer.free()
}

func (k *file) isKept() bool { return !k.flow.isWaiting() }

func (k *file) hangs() lifecycle.Instant { return k.line.Since() }

func (k *file) idle() {
	if !k.isBusy() { // else the kernel may still read the records
		k.buffer.shrink()
	}
}

func (k *file) isSlow() bool { return k.flow.isSlow() }

func (k *file) isLate(left bool) bool {
	return !k.line.Busy() && (left || k.unread()) && k.flow.isSlow()
}

// keep is for a FIFO alone.
func (k *file) keep() int {
	if k.fd < 0 || k.regular {
		return -1
	}
	fd, err := k.openWriter()
	if err != nil {
		return -1
	}
	return fd
}

// leave closes the file.
func (k *file) leave() {
	if k.fd >= 0 {
		k.flow.stop()
		fd := k.fd
		k.line.Call(func() { unix.Close(fd) }) // NFS writes what is left
		k.fd = -1
	}
}

// fstat looks at a file that a server may have.
func (k *file) fstat(fd int) error {
	k.looked = fd
	k.line.Call(k.look)
	return k.lookErr
}

func (k *file) fstatOnce() { k.lookErr = unix.Fstat(k.looked, &k.stat) }

func (k *file) sync() {
	if k.fd < 0 || k.isBusy() {
		return
	}
	ended := k.line.Do(func() {
		var err error
		fd := k.fd
		k.line.Call(func() { err = unix.Fsync(fd) })
		if err != nil && err != unix.EINVAL {
			k.l.options.Warn("Failed to sync log file before exit: " + explain(err))
		}
	})
	if !ended {
		k.leftBehind()
	}
}

// settle finds out what became of a write that a predecessor, or a disk, has
// interrupted.
func (k *file) settle() {
	intent, set := k.l.cursor.Intent(k.place)
	if !set {
		k.unsettled = false
		return
	}
	fd := k.fd
	if fd >= 0 && (intent.Dev != k.dev || intent.Ino != k.ino) {
		// Somebody has moved the file away since; it is the old one that counts.
		k.line.Call(func() { fd = openByInode(k.path, intent.Dev, intent.Ino) })
		if fd >= 0 {
			defer unix.Close(fd)
		} else {
			k.l.cursor.Abort(k.place) // deleted: write it to the new one
			k.unsettled = false
			return
		}
	}
	err := k.fstat(fd)
	if err == nil {
		switch intent.Resolve(k.stat.Size) {
		case spool.Done:
			k.l.cursor.Commit(k.place)
		case spool.Torn:
			if err = k.truncate(fd, intent.Before); err == nil {
				k.l.cursor.Abort(k.place)
			}
		default:
			k.l.cursor.Abort(k.place)
		}
	}
	if k.unsettled = err != nil; k.unsettled {
		k.failed(err)
	}
	k.l.fit()
}

// While a write does not come back the output stays in the spool, and the container
// waits when that is full; after some seconds that is trouble as any other.
func (k *file) advance(s *Stream, flush, finish bool) {
	if k.isBusy() || k.trouble.err != nil || k.flow.isWaiting() || !flush && k.fly(s) {
		return
	}
	k.stream, k.flush, k.finish = s, flush, finish
	if k.medium == memory {
		k.turn()
	} else if !k.line.Do(k.turn) {
		k.leftBehind()
	}
}

// isBusy reports whether the file has to be left alone since it does not answer. It
// waits a moment for a write that is under way.
func (k *file) isBusy() bool {
	known := k.line.Busy()
	if k.line.Land() {
		return false
	}
	if !known {
		k.leftBehind()
	}
	return true
}

// leftBehind takes note that the file does not answer.
func (k *file) leftBehind() {
	if k.flow.since == 0 {
		k.flow.since = k.line.Since()
	}
	k.l.wake(k.flow.since.After(patience)) // then it is trouble
}

// cameBack goes on when the kernel has come back and all is done that was begun.
func (k *file) cameBack() {
	k.flow.moved()
	if k.trouble.err == errHangs {
		k.trouble.err = nil
	}
	if k.reopens {
		k.reopens = false
		k.reopen()
	}
	k.l.catchUp()
}

// errUndead: see spool.Cursor.Lock.
var errUndead = errors.New("The supervisor before this one was killed, and the kernel still writes to it") //lint:ignore ST1005 likewise

var errHangs = errors.New("Its file system does not answer") //lint:ignore ST1005 as the words of strerror(3)

func (k *file) advanceNow(s *Stream) {
	for (k.trouble.err == nil || k.trouble.err == errHangs) && !k.flow.isWaiting() {
		if len(k.rest) > 0 && !k.pushRest() {
			return
		}
		if s.pos(k.place) == s.spool.Size() && k.l.cursor.Dropped(int(s.source), k.place) == 0 {
			return
		}
		// From here to the intent no call is left behind, since the loop would go on
		// with the buffers and drop output meanwhile.
		before, ok := k.size()
		if !ok {
			return
		}
		if k.l.cursor.Dropped(int(s.source), k.place) > 0 {
			if !k.sayDropped(s, before) {
				return
			}
			continue
		}
		pos, size := s.pos(k.place), s.spool.Size()
		if pos == size {
			return
		}
		most := batch
		if k.trouble.cautious {
			most = maxRecord // a full disk may have room for a little
		}
		data := s.view(pos, most)
		end := k.format.isEnd(k.flush, k.finish) && pos+int64(len(data)) == size
		if len(data) == 0 || !k.write(s, pos, data, before, end) {
			return
		}
	}
}

// write writes records for some of the data, and reports whether that was a step
// forward.
func (k *file) write(s *Stream, pos int64, data []byte, before int64, end bool) bool {
	r := k.room(before)
	k.format.begin(time.Now(), s.source)
	out := k.out(before)
	if !k.regular {
		out = out[:atOnce]
	}
	made, used, why := k.format.records(out, data, end, r)
	if made == 0 && why == outFull { // a long line, and no regular file
		out = out[:k.format.longest()]
		made, used, why = k.format.records(out, data, end, r)
	}
	if made > 0 {
		to := pos + int64(used)
		if !k.append(s, out[:made], before, pos, to, k.l.cursor.Dropped(int(s.source), k.place)) {
			return false
		}
		k.rotated = false
	}
	switch why {
	case fileFull:
		k.replaceFull()
		return true
	case totalFull:
		k.l.cursor.SetPos(int(s.source), k.place, s.spool.Size(), false)
	}
	return used > 0
}

// room is what may be written to a file of that size.
func (k *file) room(size int64) room {
	r := room{noLimit, noLimit, k.rotated}
	if most := k.l.options.SizeMax; most > 0 && k.regular && !k.isOversize() {
		r.file = most - size
	}
	if most := k.l.options.GlobalSizeMax; most > 0 {
		r.total = most - k.l.cursor.Total(k.place)
	}
	return r
}

// out is where records are made for the end of a file of that size: as far into a page
// as they are going to be in the file, which makes them half as expensive to copy.
func (k *file) out(size int64) []byte { return k.buffer.bytes(outSize)[size%spool.PageSize:] }

// size is the size of the file, which is made again if somebody has deleted it.
func (k *file) size() (int64, bool) {
	err := k.fstat(k.fd)
	if err == nil && k.stat.Nlink == 0 && k.regular {
		err = k.reach()
	}
	if err != nil {
		k.failed(err)
		return 0, false
	}
	return k.stat.Size, true
}

// append writes whole records to the end of the file, all or none of them.
func (k *file) append(s *Stream, records []byte, before, from, to, dropped int64) bool {
	k.begin(s, len(records), before, from, to, dropped)
	if !k.regular {
		return k.push(records)
	}
	if err := k.writeAll(records); err != nil {
		k.failed(err)
		k.takeBack()
		return false
	}
	k.l.cursor.Commit(k.place)
	k.works()
	return true
}

// begin stores what is going to be written.
func (k *file) begin(s *Stream, bytes int, before, from, to, dropped int64) {
	k.intent = spool.Intent{
		Stream: int(s.source), From: from, To: to,
		Dev: k.dev, Ino: k.ino, Before: before, Bytes: int64(bytes),
		Total: k.l.cursor.Total(k.place) + int64(bytes), Dropped: dropped,
	}
	k.l.cursor.Begin(k.place, &k.intent)
}

// takeBack cuts off what was written in part.
func (k *file) takeBack() {
	if err := k.truncate(k.fd, k.intent.Before); err != nil {
		k.unsettled = true // and the intent stays
	} else {
		k.l.cursor.Abort(k.place)
	}
}

func (k *file) writeAll(rest []byte) error {
	fault := k.l.options.Fault
	if fault != nil {
		if err := fault(false); err != nil {
			return err
		}
	}
	for len(rest) > 0 {
		k.unwritten = rest
		k.line.Call(k.call)
		if k.errno == unix.EINTR {
			continue
		}
		if k.errno != 0 {
			return k.errno
		}
		rest = rest[k.wrote:]
	}
	if fault != nil {
		return fault(true)
	}
	return nil
}

func (k *file) writeOnce() {
	write := unix.Syscall
	if k.medium == memory {
		write = unix.RawSyscall // nothing but memory is waited for
	}
	n, _, errno := write(unix.SYS_WRITE, uintptr(k.fd), uintptr(unsafe.Pointer(&k.unwritten[0])), uintptr(len(k.unwritten)))
	k.wrote, k.errno = int(n), errno
}

func (k *file) truncate(fd int, size int64) (err error) {
	k.line.Call(func() { err = unix.Ftruncate(fd, size) })
	return err
}

// sayDropped writes into the log what is missing in it.
func (k *file) sayDropped(s *Stream, before int64) bool {
	pos := s.pos(k.place)
	text := "[gracerun: " + strconv.FormatInt(k.l.cursor.Dropped(int(s.source), k.place), 10) +
		" bytes of output are missing here: the log could not be written]\n"
	k.format.begin(time.Now(), s.source)
	out := k.out(before)
	made, _, _ := k.format.records(out, []byte(text), true, room{noLimit, noLimit, true})
	return k.append(s, out[:made], before, pos, pos, 0)
}

// failed takes note that the log cannot be written, and when to try again.
func (k *file) failed(err error) {
	if k.trouble.begin(err) {
		k.l.options.Warn("Failed to write log file " + k.path + ": " + explain(err) +
			": output is kept, at most " + strconv.FormatInt(k.l.options.SpoolMax, 10) + " bytes a stream, and written when it can be")
	}
	k.l.wake(k.trouble.retry)
}

// works takes note that the log was written.
func (k *file) works() {
	if k.trouble.end() {
		k.l.options.Warn("Log file " + k.path + " is written again")
	}
}

func (k *file) retry(now lifecycle.Instant) (tried bool) {
	if k.line.Busy() && k.trouble.err == nil && !k.flow.isSlow() {
		k.failed(errHangs)
	}
	if tried = k.trouble.isDue(k.l, now); tried {
		k.tryAgain()
	}
	return tried
}

func (k *file) tryAgain() {
	if k.isBusy() {
		k.failed(errHangs)
		return
	}
	k.trouble.err = nil
	if k.fd >= 0 && !k.unsettled {
		return
	}
	if !k.l.cursor.Lock() {
		k.failed(errUndead)
		return
	}
	ended := k.line.Do(func() {
		if k.fd < 0 {
			if err := k.reach(); err != nil {
				k.failed(err)
				return
			}
		}
		if k.unsettled {
			k.settle()
		}
	})
	if !ended {
		k.leftBehind()
	}
}

// wholeLine is how many bytes there are up to the next line, 0 if the line does
// not end in the data.
func wholeLine(data []byte) int64 { return int64(bytes.IndexByte(data, '\n') + 1) }
