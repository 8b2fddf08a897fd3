package monitor

import (
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/recovery"
)

// A supervisor can be unable to answer: it was stopped by a signal, or the kernel
// does not come back with what it has asked for. A gracerun that has waited in vain
// then steps the machine itself, in a fork of the journal (shim/beside.go). The
// supervisor joins that before it does anything else with the machine:
//
//	gracerun                                 supervisor
//	withdraws its request                    notes that it steps
//	notes that there is to be a fork         joins the fork, if one is noted
//	waits while the supervisor steps         leaves requests alone that are withdrawn
//	forks the journal, under its lock        steps
//
// So each request is seen to by one of them, wherever either of them is held up.

// beginSteps notes that the machine is about to be stepped. What it gives is for
// endSteps.
func (c *Container) beginSteps() (nested bool) {
	nested = c.stepping
	if !nested {
		c.stepping = true
		c.memo.SetStepping(true)
	}
	return nested
}

func (c *Container) endSteps(nested bool) {
	if !nested {
		c.stepping = false
		c.memo.SetStepping(false)
	}
}

// isWithdrawn reports whether the event is a request whose caller has seen to it
// itself meanwhile, and forgets it then.
func (c *Container) isWithdrawn(ev lifecycle.Event) bool {
	switch ev.Kind {
	case lifecycle.SignalRequest, lifecycle.StopRequest, lifecycle.StartRequest:
	default:
		return false
	}
	if c.memo.Beside() {
		c.join()
	}
	for _, k := range c.server.callers {
		if k.request == ev.Request && control.IsWithdrawn(k.fd) {
			k.request = 0
			return true
		}
	}
	return false
}

// join takes over what others have done while this supervisor did not answer.
func (c *Container) join() {
	if !lockSoon(c.dir.FD()) {
		c.notes.warn("container " + c.o.ID + ": somebody who has acted without its supervisor has its state directory locked, and does not go on")
	}
	steps, m, err := journal.Join(c.dir.FD())
	c.memo.SetBeside(false)
	if err != nil {
		c.notes.warn("container " + c.o.ID + ": what was done to it while its supervisor did not answer: " + err.Error())
	}
	if m != nil {
		c.resumeWith(m, steps)
	}
	journal.Unlock(c.dir.FD())
}

// lockSoon is journal.Lock with an end: one who was stopped while he had the lock
// must not stop the supervisor.
func lockSoon(dir int) bool {
	const pause = 2 * time.Millisecond
	for range 500 {
		if unix.Flock(dir, unix.LOCK_EX|unix.LOCK_NB) == nil {
			return true
		}
		time.Sleep(pause)
	}
	return false
}

// resumeWith goes on with the machine as others have left it, after these steps.
func (c *Container) resumeWith(m *lifecycle.Machine, steps []journal.Record) {
	c.notes.warn("container " + c.o.ID + ": its supervisor did not answer: gracerun has acted without it, in " + strconv.Itoa(len(steps)) + " steps")
	before := c.machine.Callers()
	c.machine = m
	if w, _, err := journal.Resume(c.dir.FD()); err == nil {
		c.journal.Close()
		c.journal = w
	}
	for _, r := range steps {
		for _, effect := range r.Effects {
			if e, err := lifecycle.ParseReply(effect); err == nil {
				c.server.reply(e)
			}
		}
	}
	for _, id := range m.Callers() {
		c.server.next = max(c.server.next, id+1)
		if !slices.Contains(before, id) { // who still waits asks again
			c.tell(lifecycle.Event{Kind: lifecycle.Abandoned, Request: id})
		}
	}
	for _, e := range m.Unanswered() {
		if e.Kind == lifecycle.RecordExit {
			continue // nobody else's business
		}
		errno := int32(unix.EINTR) // whoever was to do it has died
		if evidence, known := c.memo.Delivery(e.Request, e.Signal); e.Kind == lifecycle.Deliver && evidence == recovery.Known {
			errno = known
		}
		c.answer(e, errno)
	}
	c.s.loop.Arm(&c.timer, m.Armed())
}
