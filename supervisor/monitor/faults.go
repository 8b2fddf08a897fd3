package monitor

import (
	"golang.org/x/sys/unix"

	"gracerun.io/faults"
	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/settings"
)

// findFaults reads the fault plan of the environment, or of the container where the
// owner of the node allows that. With one, gracemon says so, and says each fault.
func (c *Container) findFaults() {
	text, _ := unix.Getenv(faults.Variable)
	if planned, _ := c.record.Annotations.Get(settings.FaultsAnnotation); text == "" && planned != "" {
		if node, _ := settings.Load(); !node.FaultsByAnnotation {
			c.notes.warn("container " + c.o.ID + ": annotation " + settings.FaultsAnnotation +
				": a fault plan in an annotation is not followed on this node (faults in " + settings.Path() + ")")
			return
		}
		text = planned
	}
	if text == "" {
		return
	}
	rules, err := faults.Parse(text)
	if err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error())
		return
	}
	c.faults = faults.New(c.unspent(rules))
	c.faults.Say = func(what string) { c.notes.warn("container " + c.o.ID + ": FAULT: " + what) }
	c.notes.warn("container " + c.o.ID + ": a FAULT PLAN is active: things will go wrong on purpose: " + text)
}

// liftFaults ends the plan, when somebody insists on the end of the container: by
// force, or by a SIGKILL that breaks no grace period. What hangs goes on.
func (c *Container) liftFaults() {
	if c.faults == nil {
		return
	}
	c.notes.warn("container " + c.o.ID + ": the FAULT PLAN is not followed any more: somebody insists on the container's end")
	hung := c.hung
	c.faults, c.hung = nil, nil
	for _, goOn := range hung {
		goOn()
	}
}

// faulty does something that can fail, by way of the fault plan, and tells its
// errno. Without a plan it is done, and done is told.
func (c *Container) faulty(at faults.Point, sig signals.Signal, do func() int32, done func(errno int32)) {
	if done == nil {
		done = func(int32) {}
	}
	if c.faults == nil {
		done(do())
		return
	}
	before := c.faults.Before(at, sig)
	perform := func() { c.faultyAfter(at, sig, do(), done) }
	switch before.Do {
	case faults.Delay:
		c.at(loop.Now().After(lifecycle.Duration(before.Delay)), perform)
	case faults.Drop:
		done(0)
	case faults.Error:
		done(int32(before.Errno))
	case faults.Hang:
		c.hung = append(c.hung, perform)
	case faults.Duplicate:
		do()
		perform()
	default:
		strike(before.Do)
		perform()
	}
}

func (c *Container) faultyAfter(at faults.Point, sig signals.Signal, errno int32, done func(int32)) {
	after := c.faults.After(at, sig)
	switch after.Do {
	case faults.Delay:
		c.at(loop.Now().After(lifecycle.Duration(after.Delay)), func() { done(errno) })
	case faults.Error:
		done(int32(after.Errno))
	case faults.Hang:
		c.hung = append(c.hung, func() { done(errno) })
	default:
		strike(after.Do)
		done(errno)
	}
}

// strike does to this process what a fault does to it.
func strike(do faults.Action) {
	switch do {
	case faults.Crash:
		_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
	case faults.Freeze:
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
	}
}

// stepJournal steps the machine by way of its journal.
func (c *Container) stepJournal(now lifecycle.Instant, ev lifecycle.Event) ([]lifecycle.Effect, error) {
	if c.faults == nil {
		return c.journal.Step(c.machine, now, ev)
	}
	before := c.faults.Before("write.journal", 0)
	if before.Do == faults.Error {
		return c.machine.Step(now, ev), before.Errno
	}
	pause(before)
	effects, err := c.journal.Step(c.machine, now, ev)
	after := c.faults.After("write.journal", 0)
	if after.Do == faults.Error {
		return effects, after.Errno
	}
	pause(after)
	return effects, err
}

// logFault is what becomes of a write to a log file; nil without a plan.
func (c *Container) logFault() func(after bool) error {
	if c.faults == nil {
		return nil
	}
	return func(after bool) error {
		ask := c.faults.Before
		if after {
			ask = c.faults.After
		}
		f := ask("write.log", 0)
		if f.Do == faults.Error {
			return f.Errno
		}
		pause(f)
		return nil
	}
}

// pause is a fault that holds everything up, as a slow disk would.
func pause(f faults.Fault) {
	if f.Do == faults.Delay {
		left := unix.NsecToTimespec(int64(f.Delay))
		for unix.Nanosleep(&left, &left) == unix.EINTR {
		}
		return
	}
	strike(f.Do)
}
