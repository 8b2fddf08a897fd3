package spool

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// windowSize is how much of the spool of a terminal is made ready at once. A
// terminal gives no more than 4 KiB at a time.
const windowSize = 32 << 10

// Terminal readies a spool for FillTerminal.
func (s *Spool) Terminal() {
	if s.counted == nil {
		s.counted, s.length = &s.cursor.w.counted[s.stream], s.size
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
	s.counted, s.length = word, s.size
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

func (s *Spool) count() { s.cursor.store(s.counted, counts|uint64(s.size)) }

// FillTerminal reads up to max bytes from a terminal to the end of the spool. It
// does not wait: unix.EAGAIN if there are none, unix.EIO if nobody has the
// terminal open.
func (s *Spool) FillTerminal(terminal, max int) (n int, err error) {
	for n < max {
		if s.size == s.length || s.window == nil {
			if err := s.extend(); err != nil {
				return n, err
			}
		}
		to := s.window[s.size-s.from:]
		got, err := unix.Read(terminal, to[:min(len(to), max-n)])
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
	if s.size == s.length {
		if err := unix.Fallocate(s.fd, 0, s.length, windowSize); err != nil {
			return err
		}
		s.length += windowSize
	}
	from := s.size &^ 4095
	if s.window != nil && s.from == from && int64(len(s.window)) == s.length-from {
		return nil // it was emptied since, and is mapped where it begins again
	}
	s.unmap()
	window, err := unix.Mmap(s.fd, from, int(s.length-from), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	s.window, s.from = window, from
	return nil
}

func (s *Spool) unmap() {
	if s.window != nil {
		unix.Munmap(s.window)
		s.window, s.from = nil, 0
	}
}
