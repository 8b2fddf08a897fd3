// Package spool keeps the output of a container between its FIFO and its logs,
// so that a supervisor that is killed at any instant loses no byte and doubles
// none.
//
// The output is moved with splice(2) from the FIFO to a file on the tmpfs of the
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
//     spool means 0, since in that order nothing new can have come.
//
// Output taken back from a log file is written again with a new time stamp.
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
type Spool struct {
	fd      int
	size    int64
	at      int64 // for splice
	punched int64 // up to here the pages were given back

	// Of a terminal: where the count is kept, how long the file is, and the part
	// of it from `from` on that is mapped.
	cursor  *Cursor
	counted *uint64
	length  int64
	window  []byte
	from    int64
}

// Open opens or makes the spool name in a state directory.
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
	return &Spool{fd: fd, size: st.Size}, nil
}

// New makes a spool that dies with the process: it has no name, and a tmpfs that
// is full does not concern it.
func New() (*Spool, error) {
	fd, err := unix.MemfdCreate("gracerun-spool", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &Spool{fd: fd}, nil
}

// Exists reports whether a state directory has the spool name.
func Exists(dir int, name string) bool {
	return unix.Faccessat(dir, name, unix.F_OK, 0) == nil
}

// Close closes the file, and leaves it.
func (s *Spool) Close() {
	s.unmap()
	unix.Close(s.fd)
}

// Size is how many bytes were put in since the spool was empty.
func (s *Spool) Size() int64 { return s.size }

// Fill moves up to max bytes from a pipe to the end of the spool. It does not
// wait: the error is unix.EAGAIN if the pipe is empty, and n is 0 without an
// error when nobody has its other end open. unix.EINVAL: this is no pipe.
func (s *Spool) Fill(pipe int, max int) (n int, err error) {
	for {
		s.at = s.size
		moved, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(pipe), 0, uintptr(s.fd), uintptr(unsafe.Pointer(&s.at)),
			uintptr(max), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch errno {
		case 0:
			s.size += int64(moved)
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
		n, err := unix.Pwrite(s.fd, b, s.size)
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

// Read reads from the spool at the offset, as much as fits in b and is there.
func (s *Spool) Read(b []byte, at int64) ([]byte, error) {
	if left := s.size - at; int64(len(b)) > left {
		b = b[:left]
	}
	for got := 0; got < len(b); {
		n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(s.fd), uintptr(unsafe.Pointer(&b[got])), uintptr(len(b)-got),
			uintptr(at+int64(got)), 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return nil, errno
		case n == 0:
			return nil, unix.EIO // somebody has cut our file
		}
		got += int(n)
	}
	return b, nil
}

// Empty cuts the spool to nothing. Every log must have everything.
func (s *Spool) Empty() error {
	if err := unix.Ftruncate(s.fd, 0); err != nil {
		return err
	}
	s.size, s.punched, s.length = 0, 0, 0
	if s.from > 0 {
		s.unmap()
	}
	return nil
}

// Forget gives the pages before the offset back, if they are at least so many
// bytes: every log has them. Offsets stay as they are.
func (s *Spool) Forget(before, atLeast int64) {
	before &^= 4095
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
