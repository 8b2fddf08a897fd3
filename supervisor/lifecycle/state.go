package lifecycle

import (
	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle/internal/pack"
)

// State is where the container is in its life, as derived from what the
// machine knows. Being frozen is an attribute of its own: it crosses them all.
type State uint8

// The states of a container.
const (
	// Creating: the runtime's create has not ended yet.
	Creating State = iota
	// Created: init exists and waits to be started.
	Created
	// Running: the container's own program runs.
	Running
	// Stopping: a grace period is open.
	Stopping
	// Killing: SIGKILL is sent, repeatedly, until the exit is seen.
	Killing
	// Draining: init is gone; its last output and its status are being saved.
	Draining
	// Stopped: the exit is recorded.
	Stopped
	// Failed: the create failed; there never was a container.
	Failed

	states = int(iota)
)

// States is the number of states there are.
const States = states

// State returns the state of the container.
func (m *Machine) State() State {
	switch {
	case m.phase == failed:
		return Failed
	case m.phase == ended:
		return Stopped
	case m.phase == draining:
		return Draining
	case m.killing:
		return Killing
	case m.stop.open:
		return Stopping
	case m.started:
		return Running
	case m.created:
		return Created
	}
	return Creating
}

// Started reports whether the container's own program was started. The OCI
// status of a container that is being stopped is "created" until then.
func (m *Machine) Started() bool { return m.started }

// Created reports whether there is or was an init.
func (m *Machine) Created() bool { return m.created }

// Exited reports whether init's end was seen.
func (m *Machine) Exited() bool { return m.phase == draining || m.phase == ended }

// Frozen reports whether the container was last seen frozen.
func (m *Machine) Frozen() bool { return m.frozen }

// Status returns how init ended; it is meaningful from state Draining on.
func (m *Machine) Status() Status { return m.exit.status }

// Deadline returns when the open grace period is over, Never if none is open.
func (m *Machine) Deadline() Instant {
	if m.State() != Stopping {
		return Never
	}
	return m.stop.end()
}

// StopSignal returns the signal of the stop in progress, 0 if there is none.
func (m *Machine) StopSignal() signals.Signal {
	if !m.stop.open {
		return 0
	}
	return m.stop.signal
}

// Armed returns when the one timer is due, Never if it is not armed.
func (m *Machine) Armed() Instant { return m.armed }

// Starting returns the request that was granted a start and has not reported its
// end, 0 if there is none.
func (m *Machine) Starting() RequestID { return m.starting }

// Callers returns the requests that wait for a reply.
func (m *Machine) Callers() []RequestID {
	var ids []RequestID
	for _, r := range m.requests {
		if r.id >= FirstRequest {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// Unanswered returns the effects that were asked for and not answered yet, each
// with what its answer must name. Who goes on after a supervisor's death has to
// answer them, or tells Recovered to have them begun again: nobody else will.
func (m *Machine) Unanswered() []Effect {
	var effects []Effect
	if m.stop.send.busy {
		effects = append(effects, Effect{Kind: Deliver, Request: ForStop, Signal: m.stop.signal, Target: m.stop.target})
	}
	if m.thaw.busy {
		effects = append(effects, Effect{Kind: Thaw})
	}
	for _, r := range m.requests {
		if r.sent {
			effects = append(effects, Effect{Kind: Deliver, Request: r.id, Signal: r.signal, Target: r.target})
		}
	}
	if m.exit.record.busy {
		effects = append(effects, Effect{Kind: RecordExit, Status: m.exit.status, Reason: m.Reason()})
	}
	return effects
}

// Reason says what ended the container; it is meaningful from state Draining on.
func (m *Machine) Reason() Reason {
	byKill := m.exit.status == Signaled(signals.KILL)
	switch {
	case byKill && m.killed:
		return m.cause
	case byKill && m.oom:
		return ByOOM
	case m.stop.open:
		return InGrace
	}
	return ByItself
}

// Config returns what the machine knows of its container.
func (m *Machine) Config() Config { return m.config }

// Clone returns a machine of its own in the same state.
func (m *Machine) Clone() *Machine {
	c := *m
	c.requests = append([]request(nil), m.requests...)
	c.effects = nil
	return &c
}

// AppendState appends to b an encoding of everything that decides what the
// machine will do, with instants relative to now: two machines of one Config
// that encode alike behave alike from now on.
func (m *Machine) AppendState(b []byte, now Instant) []byte {
	s, e := &m.stop, &m.exit
	b = append(b, byte(m.phase), byte(m.cause), byte(s.signal), byte(s.target),
		pack.Bits(m.created, m.started, m.frozen, m.oom, m.killing, m.killed),
		pack.Bits(s.open, s.delivered, s.heard, s.demand, e.drained, e.empty, e.swept),
		byte(e.status.Kind), e.status.Value)
	b = pack.Int(b, int64(m.starting))
	for _, a := range [...]*attempt{&m.thaw, &m.kill, &s.send, &e.record} {
		b = append(b, pack.Bits(a.busy, a.due != 0))
		b = pack.Until(b, a.due, now)
		b = pack.Int(b, int64(a.pause))
	}
	for _, at := range [...]Instant{s.deadline, s.window, e.giveUp, m.armed} {
		b = pack.Until(b, at, now)
	}
	b = pack.Int(b, int64(s.shortest))
	b = pack.Int(b, int64(s.grace))
	for _, r := range m.requests {
		b = pack.Int(b, int64(r.id))
		b = append(b, byte(r.want), byte(r.signal), byte(r.target), pack.Bits(r.sent, r.due))
	}
	if s.opener != nil {
		b = s.opener.Append(b)
	}
	return b
}
