// Package spool keeps the output of a container between its pipe and its logs,
// so that a supervisor that is killed at any instant loses no byte and doubles
// none.
//
// The output is moved with splice(2) from the pipe to a file on the tmpfs of the
// state directory, the spool. The lines of a log are made from the spool. A
// cursor, one mapped page, says how far each log has come.
//
// Why that is exact. Only one process at a time works on a spool. SIGKILL ends
// it between two system calls or at the end of one: a splice from a pipe to a
// file takes out of the pipe what it has put in the file, within the kernel and
// whatever signal is pending, and the file's size says how much that was. A
// store to the mapped page is in the page cache at once; its order with the
// system calls around it is that of the program. So, in the order in which
// things are done:
//
//  1. splice: a byte is in the pipe or in the spool, never in both or neither.
//  2. The intent is stored: which bytes of the spool go to which file, the size
//     that the file has, the size it will have. Its mark is stored last.
//     Killed before: nothing has happened.
//  3. write: the file has the old size (redo), the new one (done), or one
//     between (cut to the old one, redo). Nobody else appends to the file.
//  4. The log's position is stored, the mark is cleared last. Killed between
//     them: the file's size says "done" again, and the same stores are repeated.
//  5. When all logs have everything the spool is cut to nothing, and then the
//     positions are set to 0. Killed between: a position beyond the end of the
//     spool means its beginning, since in that order nothing new can have come.
//
// Output taken back from a log file is written again with a new time stamp.
//
// # Where much comes
//
// A file that is cut and grows again for each batch costs its pages each time:
// to find them, charge them, free them is half of what the spool of a busy
// container costs. Where 16 KiB or more come at once they go to a ring instead,
// a second file of fixed size whose pages stay. Its size does not say how much of
// it is output. What does:
//
//  1. Before the splice the end of each page that is going to be filled is
//     marked, by 16 bytes that are random and that no container can know, and how
//     far the splice is to go is stored.
//  2. The splice fills whole pages, the last one up to the length that was asked
//     for, which is no more than is in the pipe. SIGKILL may end it between two
//     pages (it does, in one of seven kills of the crash test).
//  3. The new end of the output is stored. Killed before: a page that has its
//     mark was not filled, the others were.
//
// Each splice begins with a page, for which the rest of a line that was not
// written yet is copied to another place. A batch that is on its way to a log stays
// where it is, and the next one comes behind it. One word of the cursor says whether the
// file or the ring counts, and where in it an offset is. It is stored when
// everything is in its new place and still in its old one. In this way the output
// goes back to the spool's file when less than 16 bytes come, or when a log has
// stopped taking it, for which the ring would be too small. A quiet container has
// no ring.
//
// # Terminals
//
// A terminal cannot be spliced. It is read straight into mapped pages of the
// spool that hold zeros, and the count is stored afterwards; what was read and
// not counted is what is not zero beyond the count. NUL bytes at the very end of
// such a read could be lost, and mean nothing to a terminal.
//
// All this is about the death of a process. When the machine dies, the container
// does too.
package spool

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Spool is the file between a stream and its logs.
//
// What moves output calls the kernel by RawSyscall: none of it waits for
// anything but memory, and a runtime that is told of each call has a thread of
// its own look for long ones, which costs a twentieth of everything.
//
// Offsets count what was put in since the spool was empty.
type Spool struct {
	fd      int
	dir     int
	name    string // "": it has none, and dies with the process
	size    int64  // the offset at its end
	base    int64  // the offset of the file's first byte
	at      int64  // for splice
	punched int64  // up to here the pages of the file were given back

	// Where it is noted what of the files is output. nil: the file's size says it.
	cursor *Cursor
	stream int

	ring     *ring     // never nil
	terminal *terminal // nil: this is the spool of none
}

// Open opens or makes the spool name in a state directory, which stays open as
// long. Use or Resume is next.
func Open(dir int, name string) (*Spool, error) {
	fd, err := open(dir, name, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Spool{fd: fd, dir: dir, name: name, size: st.Size, ring: &ring{}}, nil
}

// Use has an empty spool note in the cursor what it holds.
func (s *Spool) Use(c *Cursor, stream int) { s.cursor, s.stream = c, stream }

// Resume goes on with what a predecessor has left: it finds out what of the
// files is output, and puts logs right that the predecessor could not put right
// any more.
func (s *Spool) Resume(c *Cursor, stream int) (err error) {
	s.Use(c, stream)
	ring, at := c.place(stream)
	if ring {
		err = s.resumeRing(at)
	} else {
		unix.Unlinkat(s.dir, s.ringName(), 0)
		s.base = at
		s.size += at
		err = s.recount()
	}
	c.Fit(stream, s.First(), s.size)
	return err
}

// New makes a spool that dies with the process: it has no name, and a tmpfs that
// is full does not concern it.
func New() (*Spool, error) {
	fd, err := unix.MemfdCreate("gracerun-spool", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &Spool{fd: fd, ring: &ring{}}, nil
}

// None is the spool of one who has no room for any: it takes nothing.
func None() *Spool { return &Spool{fd: -1, ring: &ring{}} }

// Exists reports whether a state directory has the spool name.
func Exists(dir int, name string) bool {
	return unix.Faccessat(dir, name, unix.F_OK, 0) == nil
}

// Close closes the file, and leaves it.
func (s *Spool) Close() {
	if s.terminal != nil {
		s.terminal.unmap()
	}
	s.closeRing()
	unix.Close(s.fd)
}

// Size is the offset at the end.
func (s *Spool) Size() int64 { return s.size }

// First is the first offset whose byte may still be there.
func (s *Spool) First() int64 {
	if s.ring.on {
		return max(0, s.size-ringSize)
	}
	return s.base
}

// Filed is how many bytes the spool's file has.
func (s *Spool) Filed() int64 {
	if s.ring.on {
		return 0
	}
	return s.size - s.base
}

// Fill moves up to max bytes from a pipe to the end of the spool. Those before
// the offset from are not needed any more. It does not wait: the error is
// unix.EAGAIN if the pipe is empty, and n is 0 without an error when nobody has
// its other end open. unix.EINVAL: this is no pipe. more says that there may be
// more in the pipe.
func (s *Spool) Fill(pipe, max int, from int64) (n int, more bool, err error) {
	if s.wantsRing() {
		n, more, ok, err := s.fillRing(pipe, max, from)
		if ok || err != nil {
			return n, more, err
		}
	}
	n, err = s.splice(pipe, s.fd, s.size-s.base, max)
	s.size += int64(n)
	s.ring.much = n >= ringFrom
	return n, n == max, err
}

func (s *Spool) splice(pipe, file int, at int64, max int) (n int, err error) {
	for {
		s.at = at
		moved, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(pipe), 0, uintptr(file), uintptr(unsafe.Pointer(&s.at)),
			uintptr(max), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch errno {
		case 0:
			return int(moved), nil
		case unix.EINTR:
			continue
		}
		return 0, errno
	}
}

// Put writes to the end of the spool. It is for what cannot be spliced.
func (s *Spool) Put(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(s.fd, b, s.size-s.base)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		s.size += int64(n)
		b = b[n:]
	}
	return nil
}

// Read gives the bytes of the spool at the offset, as many as fit in b and are
// there: in b, or where they are, until Fill or Rest is called.
func (s *Spool) Read(b []byte, at int64) ([]byte, error) {
	if left := s.size - at; int64(len(b)) > left {
		b = b[:left]
	}
	if s.ring.on {
		return s.ring.mem[s.ring.place(at):][:len(b)], nil
	}
	if err := s.readFile(b, at); err != nil {
		return nil, err
	}
	return b, nil
}

func (s *Spool) readFile(b []byte, at int64) error {
	at -= s.base
	for got := 0; got < len(b); {
		n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(s.fd), uintptr(unsafe.Pointer(&b[got])), uintptr(len(b)-got),
			uintptr(at+int64(got)), 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return errno
		case n == 0:
			return unix.EIO // somebody has cut our file
		}
		got += int(n)
	}
	return nil
}

// Empty cuts the spool to nothing. Every log must have everything; the cursor is
// to be told (Truncated).
func (s *Spool) Empty() error {
	if err := unix.Ftruncate(s.fd, 0); err != nil {
		return err
	}
	s.size, s.base, s.punched = 0, 0, 0
	s.ring.on, s.ring.garbage = false, 0
	if t := s.terminal; t != nil {
		t.length = 0
		if t.from > 0 {
			t.unmap()
		}
	}
	return nil
}

// Forget gives the pages of the file before the offset back, if they are at
// least so many bytes: every log has them. Offsets stay as they are.
func (s *Spool) Forget(before, atLeast int64) {
	if s.ring.on {
		return
	}
	before = (before - s.base) &^ 4095
	if before <= s.punched || before-s.punched < atLeast {
		return
	}
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if unix.Fallocate(s.fd, mode, s.punched, before-s.punched) == nil {
		s.punched = before
	}
}

// HasRoom reports whether an empty spool can take so many bytes now. Its size,
// which counts, is 0 all the time.
func (s *Spool) HasRoom(bytes int64) bool {
	err := unix.Fallocate(s.fd, unix.FALLOC_FL_KEEP_SIZE, 0, bytes)
	return s.Empty() == nil && err == nil
}

// open opens a file of the state directory, never one that a link leads to.
func open(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
