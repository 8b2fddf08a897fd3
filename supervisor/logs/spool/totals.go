package spool

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Totals are what became of a container's output in all.
type Totals struct {
	Written int64 // bytes in log files and those before them, as --log-global-size-max counts
	Lost    int64 // bytes of output that a log will never have; of each log, where there are two
}

// ReadTotals reads the totals from the cursor in a directory with that descriptor.
// The container may run: its supervisor is not disturbed. The error is ErrCursor or
// a unix.Errno, ENOENT of a container without a log.
func ReadTotals(dir int) (t Totals, err error) {
	fd, err := open(dir, CursorName, unix.O_RDONLY)
	if err != nil {
		return t, err
	}
	defer unix.Close(fd)
	var page struct {
		words
		_ [cursorSize - unsafe.Sizeof(words{})]byte
	}
	n, err := unix.Pread(fd, unsafe.Slice((*byte)(unsafe.Pointer(&page)), cursorSize), 0)
	if err != nil {
		return t, err
	}
	t = page.totals()
	if n < cursorSize || page.magic != magic || t.Written < 0 || t.Written > maxOffset || t.Lost < 0 || t.Lost > maxOffset {
		return Totals{}, ErrCursor
	}
	return t, nil
}

// Totals are those of now.
func (c *Cursor) Totals() Totals { return c.w.totals() }

func (w *words) totals() (t Totals) {
	for log := range Logs {
		t.Written += int64(atomic.LoadUint64(w.totalOf(log)))
	}
	t.Lost = int64(atomic.LoadUint64(&w.lost))
	return t
}
