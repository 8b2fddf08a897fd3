package logs

import (
	"errors"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/aside"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs/spool"
)

// k8sFile is a log file in the format of the Container Runtime Interface.
type k8sFile struct {
	l    *Logs
	path string

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
	call      func() // write(2), made once
	unwritten []byte // what it writes
	wrote     int
	errno     unix.Errno
	look      func() // fstat(2), made once
	looked    int
	lookErr   error
	reopens   bool                          // that was asked for while the line was busy
	landed    func(n int, errno unix.Errno) // of fly, made once

	prefix  prefix
	intent  spool.Intent
	rotated bool // nothing was written since, so that a record of any size fits

	trouble   trouble
	unsettled bool              // a write was interrupted, and the file could not be looked at
	oversize  lifecycle.Instant // until when the file grows beyond its limit, since it cannot be replaced
	stat      unix.Stat_t
}

func newK8sFile(l *Logs, path string) *k8sFile {
	k := &k8sFile{l: l, path: path, fd: -1, flow: congestion{l: l, waiting: -1}}
	k.line.Loop, k.line.Ended = l.options.Loop, k.cameBack
	k.turn = func() { k.advanceNow(k.stream, k.flush) }
	k.call, k.look, k.landed = k.writeOnce, k.fstatOnce, k.land
	return k
}

// open opens the file to append to it, as conmon does.
func (k *k8sFile) open() error {
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
func (k *k8sFile) use(fd int) error {
	if err := k.fstat(fd); err != nil {
		unix.Close(fd)
		return err
	}
	first := k.fd < 0 && k.ino == 0
	k.close()
	k.fd, k.dev, k.ino = fd, k.stat.Dev, k.stat.Ino
	k.regular = k.stat.Mode&unix.S_IFMT == unix.S_IFREG
	k.medium = remote
	if k.regular {
		k.line.Call(func() { k.medium = mediumOf(fd) })
	}
	if first && k.l.cursor.Total() == 0 {
		k.l.cursor.SetTotal(k.stat.Size)
	}
	return nil
}

func (k *k8sFile) close() {
	if k.fd >= 0 {
		k.flow.stop()
		fd := k.fd
		k.line.Call(func() { unix.Close(fd) }) // NFS writes what is left
		k.fd = -1
	}
}

// fstat looks at a file that a server may have.
func (k *k8sFile) fstat(fd int) error {
	k.looked = fd
	k.line.Call(k.look)
	return k.lookErr
}

func (k *k8sFile) fstatOnce() { k.lookErr = unix.Fstat(k.looked, &k.stat) }

func (k *k8sFile) sync() {
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
		k.hangs()
	}
}

// settle finds out what became of a write that a predecessor, or a disk, has
// interrupted.
func (k *k8sFile) settle() {
	intent, set := k.l.cursor.Intent()
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
			k.l.cursor.Abort() // deleted: write it to the new one
			k.unsettled = false
			return
		}
	}
	err := k.fstat(fd)
	if err == nil {
		switch intent.Resolve(k.stat.Size) {
		case spool.Done:
			k.l.cursor.Commit(k8sLog)
		case spool.Torn:
			if err = k.truncate(fd, intent.Before); err == nil {
				k.l.cursor.Abort()
			}
		default:
			k.l.cursor.Abort()
		}
	}
	if k.unsettled = err != nil; k.unsettled {
		k.failed(err)
	}
	k.l.fit()
}

// advance writes what the log has not had of the stream. flush says that no more
// is there at present: a line without an end is written as it is.
//
// While a write does not come back the output stays in the spool, and the container
// waits when that is full; after some seconds that is trouble as any other.
func (k *k8sFile) advance(s *Stream, flush bool) {
	if k.isBusy() || k.trouble.err != nil || k.flow.isWaiting() || !flush && k.fly(s) {
		return
	}
	k.stream, k.flush = s, flush
	if k.medium == memory {
		k.turn()
	} else if !k.line.Do(k.turn) {
		k.hangs()
	}
}

// isBusy reports whether the file has to be left alone since it does not answer. It
// waits a moment for a write that is under way.
func (k *k8sFile) isBusy() bool {
	known := k.line.Busy()
	if k.line.Land() {
		return false
	}
	if !known {
		k.hangs()
	}
	return true
}

// hangs takes note that the file does not answer.
func (k *k8sFile) hangs() {
	if k.flow.since == 0 {
		k.flow.since = k.line.Since()
	}
	k.l.wake(k.flow.since.After(patience)) // then it is trouble
}

// cameBack goes on when the kernel has come back and all is done that was begun.
func (k *k8sFile) cameBack() {
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

func (k *k8sFile) advanceNow(s *Stream, flush bool) {
	for (k.trouble.err == nil || k.trouble.err == errHangs) && !k.flow.isWaiting() {
		if len(k.rest) > 0 && !k.pushRest() {
			return
		}
		pos, size := s.pos(k8sLog), s.spool.Size()
		if k.l.cursor.Dropped(int(s.source), k8sLog) > 0 && !k.sayDropped(s, pos) {
			return
		}
		if pos == size {
			return
		}
		most := batch
		if k.trouble.cautious {
			most = maxRecord // a full disk may have room for a little
		}
		data := s.view(pos, most)
		if len(data) == 0 || !k.write(s, pos, data, flush && pos+int64(len(data)) == size) {
			return
		}
	}
}

// write writes records for some of the data, and reports whether that was a step
// forward.
func (k *k8sFile) write(s *Stream, pos int64, data []byte, flush bool) bool {
	before, ok := k.size()
	if !ok {
		return false
	}
	r := k.room(before)
	k.prefix.at(time.Now(), s.source)
	out := k.out(before)
	if !k.regular {
		out = out[:atOnce]
	}
	made, used, why := makeRecords(out, data, &k.prefix, flush, r)
	if made == 0 && why == outFull { // a long line, and no regular file
		out = out[:prefixLen+maxRecord+1]
		made, used, why = makeRecords(out, data, &k.prefix, flush, r)
	}
	if made > 0 {
		to := pos + int64(used)
		if !k.append(s, out[:made], before, pos, to, k.l.cursor.Dropped(int(s.source), k8sLog)) {
			return false
		}
		k.rotated = false
	}
	switch why {
	case fileFull:
		k.replaceFull()
		return true
	case totalFull:
		k.l.cursor.SetPos(int(s.source), k8sLog, s.spool.Size(), false)
	}
	return used > 0
}

// room is what may be written to a file of that size.
func (k *k8sFile) room(size int64) room {
	r := room{noLimit, noLimit, k.rotated}
	if most := k.l.options.SizeMax; most > 0 && k.regular && !k.isOversize() {
		r.file = most - size
	}
	if most := k.l.options.GlobalSizeMax; most > 0 {
		r.total = most - k.l.cursor.Total()
	}
	return r
}

// out is where records are made for the end of a file of that size: as far into a page
// as they are going to be in the file, which makes them half as expensive to copy.
func (k *k8sFile) out(size int64) []byte { return k.l.buffers.out()[size%spool.PageSize:] }

// size is the size of the file, which is made again if somebody has deleted it.
func (k *k8sFile) size() (int64, bool) {
	err := k.fstat(k.fd)
	if err == nil && k.stat.Nlink == 0 && k.regular {
		err = k.open()
	}
	if err != nil {
		k.failed(err)
		return 0, false
	}
	return k.stat.Size, true
}

// append writes whole records to the end of the file, all or none of them.
func (k *k8sFile) append(s *Stream, records []byte, before, from, to, dropped int64) bool {
	k.begin(s, len(records), before, from, to, dropped)
	if !k.regular {
		return k.push(records)
	}
	if err := k.writeAll(records); err != nil {
		k.failed(err)
		k.takeBack()
		return false
	}
	k.l.cursor.Commit(k8sLog)
	k.works()
	return true
}

// begin stores what is going to be written.
func (k *k8sFile) begin(s *Stream, bytes int, before, from, to, dropped int64) {
	k.intent = spool.Intent{
		Stream: int(s.source), From: from, To: to,
		Dev: k.dev, Ino: k.ino, Before: before, Bytes: int64(bytes),
		Total: k.l.cursor.Total() + int64(bytes), Dropped: dropped,
	}
	k.l.cursor.Begin(&k.intent)
}

// takeBack cuts off what was written in part.
func (k *k8sFile) takeBack() {
	if err := k.truncate(k.fd, k.intent.Before); err != nil {
		k.unsettled = true // and the intent stays
	} else {
		k.l.cursor.Abort()
	}
}

func (k *k8sFile) writeAll(rest []byte) error {
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

func (k *k8sFile) writeOnce() {
	write := unix.Syscall
	if k.medium == memory {
		write = unix.RawSyscall // nothing but memory is waited for
	}
	n, _, errno := write(unix.SYS_WRITE, uintptr(k.fd), uintptr(unsafe.Pointer(&k.unwritten[0])), uintptr(len(k.unwritten)))
	k.wrote, k.errno = int(n), errno
}

func (k *k8sFile) truncate(fd int, size int64) (err error) {
	k.line.Call(func() { err = unix.Ftruncate(fd, size) })
	return err
}

// sayDropped writes into the log what is missing in it.
func (k *k8sFile) sayDropped(s *Stream, pos int64) bool {
	before, ok := k.size()
	if !ok {
		return false
	}
	dropped := k.l.cursor.Dropped(int(s.source), k8sLog)
	k.prefix.at(time.Now(), s.source)
	k.prefix.text[prefixLen-2] = 'F'
	text := "[gracerun: " + strconv.FormatInt(dropped, 10) + " bytes of output are missing here: the log could not be written]\n"
	out := k.l.buffers.out()
	n := copy(out, k.prefix.text[:])
	n += copy(out[n:], text)
	return k.append(s, out[:n], before, pos, pos, 0)
}

// failed takes note that the log cannot be written, and when to try again.
func (k *k8sFile) failed(err error) {
	if k.trouble.begin(err) {
		k.l.options.Warn("Failed to write log file " + k.path + ": " + explain(err) +
			": output is kept, at most " + strconv.FormatInt(k.l.options.SpoolMax, 10) + " bytes a stream, and written when it can be")
	}
	k.l.wake(k.trouble.retry)
}

// works takes note that the log was written.
func (k *k8sFile) works() {
	if k.trouble.end() {
		k.l.options.Warn("Log file " + k.path + " is written again")
	}
}

// tryAgain is called when it is time to.
func (k *k8sFile) tryAgain() {
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
			if err := k.open(); err != nil {
				k.failed(err)
				return
			}
		}
		if k.unsettled {
			k.settle()
		}
	})
	if !ended {
		k.hangs()
	}
}
