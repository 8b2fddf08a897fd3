//go:build linux && (amd64 || arm64)

// Package startup tells how far the start of a container has come: whether a signal
// would reach the container's own program.
//
// Between create and start the container's init belongs to the runtime: it was forked
// and has executed nothing since, and opens a FIFO to wait for the start. The start
// removes the FIFO and returns. Then, a moment later or a long one, init executes the
// program. A signal before that goes to the runtime's init; and the kernel discards a
// signal to PID 1 of a pid namespace that has no handler yet.
//
// A supervisor pays for every import of this package.
package startup

import (
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

// Progress is how far a start has come.
type Progress uint8

// The steps of a start.
const (
	Waits    Progress = iota // nobody has started it
	UnderWay                 // it was started, and would not hear the signal yet
	Runs                     // the container's program runs
)

const (
	// ExecTimeout is how long a start is under way at most until init executes the
	// program. Where a runtime runs the program without that, as krun and what runs
	// WebAssembly do, it is over then.
	ExecTimeout = 5 * time.Second

	// HandlerTimeout is how long the program may take after the start until it does
	// not have the signal thrown away.
	HandlerTimeout = time.Second
)

// FIFO is what init waits at for the start, in the directory of crun and of all that
// is built on libcontainer: it is there from create until start.
const FIFO = "exec.fifo"

// Container is a container whose start is looked at.
type Container struct {
	// Dir is the directory in which the runtime keeps it, "" if that is not known.
	Dir string

	Init process.Pidfd
	Pid  int

	// Signal is the one that is to be heard.
	Signal signals.Signal

	// Executed: init had executed something already when the create had ended. Where
	// the FIFO does not tell why, it is a program of the runtime, such as a sandbox.
	Executed bool

	// Ended: somebody has seen the runtime's start end well, so long ago.
	Ended    bool
	EndedAgo time.Duration
}

// Look tells how far the start has come. A process that is gone waits for ever.
func (c *Container) Look() Progress {
	stat, err := c.Init.Stat(c.Pid)
	if err != nil {
		return Waits
	}
	waiting, ago := c.fifo()
	switch {
	case waiting && stat.Forked:
		return Waits
	case waiting: // runc removes it a moment after init has gone on
		ago = 0
	case ago < 0 && (stat.Forked || c.Executed):
		return Waits
	case stat.Forked:
		return within(ago, ExecTimeout)
	}
	if ago >= 0 && ago < HandlerTimeout {
		if lost, err := process.Loses(c.Pid, c.Signal); err == nil && lost {
			return UnderWay
		}
	}
	return Runs
}

func within(ago, limit time.Duration) Progress {
	if ago < limit {
		return UnderWay
	}
	return Runs
}

// fifo tells whether init waits at the FIFO, and else how long ago it was started; a
// negative duration if that is not known.
func (c *Container) fifo() (waiting bool, ago time.Duration) {
	var st unix.Stat_t
	switch {
	case c.Dir == "" || unix.Stat(c.Dir, &st) != nil:
		if c.Ended {
			return false, c.EndedAgo
		}
		return false, -1
	case unix.Faccessat(unix.AT_FDCWD, c.Dir+"/"+FIFO, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil:
		return true, 0
	case c.Ended:
		return false, c.EndedAgo
	}
	// The directory has changed last when the FIFO was removed from it, or later. A
	// clock that was set far makes it a start of long ago.
	ago = time.Since(time.Unix(st.Mtim.Unix()))
	if ago < 0 {
		ago = -ago
	}
	return false, ago
}
