package monitor

import (
	"errors"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/cgroup"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// perform does what the machine asks for. What can fail is answered with an
// event. Nothing here waits.
func (c *Container) perform(e lifecycle.Effect) {
	switch e.Kind {
	case lifecycle.Deliver:
		c.faulty("effect.deliver", e.Signal,
			func() int32 {
				slot := c.memo.Sending(e.Request, e.Signal)
				errno := c.deliver(e)
				c.memo.Sent(slot, errno)
				return errno
			},
			func(errno int32) {
				c.tell(lifecycle.Event{Kind: lifecycle.Delivered, Request: e.Request, Signal: e.Signal, Errno: errno})
			})
	case lifecycle.Thaw:
		c.faulty("effect.thaw", 0,
			func() int32 { return errnoOf(c.cgroup.Thaw()) },
			func(errno int32) { c.tell(lifecycle.Event{Kind: lifecycle.ThawDone, Errno: errno}) })
	case lifecycle.AbortCreate:
		c.faulty("effect.abort-create", 0, func() int32 { c.abortCreate(); return 0 }, nil)
	case lifecycle.KillCgroup:
		c.faulty("effect.kill-cgroup", 0, c.killCgroup, nil)
	case lifecycle.Arm:
		c.s.loop.Arm(&c.timer, e.At)
	case lifecycle.DrainStreams:
		c.streams.drain(c)
		c.lookIfEmpty()
	case lifecycle.RecordExit:
		c.faulty("effect.record-exit", 0,
			func() int32 { return c.recordExit(e.Status, e.Reason) },
			func(errno int32) { c.tell(lifecycle.Event{Kind: lifecycle.ExitRecorded, Errno: errno}) })
	case lifecycle.RunExitCommand:
		c.faulty("effect.run-exit-command", 0, func() int32 {
			c.runExitCommand(func() { c.step(lifecycle.Event{Kind: lifecycle.ExitCommandDone}) })
			return 0
		}, nil)
	case lifecycle.Reply:
		c.faulty("effect.reply", 0, func() int32 { c.server.reply(e); return 0 }, nil)
	case lifecycle.Violation:
		c.notes.warn("container " + c.o.ID + ": " + breach(e.Breach))
	}
}

func breach(b lifecycle.Breach) string {
	switch b {
	case lifecycle.RepeatedStop:
		return "its stop signal was sent again in its grace period"
	case lifecycle.EarlyKill:
		return "SIGKILL was sent before its grace period was over"
	case lifecycle.StartAfterStop:
		return "it is started after its stop signal was sent"
	}
	return b.String()
}

// deliver sends a signal and gives the errno, 0 if it was delivered.
func (c *Container) deliver(e lifecycle.Effect) int32 {
	if c.init.pid == 0 {
		return lifecycle.ESRCH
	}
	// A process that has exited takes every signal and hears none.
	if exited, err := c.init.pidfd.Exited(); err == nil && exited {
		return lifecycle.ESRCH
	}
	if c.timedOut && e.Signal == signals.KILL {
		c.killGroup()
	}
	switch e.Target {
	case lifecycle.ToAll, lifecycle.ToOthers:
		except := 0
		if e.Target == lifecycle.ToOthers {
			except = c.init.pid
		}
		_, err := c.cgroup.Signal(e.Signal, except)
		if errors.Is(err, cgroup.ErrNoCgroup) {
			if e.Target == lifecycle.ToOthers {
				return 0 // nobody else is known to be the container's
			}
			err = c.init.pidfd.Send(e.Signal)
		}
		return errnoOf(err)
	}
	return errnoOf(c.init.pidfd.Send(e.Signal))
}

// killGroup kills the process group that the process of a timed-out exec leads.
// The number of a group is its leader's, and that one was not reaped: only this
// process could do so.
func (c *Container) killGroup() {
	if group, err := unix.Getpgid(c.init.pid); err == nil && group == c.init.pid && c.ours() {
		_ = unix.Kill(-group, unix.SIGKILL)
	}
}

// ours reports whether init is a child of this process.
func (c *Container) ours() bool {
	return unix.Waitid(unix.P_PIDFD, int(c.init.pidfd), nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil
}

func (c *Container) killCgroup() int32 {
	if c.cgroup.Dir == "" {
		return 0
	}
	err := c.cgroup.Kill()
	if err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error())
	}
	return errnoOf(err)
}

// errnoOf gives the number of an error of the kernel, 0 for none and EIO for
// what has no number.
func errnoOf(err error) int32 {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.Is(err, process.ErrGone):
		return lifecycle.ESRCH
	case errors.As(err, &errno):
		return int32(errno)
	}
	return int32(unix.EIO)
}

// at has f called at that instant.
func (c *Container) at(instant lifecycle.Instant, f func()) {
	c.s.loop.Arm(&loop.Timer{Fire: f}, instant)
}
