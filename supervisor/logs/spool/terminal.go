package spool

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// windowSize is how much of the spool of a terminal is made ready at once. A
// terminal gives no more than 4 KiB at a time.
const windowSize = 32 << 10

// terminal is what the spool of a terminal has beside others: where it is kept
// how much is output, how long the file is, and the part of it from `from` on that
// is mapped.
type terminal struct {
	counted *uint64
	length  int64
	window  []byte
	from    int64
}

// Terminal readies a spool for FillTerminal.
func (s *Spool) Terminal() {
	if s.terminal == nil {
		s.terminal = &terminal{counted: &s.cursor.w.counted[s.stream], length: s.size}
		s.count()
	}
}

// recount finds out how much of the spool is output, if it is that of a
// terminal: what was counted, and what was read and not counted any more.
func (s *Spool) recount() error {
	word := &s.cursor.w.counted[s.stream]
	counted := atomic.LoadUint64(word)
	if counted == 0 {
		return nil
	}
	s.terminal = &terminal{counted: word, length: s.size}
	at := min(int64(counted&^counts), s.size) // it is beyond the size if the spool was cut
	end := at
	buf := make([]byte, windowSize)
	for at < s.size {
		part, err := s.Read(buf, at)
		if err != nil {
			return err
		}
		for i, b := range part {
			if b != 0 {
				end = at + int64(i) + 1
			}
		}
		at += int64(len(part))
	}
	s.size = end
	s.count()
	return nil
}

func (s *Spool) count() { s.cursor.store(s.terminal.counted, counts|uint64(s.size)) }

// FillTerminal reads up to max bytes from a terminal to the end of the spool. It
// does not wait: unix.EAGAIN if there are none, unix.EIO if nobody has the
// terminal open.
func (s *Spool) FillTerminal(fd, max int) (n int, err error) {
	t := s.terminal
	for n < max {
		if s.size == t.length || t.window == nil {
			if err := s.extend(); err != nil {
				return n, err
			}
		}
		to := t.window[s.size-t.from:]
		got, err := unix.Read(fd, to[:min(len(to), max-n)])
		switch {
		case err == unix.EINTR:
			continue
		case n > 0 && (err != nil || got == 0):
			return n, nil // and the error comes again
		case err != nil || got == 0:
			return 0, err
		}
		s.size += int64(got)
		s.count()
		n += got
	}
	return n, nil
}

// extend maps what follows the end of the spool, zeros, and makes them if need
// be: allocated, since a terminal's output that finds no page is lost.
func (s *Spool) extend() error {
	t := s.terminal
	if s.size == t.length {
		if err := unix.Fallocate(s.fd, 0, t.length, windowSize); err != nil {
			return err
		}
		t.length += windowSize
	}
	from := s.size &^ 4095
	if t.window != nil && t.from == from && int64(len(t.window)) == t.length-from {
		return nil // it was emptied since, and is mapped where it begins again
	}
	t.unmap()
	window, err := unix.Mmap(s.fd, from, int(t.length-from), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	t.window, t.from = window, from
	return nil
}

func (t *terminal) unmap() {
	if t.window != nil {
		unix.Munmap(t.window)
		t.window, t.from = nil, 0
	}
}
