package spool

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// ringSize holds what a stream moves at once and a line that has no end yet;
	// a multiple of the largest page size there is.
	ringSize = 320 << 10

	// ringFrom is how much must have come at once for the ring to be made.
	ringFrom = 16 << 10

	// ringLeft is how much may be taken along when the output moves to another
	// place of the ring.
	ringLeft = 16 << 10

	// PageSize is what the kernel copies wholly or not at all. Where its pages are
	// larger, their bounds are bounds of these too.
	PageSize = 4096

	// ringBatch is how much is moved to the ring at once: while so much is being
	// written to a log there is room for as much again, and for a line without an end.
	ringBatch = 128 << 10

	// markSize is how much of the end of a page tells whether the page was written.
	markSize = 16
)

// ring is where a spool keeps what much comes of: a file whose pages stay, so
// that they need not be found, cleared and given back for each batch, which is
// half of what a spool costs. See the package's documentation for how it is
// known what of it is output.
type ring struct {
	fd    int
	mem   []byte // the file, mapped twice in a row: what goes over its end is in one piece
	shift int64  // offset + shift, modulo ringSize, is the place
	on    bool   // the output is here, not in the spool's own file
	much  bool   // came the last time

	garbage int64 // bytes of the spool's file, while the output is here
}

// place is where the byte of the offset is.
func (r *ring) place(offset int64) int64 { return (offset + r.shift) % ringSize }

// ringName is the name of the ring's file. It is there while the ring is in use.
func (s *Spool) ringName() string { return s.name + ".ring" }

// wantsRing reports whether it is worth while to ask how much is in the pipe.
func (s *Spool) wantsRing() bool { return s.ring.on || s.ring.much && s.cursor != nil && s.name != "" }

// fillRing moves up to max bytes from the pipe to the ring. ok is false if that
// is nothing for the ring, which then is not in use any more: output that is
// still needed, from the offset on, is in the spool's file. more says that the
// pipe has more.
func (s *Spool) fillRing(pipe, max int, from int64) (n int, more, ok bool, err error) {
	there := pipeHolds(pipe)
	want := min(there, max, ringBatch)
	if left := s.size - from; left > ringLeft {
		// A log is being written, or has stopped taking output. There it goes on behind
		// what is needed still, as long as that needs not move.
		if !s.Goes() || left+int64(want) > ringSize {
			return 0, false, false, s.leaveRing(from)
		}
	}
	if want < ringFrom && !s.ring.on || want < markSize {
		return 0, false, false, s.leaveRing(from)
	}
	if !s.align(from) {
		s.ring.much = false
		return 0, false, false, nil
	}
	if rest := want % PageSize; rest < markSize {
		want -= rest // too little for a mark, and the beginning of the next page
	}
	s.mark(s.size, s.size+int64(want))
	c, begin := s.cursor, s.size
	c.setRingTo(s.stream, begin+int64(want))
	for n < want && err == nil {
		place := s.ring.place(s.size)
		part := min(want-n, int(ringSize-place))
		var moved int
		moved, err = s.splice(pipe, s.ring.fd, place, part)
		n += moved
		s.size += int64(moved)
		if moved < part {
			break // whoever writes to the pipe has read from it too
		}
	}
	if n < want {
		c.setRingTo(s.stream, s.size)
	}
	if n > 0 {
		c.setRingCount(s.stream, s.size)
		err = nil
	}
	return n, there > n, true, err
}

// Goes reports whether Fill can go on while what has come last is needed still.
func (s *Spool) Goes() bool { return s.ring.on && s.ring.place(s.size)%PageSize == 0 }

// pipeHolds is how many bytes are in a pipe.
func pipeHolds(pipe int) int {
	var n int32
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(pipe), unix.TIOCINQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0
	}
	return int(n)
}

// mark puts the mark at the end of each page, or part of one, that is going to
// be filled.
func (s *Spool) mark(from, to int64) {
	low, high := s.cursor.pageMark()
	for from < to {
		place := s.ring.place(from)
		part := min(to-from, PageSize-place%PageSize)
		end := s.ring.mem[place+part-markSize:][:markSize]
		binary.LittleEndian.PutUint64(end, low)
		binary.LittleEndian.PutUint64(end[8:], high)
		from += part
	}
}

// filled is how far a predecessor came that was to fill the ring up to an offset.
func (s *Spool) filled(from, to int64) int64 {
	low, high := s.cursor.pageMark()
	for from < to {
		place := s.ring.place(from)
		part := min(to-from, PageSize-place%PageSize)
		// What has no room for a mark was not planned, but noted when it was there.
		if part >= markSize {
			end := s.ring.mem[place+part-markSize:][:markSize]
			if binary.LittleEndian.Uint64(end) == low && binary.LittleEndian.Uint64(end[8:]) == high {
				break
			}
		}
		from += part
	}
	return from
}

// align sees to it that the output is in the ring, and its end at the beginning
// of a page. What is needed of it moves, or comes from the spool's file; it moves
// to where it overwrites nothing of itself, so that it is in its old place until
// the new one counts. It reports false if there is no room for a ring.
func (s *Spool) align(from int64) bool {
	r := s.ring
	old := r.place(s.size)
	if r.on && old%PageSize == 0 {
		return true
	}
	if !r.on && !s.openRing() {
		return false
	}
	left := s.size - from
	end := (old + left + ringLeft + PageSize - 1) &^ (PageSize - 1) % ringSize
	to := r.mem[(end-left+ringSize)%ringSize:][:left]
	if r.on {
		copy(to, r.mem[r.place(from):])
	} else {
		if s.readFile(to, from) != nil {
			return false
		}
		s.cursor.setRingTo(s.stream, s.size)
		s.cursor.setRingCount(s.stream, s.size)
	}
	r.shift = (end - s.size%ringSize + ringSize) % ringSize
	s.cursor.setPlace(s.stream, true, r.shift)
	if !r.on {
		r.on, r.garbage, s.base, s.punched = true, s.size-s.base, 0, 0
	}
	return true
}

// leaveRing moves the output from the offset on to the spool's file. Until the
// last store what is in the file does not count.
func (s *Spool) leaveRing(from int64) error {
	if !s.ring.on {
		return nil
	}
	if s.ring.garbage > 0 {
		if err := unix.Ftruncate(s.fd, 0); err != nil {
			return err
		}
		s.ring.garbage = 0
	}
	for at := from; at < s.size; {
		s.ring.garbage = s.size - from
		place := s.ring.place(at)
		n, err := unix.Pwrite(s.fd, s.ring.mem[place:][:s.size-at], at-from)
		if err != nil && err != unix.EINTR {
			return err
		}
		at += int64(max(n, 0))
	}
	s.cursor.setPlace(s.stream, false, from)
	s.ring.on, s.base, s.ring.garbage, s.punched = false, from, 0, 0
	return nil
}

// openRing makes the ring, or finds that there is no room for it.
func (s *Spool) openRing() bool {
	if s.ring.mem != nil {
		return true
	}
	if s.cursor.makeMark() != nil {
		return false
	}
	fd, err := open(s.dir, s.ringName(), unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return false
	}
	// Allocated, since a store to a page for which there is no room is a SIGBUS.
	if err = unix.Fallocate(fd, 0, 0, ringSize); err == nil {
		err = s.ring.mapTwice(fd)
	}
	if err != nil {
		unix.Close(fd)
		unix.Unlinkat(s.dir, s.ringName(), 0)
		return false
	}
	return true
}

func (r *ring) mapTwice(fd int) error {
	both, err := unix.MmapPtr(-1, 0, nil, 2*ringSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	const flags = unix.MAP_SHARED | unix.MAP_FIXED | unix.MAP_POPULATE
	for _, half := range [2]unsafe.Pointer{both, unsafe.Add(both, ringSize)} {
		if _, err := unix.MmapPtr(fd, 0, half, ringSize, unix.PROT_READ|unix.PROT_WRITE, flags); err != nil {
			unix.MunmapPtr(both, 2*ringSize)
			return err
		}
	}
	r.fd, r.mem = fd, unsafe.Slice((*byte)(both), 2*ringSize)
	return nil
}

// resumeRing goes on with the ring that a predecessor has left in use. What is in
// one that cannot be opened is lost.
func (s *Spool) resumeRing(shift int64) error {
	fd, err := open(s.dir, s.ringName(), unix.O_RDWR)
	if err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Size < ringSize {
			err = ErrCursor
		}
		if err == nil {
			err = s.ring.mapTwice(fd)
		}
		if err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		s.cursor.setPlace(s.stream, false, 0)
		_ = s.Empty()
		return err
	}
	s.ring.on, s.ring.shift, s.ring.garbage = true, shift, s.size
	count, to := s.cursor.ringFill(s.stream)
	s.size = s.filled(count, to)
	s.cursor.setRingTo(s.stream, s.size)
	s.cursor.setRingCount(s.stream, s.size)
	return nil
}

// Rest gives the memory of the ring back. What of the output is needed, from the
// offset on, moves to the spool's file.
func (s *Spool) Rest(from int64) error {
	s.ring.much = false
	if err := s.leaveRing(from); err != nil || s.ring.mem == nil {
		return err
	}
	s.closeRing()
	return unix.Unlinkat(s.dir, s.ringName(), 0)
}

// InRing reports whether the spool has a ring, whose memory is to be given back
// some time.
func (s *Spool) InRing() bool { return s.ring.mem != nil }

func (s *Spool) closeRing() {
	if s.ring.mem != nil {
		unix.MunmapPtr(unsafe.Pointer(&s.ring.mem[0]), 2*ringSize)
		unix.Close(s.ring.fd)
		s.ring.mem = nil
	}
}
