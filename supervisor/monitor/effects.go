package monitor

import (
	"errors"

	"golang.org/x/sys/unix"

	"gracerun.io/faults"
	"gracerun.io/runtime/cgroup"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/breach"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// perform does what the machine asks for, by way of the fault plan if there is
// one. What can fail is answered with an event. Nothing here waits, and nothing
// steps the machine, whose effects are valid until its next step.
func (c *Container) perform(e lifecycle.Effect) {
	if e.Kind == lifecycle.RecordExit && !c.outputIsReady() {
		c.at(loop.Now().After(10*lifecycle.Millisecond), func() { c.perform(e) })
		return
	}
	if c.faults == nil || faultPoints[e.Kind] == "" {
		c.answer(e, c.do(e))
		return
	}
	c.performFaulty(e)
}

// faultPoints are where a fault plan can go between.
var faultPoints = [...]faults.Point{
	lifecycle.Deliver:      "effect.deliver",
	lifecycle.Thaw:         "effect.thaw",
	lifecycle.AbortCreate:  "effect.abort-create",
	lifecycle.KillCgroup:   "effect.kill-cgroup",
	lifecycle.RecordExit:   "effect.record-exit",
	lifecycle.Reply:        "effect.reply",
	lifecycle.RecordBreach: "",
}

// performFaulty is apart since its functions would have each effect allocated.
func (c *Container) performFaulty(e lifecycle.Effect) {
	c.faulty(faultPoints[e.Kind], e.Signal,
		func() int32 { return c.do(e) },
		func(errno int32) { c.answer(e, errno) })
}

// do gives the errno, 0 if it worked.
func (c *Container) do(e lifecycle.Effect) int32 {
	switch e.Kind {
	case lifecycle.Deliver:
		slot := c.memo.Sending(e.Request, e.Signal)
		errno := c.deliver(e)
		c.memo.Sent(slot, errno)
		return errno
	case lifecycle.Thaw:
		return errnoOf(c.cgroup.Thaw())
	case lifecycle.AbortCreate:
		c.abortCreate()
	case lifecycle.KillCgroup:
		return c.killCgroup()
	case lifecycle.Arm:
		c.s.loop.Arm(&c.timer, e.At)
	case lifecycle.DrainStreams:
		c.streams.drain(c)
		c.lookIfEmpty()
	case lifecycle.RecordExit:
		return c.recordExit(e.Status, e.Reason)
	case lifecycle.RunExitCommand:
		c.s.loop.Defer(func() {
			c.faulty("effect.run-exit-command", 0, func() int32 {
				c.runExitCommand(func() { c.step(lifecycle.Event{Kind: lifecycle.ExitCommandDone}) })
				return 0
			}, nil)
		})
	case lifecycle.Reply:
		c.server.reply(e)
	case lifecycle.RecordBreach:
		record := breach.Of(c.o.ID, "gracemon", c.machine, e, loop.Now())
		c.notes.warn(record.String())
		record.Send()
	}
	return 0
}

// answer tells the machine what became of an effect, if it wants to know.
func (c *Container) answer(e lifecycle.Effect, errno int32) {
	switch e.Kind {
	case lifecycle.Deliver:
		c.tell(lifecycle.Event{Kind: lifecycle.Delivered, Request: e.Request, Signal: e.Signal, Errno: errno})
	case lifecycle.Thaw:
		c.tell(lifecycle.Event{Kind: lifecycle.ThawDone, Errno: errno})
	case lifecycle.RecordExit:
		c.tell(lifecycle.Event{Kind: lifecycle.ExitRecorded, Errno: errno})
	}
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
	if e.Signal == signals.KILL {
		return errnoOf(c.cgroup.KillContainer(c.init.pidfd, c.init.pid))
	}
	return errnoOf(c.init.pidfd.Send(e.Signal))
}

// killGroup kills the process group of the process of a timed-out exec: it leads
// one, or is in that of the runtime which has started it (crun before 1.9 without a
// terminal). The number of the group is nobody else's while it has a member that was
// not reaped: only this process could do so.
func (c *Container) killGroup() {
	if group, err := unix.Getpgid(c.init.pid); err == nil && group > 1 && group != unix.Getpgrp() && c.ours() {
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
	if err == nil {
		return 0
	}
	var errno unix.Errno
	switch {
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
