package logs

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// congestion is the state of a log that is there and takes no more at present: a
// journald whose queue is full, a FIFO that nobody reads.
type congestion struct {
	l       *Logs
	since   lifecycle.Instant // since when it has taken nothing; 0: it takes
	waiting int               // the descriptor that is to become writable; -1: none is waited for
}

// wait has what is left written when the descriptor takes more. Without a loop, or
// of what cannot be waited for, t is when to try again.
func (c *congestion) wait(fd int, t *trouble) {
	if c.since == 0 {
		c.since = loop.Now()
	}
	if c.l.options.Loop != nil && c.l.options.Loop.Add(fd, loop.Writable, loop.HandlerFunc(c.writable)) == nil {
		c.waiting = fd
		c.l.wake(c.since.After(patience)) // those who are held up are let go then
		return
	}
	t.err, t.retry = unix.EAGAIN, loop.Now().After(lifecycle.Millisecond)
	c.l.wake(t.retry)
}

func (c *congestion) isWaiting() bool { return c.waiting >= 0 }

func (c *congestion) writable(uint32) {
	c.stop()
	c.l.catchUp()
}

// stop ends the waiting; before the descriptor is closed.
func (c *congestion) stop() {
	if c.waiting >= 0 {
		c.l.options.Loop.Remove(c.waiting)
		c.waiting = -1
	}
}

// moved: the log has taken something.
func (c *congestion) moved() { c.since = 0 }

// isSlow reports whether the log is to be waited for: it has taken something a
// short while ago.
func (c *congestion) isSlow() bool {
	return c.since != 0 && loop.Now() < c.since.After(patience)
}
