package monitor

import (
	"time"

	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/startup"
	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// start is what is known of the container's start beside the machine, for which it is
// under way until the container's program would hear the stop signal: the runtime's
// start has ended before that, or was somebody's who has not asked.
type start struct {
	executed bool   // init had executed a program when the create had ended
	dir      string // where the runtime keeps the container, "" if that is not known (yet)

	ended lifecycle.Instant // when a start was said to have ended well; 0: it was not
	rest  lifecycle.Event   // what the machine is told in the end of one that is over
	timer loop.Timer
	at    lifecycle.Instant // for which it is armed; 0: it is not
	pause lifecycle.Duration
}

// How often it is looked whether the program runs: often while somebody's signal
// waits for that.
const (
	firstPause = lifecycle.Millisecond
	lastPause  = 250 * lifecycle.Millisecond
	urgent     = 5 * lifecycle.Millisecond
)

// progress tells how far the start has come.
func (c *Container) progress() startup.Progress {
	if c.init.pid == 0 {
		return startup.Waits
	}
	s := startup.Container{
		Dir: c.runtimeDir(), Init: c.init.pidfd, Pid: c.init.pid, Signal: c.stopSignal(),
		Executed: c.start.executed, Ended: c.start.ended != 0,
	}
	if s.Ended {
		s.EndedAgo = time.Duration(loop.Now() - c.start.ended)
	}
	return s.Look()
}

// stopSignal is the one that the container is to hear.
func (c *Container) stopSignal() signals.Signal {
	switch {
	case c.machine.StopSignal() != 0:
		return c.machine.StopSignal()
	case c.record != nil && c.record.StopSignal != 0:
		return c.record.StopSignal
	}
	return signals.TERM
}

// runtimeDir is where the runtime keeps the container, "" if it has no files there
// that are known.
func (c *Container) runtimeDir() string {
	if c.start.dir == "" && c.dir != nil {
		if kept, err := oci.ReadContainer(c.dir); err == nil {
			c.start.dir = kept.Dir // a gracerun has made it
		} else if dir := oci.Root(c.o.Runtime, c.o.RuntimeRoot()) + "/" + c.o.ID; oci.IsKnown(dir) {
			c.start.dir = dir
		}
	}
	return c.start.dir
}

// hasStarted tells whether the container was started, by whomever, whether its program
// runs already or not.
func (c *Container) hasStarted() bool {
	return c.machine.Started() || c.start.ended != 0 || c.progress() != startup.Waits
}

// lookForStart finds out whether the container's own program runs. Nobody says so: a
// runtime that is not wrapped starts it without asking; and the end of a start that
// was granted comes before that, or at the end of hooks that may take their time, or
// wait for a signal to be sent that waits for the start.
func (c *Container) lookForStart() {
	if c.init.pid == 0 || c.machine.Started() || !c.machine.Created() {
		return
	}
	switch c.progress() {
	case startup.Runs:
		c.startIsOver(lifecycle.Event{Kind: lifecycle.StartDone})
	case startup.UnderWay:
		if c.machine.Starting() == 0 {
			// Somebody else's: the machine learns of it as of one that it has granted.
			id := max(c.server.next, lifecycle.FirstRequest)
			c.server.next = id + 1
			c.start.rest = lifecycle.Event{Kind: lifecycle.Abandoned, Request: id}
			c.step(lifecycle.Event{Kind: lifecycle.StartRequest, Request: id})
		}
	case startup.Waits:
		if c.start.rest != (lifecycle.Event{}) {
			c.startIsOver(c.start.rest)
		}
	}
}

func (c *Container) startIsOver(ev lifecycle.Event) {
	c.start.rest = lifecycle.Event{}
	c.step(ev)
}

// startEnded takes the end of a start that was granted: of the runtime's start, or of
// who has called it. The machine hears it once the program runs, if it is about to.
func (c *Container) startEnded(ev lifecycle.Event) {
	if ev.Kind == lifecycle.StartDone && ev.Errno == 0 {
		c.start.ended = loop.Now()
	}
	if c.machine.Started() || c.progress() != startup.UnderWay {
		c.start.rest = lifecycle.Event{}
		c.tell(ev)
		c.s.loop.Defer(c.lookForStart)
		return
	}
	c.start.rest, c.start.pause = ev, firstPause
	c.awaitStart()
}

// awaitStart looks for the start again and again while the stop signal waits for it,
// or nobody will say that it is over.
func (c *Container) awaitStart() {
	over := c.start.rest != (lifecycle.Event{})
	waits := c.machine.StopSignal() != 0
	if c.machine.Starting() == 0 || c.machine.Exited() || !waits && !over {
		return
	}
	if waits {
		c.start.pause = min(c.start.pause, urgent)
	}
	at := loop.Now().After(max(c.start.pause, firstPause))
	if c.start.at == 0 || at < c.start.at {
		c.start.at = at
		c.s.loop.Arm(&c.start.timer, at)
	}
}

// lookAgainForStart is what the timer does.
func (c *Container) lookAgainForStart() {
	c.start.at, c.start.pause = 0, min(2*c.start.pause, lastPause)
	c.lookForStart()
	c.awaitStart()
}
