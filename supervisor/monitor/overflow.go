package monitor

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs"
	"gracerun.io/supervisor/loop"
)

// What the runtime and its hooks write while they create the container stays in the
// pipes until there is one: it is the container's log then, or else the reason why
// there is none. Before a pipe is full, for which they would wait for ever, its log
// begins early.

// overflow looks from time to time how full the pipes are.
type overflow struct {
	timer loop.Timer
	pause lifecycle.Duration
	said  []byte // the beginning of stderr, of which the log has begun
}

const (
	firstLook = 10 * lifecycle.Millisecond
	lastLook  = 200 * lifecycle.Millisecond
)

// watchForOverflow looks until the runtime has ended.
func (c *Container) watchForOverflow() {
	o := &c.create.overflow
	o.pause, o.timer.Fire = firstLook, func() {
		c.streams.logEarly(c)
		o.pause = min(2*o.pause, lastLook)
		c.s.loop.Arm(&o.timer, loop.Now().After(o.pause))
	}
	c.s.loop.Arm(&o.timer, loop.Now().After(o.pause))
}

// logEarly begins the log of those streams that have too much in them.
func (s *streams) logEarly(c *Container) {
	for i, stream := range []**logs.Stream{1: &s.out, 2: &s.err} {
		if stream == nil || *stream != nil || s.ours[i] < 0 || i == 1 && c.o.Terminal {
			continue
		}
		if !halfFull(s.ours[i]) {
			continue
		}
		if i == 2 {
			c.create.overflow.said = beginning(s.ours[i])
		}
		*stream = s.logs.Stream([...]logs.Source{1: logs.Stdout, 2: logs.Stderr}[i], s.ours[i], false)
		if err := (*stream).Watch(func() { s.end(c, i-1) }); err != nil {
			c.notes.warn("container " + c.o.ID + ": " + err.Error())
		}
	}
}

func halfFull(pipe int) bool {
	n, err := unix.IoctlGetInt(pipe, unix.TIOCINQ)
	if err != nil {
		return false
	}
	size, err := unix.FcntlInt(uintptr(pipe), unix.F_GETPIPE_SZ, 0)
	return err == nil && n >= size/2
}

// beginning gives what is in a pipe and leaves it there.
func beginning(pipe int) []byte {
	var copy [2]int
	if unix.Pipe2(copy[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	defer unix.Close(copy[0])
	defer unix.Close(copy[1])
	if _, err := unix.Tee(pipe, copy[1], longestComplaint, unix.SPLICE_F_NONBLOCK); err != nil {
		return nil
	}
	said := make([]byte, longestComplaint)
	n, _ := unix.Read(copy[0], said)
	return said[:max(n, 0)]
}
