package lifecycle

import "gracerun.io/signals"

// Config is what the machine must know of its container.
type Config struct {
	StopSignal signals.Signal // the container's own; opens a stop when a bare kill sends it
	Grace      Duration       // of a stop that does not bring its own
	Policy     Policy
	Drain      Duration // how long output is awaited after exit: a grandchild can hold it open
	RetryMin   Duration // first pause before a failed effect is tried again; it doubles
	RetryMax   Duration // the longest such pause
}

// DefaultConfig returns the settings of a container that asks for nothing.
func DefaultConfig() Config {
	return Config{
		StopSignal: signals.TERM,
		Grace:      30 * Second,
		Policy:     Delegate,
		Drain:      2 * Second,
		RetryMin:   100 * Millisecond,
		RetryMax:   5 * Second,
	}
}

// Machine is the life of one container. Make one with New. It keeps facts;
// State is derived from them.
type Machine struct {
	config Config
	phase  phase

	created  bool
	started  bool      // the container's own program runs
	starting RequestID // the start that was granted and has not ended
	frozen   bool
	thaw     attempt
	oom      bool

	stop    stop
	killing bool
	kill    attempt
	killed  bool // SIGKILL reached init
	cause   Reason

	exit     exit
	requests []request // every request that has no reply yet

	armed   Instant
	effects []Effect
}

// rules are those of the container's policy.
func (m *Machine) rules() *rules { return &rulesOf[m.config.Policy] }

type phase uint8

const (
	alive phase = iota // from the beginning of create to init's exit
	draining
	ended
	failed
)

// stop is a grace period: opened by the first to send the stop signal, joined
// by everyone who does so later.
type stop struct {
	open   bool
	opener *Caller // nil: the supervisor itself, or nobody that is known
	signal signals.Signal
	target Target

	send      attempt
	delivered bool // the signal reached init
	heard     bool // and init was not frozen: its time runs

	// demand: somebody wants the container to end, not just to have a
	// signal. Of those, the earliest deadline, and the shortest grace, which
	// counts anew from the instant at which the signal is heard.
	demand   bool
	deadline Instant
	shortest Duration
	// window is the end of the grace that the opener gave, which counts anew in
	// the same way. A stop that nobody demands lapses then.
	grace  Duration
	window Instant
}

// attempt is an effect that is tried until it works: under way, or due again
// at an instant, after a pause that doubles.
type attempt struct {
	busy  bool
	due   Instant
	pause Duration
}

// exit is what happens after init is gone.
type exit struct {
	status  Status
	giveUp  Instant // when the streams are no longer waited for
	drained bool    // the last byte of output is in the log
	empty   bool    // no process is left in the cgroup
	swept   bool    // what was left has been killed
	record  attempt
}

// request is a caller who waits for a reply.
type request struct {
	id     RequestID
	want   want
	signal signals.Signal
	target Target
	sent   bool // a delivery of its own is not answered yet
	due    bool // it is SIGKILL of the opener, at a deadline of its own
}

// want is what a caller waits for.
type want uint8

const (
	ownSignal  want = iota // the delivery of a signal of its own
	stopSignal             // the delivery of the stop's signal, which it brought
	joinedStop             // the delivery of the stop's signal, which another brought
	heldKill               // SIGKILL, when the grace period is over
	theEnd                 // the end of the container
)

// New returns the machine of a container whose create is under way.
func New(c Config) *Machine {
	m := &Machine{config: c, armed: Never}
	m.stop.grace = c.Grace
	m.exit.giveUp = Never
	return m
}

// Step tells the machine that ev happened and that it is now, and returns what
// to do about it. The returned slice is valid until the next Step.
func (m *Machine) Step(now Instant, ev Event) []Effect {
	m.effects = m.effects[:0]
	m.apply(now, ev)
	switch m.phase {
	case alive:
		m.pursueStop(now)
	case draining:
		m.pursueExit(now)
	}
	m.arm()
	return m.effects
}

// apply records what ev says. What has to be done about it follows from the
// facts, in pursueStop and pursueExit.
func (m *Machine) apply(now Instant, ev Event) {
	switch ev.Kind {
	case CreateDone:
		m.createDone(ev.Errno)
	case StartRequest:
		m.startRequest(ev.Request, ev.By)
	case StartDone:
		m.startDone(ev.Errno)
	case SignalRequest:
		m.signalRequest(now, ev)
	case StopRequest:
		m.stopRequest(now, ev)
	case MonitorSignal:
		m.monitorSignal(now, ev.Signal)
	case Abandoned:
		m.abandoned(ev.Request)
	case Deadline:
		m.deadline(now)
	case Delivered:
		m.deliveryDone(now, ev)
	case Freezer:
		m.frozen = ev.Frozen
	case ThawDone:
		m.frozen = m.frozen && ev.Errno != 0
		m.thaw.done(now, ev.Errno, &m.config)
	case OOM:
		m.oom = true
	case InitExited:
		m.initExited(now, ev.Status)
	case CgroupEmpty:
		m.exit.empty = true
	case StreamsDrained:
		m.exit.drained = true
	case ExitRecorded:
		m.exitRecorded(now, ev.Errno)
	case Recovered:
		m.recovered(now)
	}
}

// --- create and start

func (m *Machine) createDone(errno int32) {
	if m.phase != alive || m.created {
		return
	}
	if errno == 0 {
		m.created = true
		m.kill = attempt{} // what was to be aborted is there now, to be killed at once
		return
	}
	m.phase = failed
	for len(m.requests) > 0 {
		m.answer(0, Effect{Outcome: NotFound})
	}
}

// startRequest grants a start unless the container was told to stop before:
// no container is started after it was stopped (I8).
func (m *Machine) startRequest(id RequestID, by *Caller) {
	outcome := Granted
	switch {
	case m.phase == failed:
		outcome = NotFound
	case m.phase != alive:
		outcome = NotRunning
	case !m.created, m.started, m.starting != 0, m.killing, m.stop.demand:
		outcome = Refused
	case m.stop.open && m.rules().keeps:
		outcome = Refused
	case m.stop.open:
		m.breach(StartAfterStop, id, by)
	}
	if outcome == Granted {
		m.starting = id
	}
	m.reply(id, Effect{Outcome: outcome})
}

// startDone takes the end of a start. A stop signal that came before has reached
// the runtime's init alone, which may have dropped it, as crun's does. The container's
// program hears it now, if it is to stop; a bare signal that let the start pass is
// history.
func (m *Machine) startDone(errno int32) {
	m.starting = 0
	if errno != 0 || m.started {
		return
	}
	m.started = true
	s := &m.stop
	switch {
	case !s.open || !s.delivered || m.killing:
	case s.demand || m.rules().keeps:
		s.delivered, s.heard, s.send = false, false, attempt{}
	default:
		m.lapse(ETIMEDOUT)
	}
}

// --- what callers ask for

// signalRequest takes a bare `kill ID SIG`.
func (m *Machine) signalRequest(now Instant, ev Event) {
	if m.phase == failed {
		m.reply(ev.Request, Effect{Outcome: NotFound})
		return
	}
	if m.phase != alive {
		m.reply(ev.Request, Effect{Outcome: NotRunning})
		return
	}
	r := request{id: ev.Request, want: ownSignal, signal: ev.Signal}
	if ev.All {
		r.target = ToAll
	}
	inGrace := m.stop.open && !m.killing
	enforced := m.rules().keeps && !ev.Force
	isOpener := m.isOpener(ev.By)
	switch {
	case ev.Signal == signals.KILL:
		r.due = isOpener
		if inGrace && !ev.Force {
			switch {
			case m.rules().holds(isOpener):
				r.want, r.due = heldKill, false
			case !isOpener:
				m.breach(EarlyKill, ev.Request, ev.By)
			}
		}
	case m.stop.open && ev.Signal == m.stop.signal:
		switch {
		case !m.stop.delivered && inGrace: // the stop's own delivery will be this one's too
			r.want = joinedStop
			if !m.stop.send.busy {
				m.stop.target = max(m.stop.target, r.target)
			}
		case enforced && m.stop.delivered && ev.All:
			r.target = ToOthers
		case enforced && m.stop.delivered:
			m.reply(r.id, Effect{Outcome: Joined})
			return
		case inGrace && !ev.Force:
			m.breach(RepeatedStop, ev.Request, ev.By)
		}
	case ev.Signal == m.config.StopSignal && !m.stop.open && !m.killing:
		r.want = stopSignal
		m.openStop(now, ev.Signal, r.target, m.config.Grace, ev.By)
	}
	m.requests = append(m.requests, r)
}

// isOpener reports whether a caller has opened the grace period, or the last one,
// which has lapsed: its own deadline can be later than the container's grace.
func (m *Machine) isOpener(by *Caller) bool { return by.Is(m.stop.opener) }

func (m *Machine) breach(b Breach, id RequestID, by *Caller) {
	m.emit(Effect{Kind: RecordBreach, Breach: b, Request: id, By: by, At: m.stop.end()})
}

// stopRequest takes a stop with a grace of its own; signal 0 and a negative
// grace mean the container's.
func (m *Machine) stopRequest(now Instant, ev Event) {
	id, sig, grace := ev.Request, ev.Signal, ev.Grace
	switch m.phase {
	case failed:
		m.reply(id, Effect{Outcome: NotFound})
		return
	case ended:
		m.reply(id, Effect{Outcome: Ended, Status: m.exit.status})
		return
	}
	if id != FromMonitor {
		m.requests = append(m.requests, request{id: id, want: theEnd})
	}
	if m.phase == draining || m.killing {
		return
	}
	if sig == 0 {
		sig = m.config.StopSignal
	}
	if grace < 0 {
		grace = m.config.Grace
	}
	atOnce := grace == 0 || sig == signals.KILL
	s, deadline := &m.stop, now.After(grace)
	switch {
	case !s.open:
		m.openStop(now, sig, ToInit, grace, ev.By)
	case m.rules().mayShorten(m.isOpener(ev.By)):
		if m.isOpener(ev.By) {
			s.grace, s.window = min(s.grace, grace), min(s.window, deadline)
		}
	default:
		grace, deadline = max(grace, s.grace), max(deadline, s.window)
	}
	if !s.demand {
		s.demand, s.deadline, s.shortest = true, Never, grace
		// A bare signal may wait in a frozen init; its grace begins when it thaws.
		s.heard = s.heard && !m.frozen
	}
	s.shortest = min(s.shortest, grace)
	s.deadline = min(s.deadline, deadline)
	if atOnce {
		m.beginKill(now, ByRequest)
	}
}

// monitorSignal takes a signal that the supervisor process received. SIGTERM,
// with which systemd stops the supervisor's scope, means that the container
// is to stop. If somebody stops it already, that one knows until when: the SIGTERM
// changes nothing. Anything else is meant for init, as conmon has it.
func (m *Machine) monitorSignal(now Instant, sig signals.Signal) {
	if m.phase != alive {
		return
	}
	if sig == signals.TERM {
		if !m.stop.open {
			m.stopRequest(now, Event{Request: FromMonitor, Grace: -1})
		}
		return
	}
	m.requests = append(m.requests, request{id: FromMonitor, want: ownSignal, signal: sig})
}

// abandoned forgets a caller who is gone, not what it asked for.
func (m *Machine) abandoned(id RequestID) {
	if m.starting == id {
		m.starting = 0
	}
	for i := range m.requests {
		if m.requests[i].id == id {
			m.requests[i].id = FromMonitor
			return
		}
	}
}

// --- the stop

func (m *Machine) openStop(now Instant, sig signals.Signal, target Target, grace Duration, opener *Caller) {
	// A delivery that is still under way belongs to a stop that lapsed
	// without it; if it brings the same signal it will do for this one.
	busy := m.stop.send.busy && m.stop.signal == sig
	m.stop = stop{open: true, opener: opener, signal: sig, target: target, send: attempt{busy: busy}}
	m.stop.grace, m.stop.window = grace, now.After(grace)
}

// pursueStop does what the facts call for while init lives.
func (m *Machine) pursueStop(now Instant) {
	s := &m.stop
	if s.open && s.delivered && !m.frozen && !s.heard {
		s.heard = true
		s.window = now.After(s.grace)
		if s.demand {
			s.deadline = now.After(s.shortest)
		}
	}
	if m.killing && m.kill.ready(now) {
		m.sendKill(now)
	}
	if !m.created {
		return
	}
	if m.mustThaw() && m.thaw.ready(now) {
		m.thaw.busy = true
		m.emit(Effect{Kind: Thaw})
	}
	if m.maySend() && s.send.ready(now) {
		s.send.busy = true
		m.emit(Effect{Kind: Deliver, Request: ForStop, Signal: s.signal, Target: s.target})
	}
	for i := range m.requests {
		if r := &m.requests[i]; r.want == ownSignal && !r.sent {
			r.sent = true
			m.emit(Effect{Kind: Deliver, Request: r.id, Signal: r.signal, Target: r.target})
		}
	}
}

// mustThaw: a frozen container that is to stop is thawed, so that it can act on
// its stop signal, and die of SIGKILL on cgroup v1 (I11).
func (m *Machine) mustThaw() bool {
	return m.created && m.frozen && (m.killing || m.stop.open && m.stop.demand)
}

// maySend: the stop signal waits for a start under way, whose runtime would
// swallow it (I8), and for the thaw, so that it is heard when it is delivered.
func (m *Machine) maySend() bool {
	s := &m.stop
	return m.created && s.open && !s.delivered && !m.killing && m.starting == 0 && !m.mustThaw()
}

// deadline acts on what the timer was armed for, if its time has come: the
// timer may have fired early.
func (m *Machine) deadline(now Instant) {
	m.armed = Never
	s := &m.stop
	switch {
	case m.phase != alive || m.killing || !s.open:
	case s.demand && now >= s.deadline:
		m.beginKill(now, AtDeadline)
	case !s.demand && now >= s.window:
		m.lapse(ETIMEDOUT)
	}
}

// beginKill ends the grace period. Those who still wait for the stop signal
// will not see it delivered.
func (m *Machine) beginKill(now Instant, why Reason) {
	m.killing = true
	m.cause = why
	m.kill = attempt{due: now}
	if !m.stop.send.busy {
		m.answerAll(isStopSignal, Effect{Outcome: FailedOutcome, Errno: ETIMEDOUT})
	}
}

// sendKill sends SIGKILL and arranges for the next time: one is enough for the
// kernel, but a delivery can fail, and a process in D state dies late.
func (m *Machine) sendKill(now Instant) {
	m.kill.again(now, &m.config)
	m.thaw = attempt{} // nor is a thaw that hangs waited for any longer
	if !m.created {
		m.emit(Effect{Kind: AbortCreate})
		return
	}
	m.emit(Effect{Kind: Deliver, Request: ForKill, Signal: signals.KILL, Target: ToInit})
}

// lapse closes a stop that nobody demanded: its signal is history, or could
// not be sent (errno), and SIGKILL need no longer be held. The first who waits for
// it has it sent, for all: the others' would find that there is nobody any more.
func (m *Machine) lapse(errno int32) {
	m.stop.open = false
	m.answerAll(isStopSignal, failure(errno))
	var first *request
	for i := range m.requests {
		r := &m.requests[i]
		switch {
		case r.want != heldKill:
		case first == nil:
			first = r
			first.want = ownSignal
		default:
			first.target = max(first.target, r.target)
		}
	}
}

// deliveryDone takes the result of a Deliver effect.
func (m *Machine) deliveryDone(now Instant, ev Event) {
	switch ev.Request {
	case ForStop:
		m.stopDelivered(now, ev)
	case ForKill:
		if ev.Errno == 0 {
			m.killed = true
			m.answerAll(isHeldKill, Effect{Outcome: DeliveredOutcome})
		} else if ev.Errno != ESRCH { // the exit itself will answer those
			m.answerAll(isHeldKill, failure(ev.Errno))
		}
	default:
		if ev.Errno == 0 && ev.Signal == signals.KILL && m.phase == alive {
			m.killed = true
			if !m.killing {
				m.killing, m.cause = true, m.causeOf(ev.Request)
				m.kill.again(now, &m.config)
			}
		}
		m.answerOwn(ev)
		if ev.Signal == signals.KILL && ev.Errno != ESRCH && !m.stop.open {
			m.answerAll(isHeldKill, failure(ev.Errno)) // see lapse
		}
	}
}

// causeOf is why a caller's own SIGKILL ends the container.
func (m *Machine) causeOf(id RequestID) Reason {
	if i := m.sender(id, signals.KILL); i >= 0 && m.requests[i].due {
		return ByOpener
	}
	return ByRequest
}

func (m *Machine) stopDelivered(now Instant, ev Event) {
	s := &m.stop
	if !s.send.busy || ev.Signal != s.signal {
		return
	}
	s.send.done(now, ev.Errno, &m.config)
	if ev.Errno != 0 {
		if s.open && !s.demand && !m.killing {
			m.lapse(ev.Errno)
		} else {
			m.answerAll(isStopSignal, failure(ev.Errno))
		}
		return
	}
	s.delivered = true
	m.answerAll(func(w want) bool { return w == stopSignal }, Effect{Outcome: DeliveredOutcome})
	m.answerAll(func(w want) bool { return w == joinedStop }, Effect{Outcome: Joined})
}

// --- the exit

// initExited takes init's end. From here on nothing is killed but what is left
// in the cgroup (I7).
func (m *Machine) initExited(now Instant, status Status) {
	if m.phase != alive {
		return
	}
	m.phase = draining
	m.exit.status = status
	m.exit.giveUp = now.After(m.config.Drain)
	m.answerAll(isHeldKill, Effect{Outcome: Ended, Status: status})
	for i := 0; i < len(m.requests); {
		r := m.requests[i]
		if r.want == theEnd || r.sent || isStopSignal(r.want) && m.stop.send.busy {
			i++
			continue
		}
		m.answer(i, Effect{Outcome: NotRunning})
	}
	if !m.exit.drained {
		m.emit(Effect{Kind: DrainStreams, At: m.exit.giveUp})
	}
}

// pursueExit sees to it that the last output is in the log before the exit is
// recorded, and that the exit is recorded even if the output never ends (I6).
func (m *Machine) pursueExit(now Instant) {
	e := &m.exit
	timeUp := now >= e.giveUp
	if !e.drained && !timeUp {
		return
	}
	if !e.empty && !e.swept {
		e.swept = true
		m.emit(Effect{Kind: KillCgroup})
		if !e.drained { // whoever held the streams is dead now: one more chance
			e.giveUp = now.After(m.config.Drain)
			return
		}
	}
	e.giveUp = now // from here on only the record is waited for
	if e.record.ready(now) {
		e.record.busy = true
		m.emit(Effect{Kind: RecordExit, Status: e.status, Reason: m.Reason()})
	}
}

func (m *Machine) exitRecorded(now Instant, errno int32) {
	if m.phase != draining || !m.exit.record.busy {
		return
	}
	m.exit.record.done(now, errno, &m.config)
	if errno != 0 {
		return
	}
	m.phase = ended
	for len(m.requests) > 0 {
		outcome := NotRunning
		if m.requests[0].want == theEnd {
			outcome = Ended
		}
		m.answer(0, Effect{Outcome: outcome, Status: m.exit.status})
	}
	m.emit(Effect{Kind: RunExitCommand})
}

// --- a supervisor's death

// recovered begins again what was under way when the supervisor died: nobody
// will answer it. Deadlines stand as they were, they are instants. What must not
// be done twice (the exit command) the edge knows to be done.
//
// What the edge has notes of it tells before, and does nothing that is asked for
// then: it is asked for again here.
func (m *Machine) recovered(now Instant) {
	m.armed = Never // the timer died too
	m.thaw.abort()
	m.stop.send.abort()
	m.exit.record.abort()
	for i := range m.requests {
		m.requests[i].sent = false
	}
	switch m.phase {
	case alive:
		if m.killing { // nor will the stop signal be sent any more
			m.kill = attempt{due: now}
			m.answerAll(isStopSignal, Effect{Outcome: FailedOutcome, Errno: ETIMEDOUT})
		}
	case draining:
		if !m.exit.drained {
			m.emit(Effect{Kind: DrainStreams, At: m.exit.giveUp})
		}
		m.exit.swept = false
	case ended:
		m.emit(Effect{Kind: RunExitCommand})
	}
}

// --- replies

func (m *Machine) emit(e Effect) { m.effects = append(m.effects, e) }

func (m *Machine) reply(id RequestID, e Effect) {
	if id < FirstRequest {
		return // nobody waits
	}
	e.Kind, e.Request = Reply, id
	m.emit(e)
}

// answer replies to the i-th request and forgets it.
func (m *Machine) answer(i int, e Effect) {
	id := m.requests[i].id
	m.requests = append(m.requests[:i], m.requests[i+1:]...)
	m.reply(id, e)
}

func (m *Machine) answerAll(which func(want) bool, e Effect) {
	for i := 0; i < len(m.requests); {
		if which(m.requests[i].want) {
			m.answer(i, e)
		} else {
			i++
		}
	}
}

// answerOwn replies to the request whose own signal was sent.
func (m *Machine) answerOwn(ev Event) {
	if i := m.sender(ev.Request, ev.Signal); i >= 0 {
		m.answer(i, failure(ev.Errno))
	}
}

// sender is the place of the request whose own signal was sent, -1 if nobody waits for
// that.
func (m *Machine) sender(id RequestID, sig signals.Signal) int {
	for _, id := range [...]RequestID{id, FromMonitor} { // its caller may have gone since
		for i := range m.requests {
			if r := &m.requests[i]; r.id == id && r.sent && r.signal == sig {
				return i
			}
		}
	}
	return -1
}

// failure is the reply that fits errno; 0 is no failure.
func failure(errno int32) Effect {
	switch errno {
	case 0:
		return Effect{Outcome: DeliveredOutcome}
	case ESRCH:
		return Effect{Outcome: NotRunning}
	}
	return Effect{Outcome: FailedOutcome, Errno: errno}
}

func isStopSignal(w want) bool { return w == stopSignal || w == joinedStop }
func isHeldKill(w want) bool   { return w == heldKill }

// --- time

// arm keeps the one timer at the earliest instant at which something is due.
func (m *Machine) arm() {
	at := Never
	s := &m.stop
	switch m.phase {
	case alive:
		if m.killing {
			at = m.kill.due
		} else if s.open {
			at = s.end()
		}
		if m.maySend() {
			at = min(at, s.send.wakeup())
		}
		if m.mustThaw() {
			at = min(at, m.thaw.wakeup())
		}
	case draining:
		if m.exit.record.due != 0 {
			at = m.exit.record.wakeup()
		} else if !m.exit.record.busy {
			at = m.exit.giveUp
		}
	}
	if at != m.armed {
		m.armed = at
		m.emit(Effect{Kind: Arm, At: at})
	}
}

// end is when the grace period is over.
func (s *stop) end() Instant {
	if s.demand {
		return s.deadline
	}
	return s.window
}

func (a *attempt) ready(now Instant) bool { return !a.busy && now >= a.due }

// again sets the instant of the next try, after a pause twice as long as the last.
func (a *attempt) again(now Instant, c *Config) {
	a.pause = min(max(2*a.pause, c.RetryMin), c.RetryMax)
	a.due = now.After(a.pause)
}

// done ends a try; after a failure the next one waits.
func (a *attempt) done(now Instant, errno int32, c *Config) {
	a.busy = false
	if errno == 0 {
		a.pause, a.due = 0, 0
		return
	}
	a.again(now, c)
}

// abort ends a try that will never be answered; the next one is due at once.
func (a *attempt) abort() {
	if a.busy {
		*a = attempt{}
	}
}

// wakeup is when the next try is due, Never if none waits.
func (a *attempt) wakeup() Instant {
	if a.busy || a.due == 0 {
		return Never
	}
	return a.due
}
