// Package invariant watches a lifecycle machine from outside and says which of
// its promises (I1 to I12 in docs/design.md) it breaks.
//
// The checker sees only what any observer of a trace sees: the instants, the
// events and the effects. It therefore serves the explorer, the simulator and
// the journal of a real container alike. It shares no code with the machine:
// where the machine updates a deadline step by step, the checker computes it
// anew from the list of who asked for what and when.
package invariant

import (
	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/lifecycle/internal/pack"
)

// Violation is a broken promise.
type Violation struct {
	Invariant string // "I1" ...
	Text      string // what happened, in one sentence
}

func (v *Violation) Error() string { return v.Invariant + ": " + v.Text }

// Checker follows one machine. The zero value is not ready; use New.
type Checker struct {
	config lifecycle.Config

	created, failed, exited bool
	started                 bool
	starting                lifecycle.RequestID
	frozen                  bool
	oom                     bool
	status                  lifecycle.Status

	stop    stop
	opener  *lifecycle.Caller // of the stop that is open, or was the last
	killing bool              // SIGKILL was sent for good reason: the grace period is over
	killed  bool              // SIGKILL reached init
	closed  bool              // and one of them was the opener's

	drainedAll bool
	drainFrom  lifecycle.Instant
	sweeps     int
	recording  bool
	recorded   bool
	commands   int

	armed    lifecycle.Instant
	requests []request
	flights  []flight
}

// stop is what an observer knows of the open grace period.
type stop struct {
	open      bool
	signal    signals.Signal
	opened    lifecycle.Instant
	demanded  bool // by a demand, not by a bare signal
	delivered bool
	heard     bool
	heardAt   lifecycle.Instant
	demands   []demand
}

// demand is an accepted stop request.
type demand struct {
	at    lifecycle.Instant
	grace lifecycle.Duration
	kill  bool // it asked for SIGKILL itself
	other bool // it is not the opener's, whose own end it may not bring forward
}

// request is a caller whose reply has not been seen yet.
type request struct {
	id        lifecycle.RequestID
	kind      lifecycle.EventKind
	signal    signals.Signal
	force     bool
	all       bool
	opener    bool // it is whoever has sent the stop signal
	breaks    bool // it breaks the grace period, and is to be noted
	sent      int
	delivered bool
	errno     int32
	joins     bool // it may be answered by the stop's delivery
	held      bool // the policy must hold its SIGKILL
	released  bool // and did so until the stop lapsed: one SIGKILL is for all of these
	again     bool // it was sent by a supervisor that died before it could know
}

// flight is a Deliver effect whose result is not known yet.
type flight struct {
	id     lifecycle.RequestID
	signal signals.Signal
}

// New returns the checker of a machine made with config c.
func New(c lifecycle.Config) *Checker {
	return &Checker{config: c, armed: lifecycle.Never}
}

// Check follows one Step. It returns the first promise that the step broke,
// or nil.
func (c *Checker) Check(now lifecycle.Instant, ev lifecycle.Event, effects []lifecycle.Effect) *Violation {
	if v := c.event(now, ev); v != nil {
		return v
	}
	c.hear(now)
	for _, e := range effects {
		if v := c.effect(now, ev, e); v != nil {
			return v
		}
	}
	return c.after(now, ev)
}

// --- what happened

func (c *Checker) event(now lifecycle.Instant, ev lifecycle.Event) *Violation {
	switch ev.Kind {
	case lifecycle.CreateDone:
		if c.created || c.failed || c.exited {
			break
		}
		c.created = ev.Errno == 0
		c.failed = ev.Errno != 0
	case lifecycle.StartRequest, lifecycle.SignalRequest, lifecycle.StopRequest:
		c.accept(now, ev)
	case lifecycle.MonitorSignal:
		if ev.Signal == signals.TERM {
			if !c.stop.open { // else whoever stops it knows until when
				c.demand(now, lifecycle.Event{Grace: -1})
			}
		} else if !c.exited && !c.failed {
			c.requests = append(c.requests, request{id: lifecycle.FromMonitor, kind: lifecycle.SignalRequest, signal: ev.Signal})
		}
	case lifecycle.StartDone:
		c.starting = 0
		if ev.Errno == 0 && !c.started {
			c.programRuns()
		}
	case lifecycle.Abandoned:
		if c.starting == ev.Request {
			c.starting = 0
		}
		if r := c.find(ev.Request); r != nil {
			if r.kind == lifecycle.SignalRequest {
				r.id = lifecycle.FromMonitor
			} else {
				c.forget(r)
			}
		}
	case lifecycle.Deadline:
		c.armed = lifecycle.Never
		if c.stop.open && len(c.stop.demands) == 0 && !c.killing && now >= c.end() {
			c.lapse()
		}
	case lifecycle.Delivered:
		c.delivered(now, ev)
	case lifecycle.Freezer:
		c.frozen = ev.Frozen
	case lifecycle.ThawDone:
		c.frozen = c.frozen && ev.Errno != 0
	case lifecycle.OOM:
		c.oom = true
	case lifecycle.InitExited:
		if !c.exited && !c.failed {
			c.exited, c.status, c.drainFrom = true, ev.Status, now
		}
	case lifecycle.StreamsDrained:
		c.drainedAll = true
	case lifecycle.ExitRecorded:
		c.recording = false
		c.recorded = c.recorded || ev.Errno == 0
	case lifecycle.Recovered:
		c.recovered()
	}
	return nil
}

// programRuns: what the runtime's init was sent the container's program has not
// heard. A stop is told to it again; a bare signal that kept nobody from the start is
// over.
func (c *Checker) programRuns() {
	c.started = true
	s := &c.stop
	switch {
	case !s.open || !s.delivered || c.killing:
	case len(s.demands) > 0 || c.keeps():
		s.delivered, s.heard = false, false
	default:
		c.lapse()
	}
}

// recovered: what was under way may be begun again, once. Everything that was
// promised stands (I12): deadlines, what was delivered, how it exited.
func (c *Checker) recovered() {
	c.armed = lifecycle.Never
	c.flights = c.flights[:0]
	c.recording = false
	c.sweeps, c.commands = 0, 0
	for i := range c.requests {
		r := &c.requests[i]
		r.again = r.again || r.sent > 0
		r.sent = 0
	}
}

// accept notes a caller.
func (c *Checker) accept(now lifecycle.Instant, ev lifecycle.Event) {
	r := request{id: ev.Request, kind: ev.Kind, signal: ev.Signal, force: ev.Force, all: ev.All}
	alive := !c.exited && !c.failed
	s := &c.stop
	if alive && ev.Kind == lifecycle.SignalRequest {
		inGrace := s.open && !c.killing && !ev.Force
		r.opener = ev.By.Is(c.opener)
		switch {
		case ev.Signal == signals.KILL:
			switch c.config.Policy {
			case lifecycle.Enforce:
				r.held = inGrace
			case lifecycle.Delegate:
				r.held = inGrace && !r.opener
			default:
				r.breaks = inGrace && !r.opener
			}
		case s.open && ev.Signal == s.signal:
			r.joins = c.keeps() && !ev.Force || !s.delivered
			r.breaks = inGrace && !r.joins
		case !s.open && ev.Signal == c.config.StopSignal && !c.killing:
			r.joins = true
			c.open(now, ev.Signal, ev.By)
		}
	}
	if ev.Kind == lifecycle.StopRequest {
		c.demand(now, ev)
	}
	c.requests = append(c.requests, r)
}

// keeps reports whether the policy keeps an open grace period against bare kills.
func (c *Checker) keeps() bool {
	return c.config.Policy == lifecycle.Enforce || c.config.Policy == lifecycle.Delegate
}

func (c *Checker) open(now lifecycle.Instant, sig signals.Signal, by *lifecycle.Caller) {
	c.opener = by
	c.stop = stop{open: true, signal: sig, opened: now, demands: c.stop.demands[:0]}
}

func (c *Checker) demand(now lifecycle.Instant, ev lifecycle.Event) {
	if c.exited || c.failed || c.killing {
		return
	}
	other := c.stop.open && c.config.Policy == lifecycle.Delegate && !ev.By.Is(c.opener)
	if !c.stop.open {
		sig := ev.Signal
		if sig == 0 {
			sig = c.config.StopSignal
		}
		c.open(now, sig, ev.By)
		c.stop.demanded = true
	}
	if ev.Grace < 0 {
		ev.Grace = c.config.Grace
	}
	if len(c.stop.demands) == 0 && c.frozen {
		c.stop.heard = false // a signal that waits in a frozen init is heard when it thaws
	}
	c.stop.demands = append(c.stop.demands, demand{now, ev.Grace, ev.Signal == signals.KILL || ev.Grace == 0, other})
}

// lapse: nobody demanded an end, and the grace of the bare signal is over.
func (c *Checker) lapse() {
	c.stop.open = false
	for i := range c.requests {
		r := &c.requests[i]
		r.released, r.held = r.released || r.held, false
	}
}

// hear notes the instant from which the container's grace runs: the signal was
// delivered to an init that is not frozen.
func (c *Checker) hear(now lifecycle.Instant) {
	if s := &c.stop; s.open && s.delivered && !c.frozen && !s.heard {
		s.heard, s.heardAt = true, now
	}
}

// end computes the effective deadline (I2): the earliest of what was asked
// for, each counted from when it was accepted or, if that was later, from when
// the stop signal was heard. A stop that nobody demands ends with its window. Under
// policy delegate a demand of somebody else than the opener is no earlier than what
// the opener gives.
func (c *Checker) end() lifecycle.Instant {
	s, openers := &c.stop, c.openersEnd()
	if len(s.demands) == 0 {
		return openers
	}
	end := lifecycle.Never
	for _, d := range s.demands {
		switch at := s.from(d.at).After(d.grace); {
		case d.kill:
			return d.at
		case d.other:
			end = min(end, max(at, openers))
		default:
			end = min(end, at)
		}
	}
	return end
}

// openersEnd is until when the opener gives the container time.
func (c *Checker) openersEnd() lifecycle.Instant {
	s, end := &c.stop, lifecycle.Never
	if !s.demanded {
		end = s.from(s.opened).After(c.config.Grace)
	}
	for _, d := range s.demands {
		if !d.other {
			end = min(end, s.from(d.at).After(d.grace))
		}
	}
	return end
}

// from is when a grace begins that was asked for at that instant. heardAt is that of
// the last time: a demand on a frozen container has it heard again.
func (s *stop) from(at lifecycle.Instant) lifecycle.Instant { return max(at, s.heardAt) }

func (c *Checker) delivered(now lifecycle.Instant, ev lifecycle.Event) {
	for i, f := range c.flights {
		if f.id == ev.Request && f.signal == ev.Signal {
			c.flights = append(c.flights[:i], c.flights[i+1:]...)
			break
		}
	}
	if ev.Errno == 0 && ev.Signal == signals.KILL {
		c.killed = true
		for _, r := range c.requests { // its caller may have gone since
			c.closed = c.closed || (r.id == ev.Request || r.id == lifecycle.FromMonitor) && r.sent > 0 && r.signal == signals.KILL && r.opener
		}
		c.killing = c.killing || !c.exited
	}
	switch ev.Request {
	case lifecycle.ForStop:
		if ev.Signal != c.stop.signal {
			return
		}
		if ev.Errno == 0 {
			c.stop.delivered = true
		}
		for i := range c.requests {
			if r := &c.requests[i]; r.joins {
				r.delivered, r.errno = ev.Errno == 0, ev.Errno
			}
		}
		if ev.Errno != 0 && c.stop.open && len(c.stop.demands) == 0 && !c.killing {
			c.lapse()
		}
	case lifecycle.ForKill:
		for i := range c.requests {
			if r := &c.requests[i]; r.held || r.released && r.sent == 0 {
				r.delivered, r.errno = ev.Errno == 0, ev.Errno
			}
		}
	default:
		for i := range c.requests {
			// SIGKILL that nobody holds any more is sent once for all who wait for it.
			if r := &c.requests[i]; r.released && r.sent == 0 && ev.Signal == signals.KILL {
				r.delivered, r.errno = ev.Errno == 0, ev.Errno
			}
		}
		for _, id := range [...]lifecycle.RequestID{ev.Request, lifecycle.FromMonitor} { // its caller may have gone since
			for i := range c.requests {
				if r := &c.requests[i]; r.id == id && r.sent > 0 && r.signal == ev.Signal {
					r.delivered, r.errno = ev.Errno == 0, ev.Errno
					if id == lifecycle.FromMonitor {
						c.forget(r)
					}
					return
				}
			}
		}
	}
}

// --- what the machine did about it

func (c *Checker) effect(now lifecycle.Instant, ev lifecycle.Event, e lifecycle.Effect) *Violation {
	switch e.Kind {
	case lifecycle.Deliver:
		return c.deliver(now, e)
	case lifecycle.AbortCreate:
		if c.created || now < c.end() {
			return &Violation{"I8", "a create was aborted that was not to be"}
		}
		c.killing = true
	case lifecycle.KillCgroup:
		c.sweeps++
		if !c.exited {
			return &Violation{"I1", "the cgroup was killed while init lives"}
		}
		if c.sweeps > 1 {
			return &Violation{"I7", "what was left in the cgroup was killed twice"}
		}
		c.drainFrom = now
	case lifecycle.Arm:
		c.armed = e.At
	case lifecycle.RecordExit:
		return c.record(now, e)
	case lifecycle.RunExitCommand:
		c.commands++
		if c.commands > 1 {
			return &Violation{"I6", "the exit command was run twice"}
		}
		if !c.recorded {
			return &Violation{"I6", "the exit command was run before the exit was recorded"}
		}
	case lifecycle.Reply:
		return c.reply(now, e)
	case lifecycle.RecordBreach:
		r := c.find(e.Request)
		if r != nil && r.kind == lifecycle.SignalRequest && !r.breaks {
			return &Violation{"I5", "a breach was noted of a request that breaks nothing"}
		}
		if r != nil {
			r.breaks = false
		}
	}
	return nil
}

func (c *Checker) deliver(now lifecycle.Instant, e lifecycle.Effect) *Violation {
	switch {
	case c.exited:
		return &Violation{"I4", e.Signal.String() + " was sent to an init that had been reaped: its number may be a stranger's"}
	case !c.created:
		return &Violation{"I4", e.Signal.String() + " was sent before there was an init"}
	}
	for _, f := range c.flights {
		if f.id == e.Request && f.signal == e.Signal && f.id != lifecycle.ForKill && f.id != lifecycle.FromMonitor {
			return &Violation{"I3", e.Signal.String() + " was sent again while its delivery was under way"}
		}
	}
	c.flights = append(c.flights, flight{e.Request, e.Signal})
	switch e.Request {
	case lifecycle.ForStop:
		s := &c.stop
		switch {
		case !s.open:
			return &Violation{"I3", "a stop signal was sent though nobody stops the container"}
		case s.delivered:
			return &Violation{"I3", "the stop signal was sent a second time in one stop"}
		case c.killing:
			return &Violation{"I3", "the stop signal was sent after the grace period"}
		case c.starting != 0:
			return &Violation{"I8", "the stop signal was sent into a start, which swallows it"}
		case c.frozen && len(s.demands) > 0:
			return &Violation{"I11", "the stop signal was sent to a frozen container"}
		}
		return nil
	case lifecycle.ForKill:
		if !c.killing && (!c.stop.open || len(c.stop.demands) == 0) {
			return &Violation{"I1", "SIGKILL was sent though nobody stops the container"}
		}
		if !c.killing && now < c.end() {
			return &Violation{"I1", "SIGKILL was sent " + (lifecycle.Duration(c.end() - now)).String() + " before the grace period was over"}
		}
		c.killing = true
		return nil
	}
	return c.deliverOwn(now, e)
}

// deliverOwn checks the delivery of a caller's own signal.
func (c *Checker) deliverOwn(now lifecycle.Instant, e lifecycle.Effect) *Violation {
	for i := range c.requests {
		r := &c.requests[i]
		if r.id != e.Request || r.signal != e.Signal || r.sent > 0 {
			continue
		}
		r.sent++
		switch {
		case r.kind != lifecycle.SignalRequest:
			return &Violation{"I3", "a stop request's signal was sent on its own"}
		case r.held && c.stop.open && !c.killing && now < c.end():
			return &Violation{"I1", "SIGKILL of a bare kill was sent within the grace period under policy " + c.config.Policy.String()}
		case r.breaks:
			return &Violation{"I5", "a grace period was broken, and nobody noted it"}
		case c.keeps() && !r.force && !r.again && r.joins && c.stop.delivered && e.Target != lifecycle.ToOthers:
			return &Violation{"I3", "a bare kill repeated the stop signal under policy " + c.config.Policy.String()}
		}
		return nil
	}
	return &Violation{"I3", e.Signal.String() + " was sent though nobody asked for it, or more often than asked"}
}

func (c *Checker) record(now lifecycle.Instant, e lifecycle.Effect) *Violation {
	switch {
	case !c.exited:
		return &Violation{"I6", "an exit was recorded before init was reaped"}
	case c.recording || c.recorded:
		return &Violation{"I6", "the exit was recorded twice"}
	case e.Status != c.status:
		return &Violation{"I6", "the recorded status " + e.Status.String() + " is not init's " + c.status.String()}
	case !c.drainedAll && now < c.drainFrom.After(c.config.Drain):
		return &Violation{"I6", "the exit was recorded before the last output was in the log"}
	}
	if e.Reason == lifecycle.AtDeadline && (!c.killed || c.status != lifecycle.Signaled(signals.KILL)) {
		return &Violation{"I7", "a container that ended by itself was recorded as killed at the deadline"}
	}
	if e.Reason == lifecycle.ByOpener && !c.closed {
		return &Violation{"I6", "a SIGKILL was recorded as the opener's that was not"}
	}
	if e.Reason == lifecycle.ByOOM && !c.oom {
		return &Violation{"I6", "an OOM kill was recorded that nobody saw"}
	}
	c.recording = true
	return nil
}

// reply checks that a reply is the only one to its request, and true (I5).
func (c *Checker) reply(now lifecycle.Instant, e lifecycle.Effect) *Violation {
	r := c.find(e.Request)
	if r == nil {
		return &Violation{"I5", "a reply went to a request that has none open"}
	}
	defer c.forget(r)
	var truth bool
	switch e.Outcome {
	case lifecycle.DeliveredOutcome:
		truth = r.delivered
	case lifecycle.Joined:
		truth = r.joins && c.stop.delivered
	case lifecycle.Ended:
		truth = c.exited && e.Status == c.status && (r.kind != lifecycle.StopRequest || c.recorded)
	case lifecycle.NotRunning:
		truth = c.exited || r.errno == lifecycle.ESRCH
	case lifecycle.NotFound:
		truth = c.failed
	case lifecycle.FailedOutcome:
		// Its delivery failed, or the grace period ended without one.
		truth = e.Errno != 0 && (r.errno == e.Errno || r.joins && !c.stop.delivered && (c.killing || !c.stop.open || now >= c.end()))
	case lifecycle.Granted:
		if v := c.grant(r); v != nil {
			return v
		}
		truth = c.created && !c.exited
	case lifecycle.Refused:
		truth = r.kind == lifecycle.StartRequest && (!c.created || c.started || c.starting != 0 || c.stop.open || c.killing)
	}
	if !truth {
		return &Violation{"I5", "the reply " + e.Outcome.String() + " is not true"}
	}
	return nil
}

func (c *Checker) grant(r *request) *Violation {
	if c.killing || c.stop.open && (len(c.stop.demands) > 0 || c.keeps()) {
		return &Violation{"I8", "a start was granted after the container was stopped"}
	}
	c.starting = r.id
	return nil
}

// after checks what must hold when the machine has had its say.
func (c *Checker) after(now lifecycle.Instant, ev lifecycle.Event) *Violation {
	if c.exited {
		return nil
	}
	for _, r := range c.requests {
		if c.created && r.kind == lifecycle.SignalRequest && r.signal == signals.KILL && !r.held && !r.released && r.sent == 0 && !r.delivered && r.errno == 0 {
			return &Violation{"I2", "SIGKILL that was to pass at once was held"}
		}
	}
	demanded := c.stop.open && len(c.stop.demands) > 0 && !c.failed
	switch {
	case demanded && !c.killing && ev.Kind == lifecycle.Deadline && now >= c.end():
		return &Violation{"I2", "the effective deadline has passed and nothing was done"}
	case demanded && !c.killing && c.armed == lifecycle.Never:
		return &Violation{"I9", "the deadline is not armed: nothing would end the grace period"}
	case demanded && !c.killing && c.armed > c.end():
		return &Violation{"I2", "the timer is armed for " + (lifecycle.Duration(c.armed - c.end())).String() + " past the effective deadline"}
	case c.killing && !c.failed && c.armed == lifecycle.Never:
		return &Violation{"I9", "SIGKILL is not repeated: a failed one would be the last"}
	}
	return nil
}

// Recorded reports whether the exit was recorded and its exit command run.
func (c *Checker) Recorded() bool { return c.recorded && c.commands == 1 }

// Stopping reports whether a grace period is open.
func (c *Checker) Stopping() bool { return c.stop.open }

// Demanded reports whether somebody demands an end that has not come yet.
func (c *Checker) Demanded() bool { return len(c.stop.demands) > 0 && !c.exited && !c.failed }

func (c *Checker) find(id lifecycle.RequestID) *request {
	for i := range c.requests {
		if c.requests[i].id == id {
			return &c.requests[i]
		}
	}
	return nil
}

func (c *Checker) forget(r *request) {
	for i := range c.requests {
		if &c.requests[i] == r {
			c.requests = append(c.requests[:i], c.requests[i+1:]...)
			return
		}
	}
}

// Clone returns a checker of its own that has seen the same.
func (c *Checker) Clone() *Checker {
	d := *c
	d.requests = append([]request(nil), c.requests...)
	d.flights = append([]flight(nil), c.flights...)
	d.stop.demands = append([]demand(nil), c.stop.demands...)
	return &d
}

// AppendState appends to b an encoding of all that decides what the checker
// will say from now on.
func (c *Checker) AppendState(b []byte, now lifecycle.Instant) []byte {
	s := &c.stop
	b = append(b,
		pack.Bits(c.created, c.failed, c.exited, c.started, c.frozen, c.oom, c.killing, c.killed),
		pack.Bits(c.closed, s.demanded),
		pack.Bits(c.drainedAll, c.recording, c.recorded, s.open, s.delivered, s.heard, len(s.demands) > 0),
		byte(c.status.Kind), c.status.Value, byte(c.sweeps), byte(c.commands), byte(s.signal))
	b = pack.Int(b, int64(c.starting))
	if s.open {
		b = pack.Until(pack.Until(b, c.end(), now), c.openersEnd(), now)
		if !s.heard { // the graces count anew from when it is heard
			shortest := [2]lifecycle.Duration{c.config.Grace, c.config.Grace}
			for i, d := range s.demands {
				if who := pack.Bits(d.other); i == 0 || d.grace < shortest[who] {
					shortest[who] = d.grace
				}
			}
			b = pack.Int(pack.Int(b, int64(shortest[0])), int64(shortest[1]))
		}
	}
	if c.exited && !c.drainedAll {
		b = pack.Until(b, c.drainFrom.After(c.config.Drain), now)
	}
	b = pack.Until(b, c.armed, now)
	for _, r := range c.requests {
		b = pack.Int(b, int64(r.id))
		b = append(b, byte(r.kind), byte(r.signal), byte(r.sent), byte(r.errno),
			pack.Bits(r.force, r.all, r.delivered, r.joins, r.held, r.released, r.again), pack.Bits(r.opener, r.breaks))
	}
	if c.opener != nil {
		b = c.opener.Append(b)
	}
	b = append(b, 0xff)
	for _, f := range c.flights {
		b = append(pack.Int(b, int64(f.id)), byte(f.signal))
	}
	return b
}
