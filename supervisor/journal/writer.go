package journal

import (
	"bytes"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
)

// Limit is the size in bytes past which a journal is continued in a new file.
// With its predecessor a journal takes twice as much, at most.
const Limit = 64 << 10

// Writer appends to the journal of one container.
type Writer struct {
	dir    int    // the state directory, not the writer's own
	name   string // of the file: Name, or ForkName
	fd     int
	size   int64
	config lifecycle.Config
	buf    []byte // the record; used again, as is the next
	first  []byte // the beginning of a new file
}

// Error says what failed on which file of the state directory. Err is a unix.Errno.
type Error struct {
	Op, Name string
	Err      error
}

func (e *Error) Error() string { return e.Op + " " + e.Name + ": " + e.Err.Error() }

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// Create begins the journal of a new container in the state directory with the
// descriptor dir, which must stay open.
func Create(dir int, c lifecycle.Config) (*Writer, error) {
	w := &Writer{dir: dir, name: Name, fd: -1, config: c}
	if err := w.begin(appendHeader(nil, &c)); err != nil {
		return nil, err
	}
	return w, nil
}

// Resume goes on with the journal of a container whose supervisor is dead, or
// that has none, and gives the machine as it was after the last record. The
// caller must hold the lock (Lock) or know otherwise that nobody else writes.
func Resume(dir int) (*Writer, *lifecycle.Machine, error) {
	name := Name
	fd, err := openat(dir, name, unix.O_RDWR)
	if err == unix.ENOENT {
		// Its writer died between two renames.
		name = OldName
		fd, err = openat(dir, name, unix.O_RDWR)
	}
	if err != nil {
		return nil, nil, &Error{"read", Name, err}
	}
	w := &Writer{dir: dir, name: Name, fd: fd}
	m, err := w.resume(name)
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	return w, m, nil
}

// ResumeOpen is Resume with a descriptor of the journal, which becomes the writer's. It
// need not be in the directory any more.
func ResumeOpen(dir, fd int) (*Writer, *lifecycle.Machine, error) {
	w := &Writer{dir: dir, fd: fd}
	m, err := w.resume(Name)
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	return w, m, nil
}

// FD is the descriptor of the journal, valid until the next Step.
func (w *Writer) FD() int { return w.fd }

// resume reads the journal that the writer has open.
func (w *Writer) resume(name string) (*lifecycle.Machine, error) {
	text, size, err := readEnds(w.fd)
	if err != nil {
		return nil, &Error{"read", name, err}
	}
	j, err := Read(ends(text))
	if err != nil {
		return nil, whole(w.dir, name, err)
	}
	m, err := j.Machine()
	if err != nil {
		return nil, err
	}
	w.config = m.Config()
	if name == OldName {
		return m, w.begin(w.header(m, j.last()))
	}
	// An incomplete last line must not become the beginning of the next one.
	incomplete := len(text) - (bytes.LastIndexByte(text, '\n') + 1)
	if w.size = size - int64(incomplete); incomplete > 0 && unix.Ftruncate(w.fd, w.size) != nil {
		w.size = Limit // so that the next record begins a new file
	}
	return m, nil
}

// ends gives the first of the complete lines and the last of them.
func ends(text []byte) []byte {
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	first := bytes.IndexByte(text, '\n') + 1
	if first == len(text) {
		return text
	}
	last := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
	return append(text[:first:first], text[last:]...)
}

// whole gives the error of reading the journal from its beginning, which knows the
// number of the line.
func whole(dir int, name string, err error) error {
	if text, e := readFile(dir, name); e == nil {
		if _, e := Read(text); e != nil {
			return e
		}
	}
	return err
}

// headLength is enough for a header, tailLength for a record or two.
const headLength, tailLength = 512, 4096

// readEnds reads of a journal the first line and the last ones, and what may
// follow them incomplete; and gives the size of the file. The last line has the
// whole machine: a caller who signals a container is not to pay for its history.
func readEnds(fd int) (text []byte, size int64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, 0, err
	}
	buf := make([]byte, headLength+tailLength)
	if st.Size > headLength+tailLength {
		head, tail := buf[:headLength], buf[headLength:]
		if err := pread(fd, head, 0); err != nil {
			return nil, 0, err
		}
		if err := pread(fd, tail, st.Size-tailLength); err != nil {
			return nil, 0, err
		}
		first, begin := bytes.IndexByte(head, '\n'), bytes.IndexByte(tail, '\n')
		if first >= 0 && begin >= 0 && bytes.LastIndexByte(tail, '\n') > begin {
			return append(head[:first+1:first+1], tail[begin+1:]...), st.Size, nil
		}
		buf = make([]byte, st.Size)
	}
	text = buf[:st.Size]
	return text, st.Size, pread(fd, text, 0)
}

func pread(fd int, b []byte, at int64) error {
	for n := 0; n < len(b); {
		got, err := unix.Pread(fd, b[n:], at+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case got == 0:
			return unix.EIO // it has become shorter
		default:
			n += got
		}
	}
	return nil
}

// last is the instant of the last record, 0 if there is none.
func (j *Journal) last() lifecycle.Instant {
	if len(j.Records) == 0 {
		return 0
	}
	return j.Records[len(j.Records)-1].At
}

// Lock waits until no other process holds the state directory's lock; closing
// the descriptor, or Unlock, gives it back. It is for those who step the machine
// of a container that has no supervisor.
func Lock(dir int) error {
	for {
		switch err := unix.Flock(dir, unix.LOCK_EX); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return &Error{"lock", "state directory", err}
		}
	}
}

// Unlock gives the lock back.
func Unlock(dir int) { _ = unix.Flock(dir, unix.LOCK_UN) }

// IsCurrent tells whether nobody else has written to the journal since the writer
// did: then the machine of its last step is still that of the container. The
// caller must hold the lock.
func (w *Writer) IsCurrent() bool {
	var named, mine unix.Stat_t
	return w.fd >= 0 &&
		unix.Fstatat(w.dir, w.name, &named, unix.AT_SYMLINK_NOFOLLOW) == nil && unix.Fstat(w.fd, &mine) == nil &&
		named.Ino == mine.Ino && named.Dev == mine.Dev && named.Size == w.size
}

// Config gives the machine's configuration, as the journal's first line has it.
func (w *Writer) Config() lifecycle.Config { return w.config }

// Step steps the machine and appends the record, before the caller performs the
// effects. The effects are to be performed even if the record could not be
// written: a full disk must not keep a container from being stopped. The error
// says so then; the next record that can be written makes the journal whole again.
func (w *Writer) Step(m *lifecycle.Machine, now lifecycle.Instant, ev lifecycle.Event) ([]lifecycle.Effect, error) {
	effects := m.Step(now, ev)
	w.buf = appendRecord(w.buf[:0], m, now, &ev, effects)
	if w.size+int64(len(w.buf)) <= Limit {
		return effects, w.append()
	}
	w.first = append(appendHeader(w.first[:0], &w.config), w.buf...)
	return effects, w.begin(w.first)
}

func (w *Writer) append() error {
	n, err := pwrite(w.fd, w.buf, w.size)
	if err != nil {
		// Whatever part was written is overwritten by the next record, or cut off
		// here; and it has no end of line, so that a reader leaves it out.
		_ = unix.Ftruncate(w.fd, w.size)
		return &Error{"write", w.name, err}
	}
	w.size += int64(n)
	return nil
}

// header is the beginning of a journal that goes on from another.
func (w *Writer) header(m *lifecycle.Machine, at lifecycle.Instant) []byte {
	return appendRecord(appendHeader(nil, &w.config), m, at, nil, nil)
}

// begin makes a new journal that begins with this text, in the place of the
// present one, if any, which becomes the old one.
func (w *Writer) begin(text []byte) error {
	temp := "." + w.name
	fd, err := openat(w.dir, temp, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC) // ResumeOpen reads it
	if err != nil {
		return &Error{"create", w.name, err}
	}
	if _, err = pwrite(fd, text, 0); err == nil {
		if w.name == Name {
			err = unix.Renameat(w.dir, Name, w.dir, OldName)
		}
		if err == nil || err == unix.ENOENT {
			err = unix.Renameat(w.dir, temp, w.dir, w.name)
		}
	}
	if err != nil {
		unix.Close(fd)
		_ = unix.Unlinkat(w.dir, temp, 0)
		return &Error{"create", w.name, err}
	}
	w.Close()
	w.fd, w.size = fd, int64(len(text))
	return nil
}

// Close gives the descriptor back.
func (w *Writer) Close() {
	if w.fd >= 0 {
		unix.Close(w.fd)
		w.fd = -1
	}
}

func pwrite(fd int, b []byte, at int64) (n int, err error) {
	for n < len(b) {
		written, err := unix.Pwrite(fd, b[n:], at+int64(n))
		if err != nil && err != unix.EINTR {
			return n, err
		}
		n += max(written, 0)
	}
	return n, nil
}

// openat does not wait for a FIFO in the file's place.
func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func readFile(dir int, name string) ([]byte, error) {
	fd, err := openat(dir, name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 16<<10)
	for {
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return buf, nil
		}
		if buf = buf[:len(buf)+n]; len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
	}
}
