package explore

import (
	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/lifecycle/internal/pack"
)

// Mutant is a machine that is broken on purpose, as something that exists is
// or was. That the explorer finds each of them is what its silence about the
// sound machine is worth.
type Mutant struct {
	Name   string
	Model  string // what exists, or existed, that behaves so
	Breaks string // an invariant that it must be caught breaking
	Twist  func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect
	// AnyOrder: its loop takes what is ready in any order.
	AnyOrder bool
	// Careless: its edge keeps no note of what must not be done twice.
	Careless bool
}

// Subject returns the mutant of the machine made with config c.
func (mu *Mutant) Subject(c lifecycle.Config) func() Subject {
	return func() Subject {
		t := &twisted{sound: lifecycle.New(c), config: c, mutant: mu, own: lifecycle.Never, inner: lifecycle.Never, armed: lifecycle.Never}
		if mu.AnyOrder {
			return anyOrder{t}
		}
		if mu.Careless {
			return heedless{t}
		}
		return t
	}
}

// twisted is the sound machine with something between it and the world.
type twisted struct {
	sound  *lifecycle.Machine
	config lifecycle.Config
	mutant *Mutant

	// What a twist may remember.
	own  lifecycle.Instant // a timer of its own
	by   *lifecycle.Caller // who has opened the grace period
	flag bool
	id   lifecycle.RequestID

	inner, armed lifecycle.Instant // the timer as the sound machine wants it, and as it is
}

// heedless is a mutant whose edge keeps no note of what it has begun.
type heedless struct{ *twisted }

func (heedless) careless()        {}
func (h heedless) Clone() Subject { return heedless{h.clone()} }

type anyOrder struct{ *twisted }

func (anyOrder) unordered()       {}
func (a anyOrder) Clone() Subject { return anyOrder{a.clone()} }

// Step implements Subject: the twist, and one timer for two masters.
func (m *twisted) Step(now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
	if ev.Kind == lifecycle.Deadline || ev.Kind == lifecycle.Recovered {
		m.armed, m.inner = lifecycle.Never, lifecycle.Never
	}
	var out []lifecycle.Effect
	for _, e := range m.mutant.Twist(m, now, ev) {
		if e.Kind == lifecycle.Arm {
			m.inner = e.At
		} else {
			out = append(out, e)
		}
	}
	if at := min(m.inner, m.own); at != m.armed {
		m.armed = at
		out = append(out, lifecycle.Effect{Kind: lifecycle.Arm, At: at})
	}
	return out
}

// AppendState implements Subject.
func (m *twisted) AppendState(b []byte, now lifecycle.Instant) []byte {
	b = m.sound.AppendState(b, now)
	b = pack.Until(b, m.own, now)
	b = pack.Until(b, m.inner, now)
	b = pack.Until(b, m.armed, now)
	return append(b, pack.Bits(m.flag), byte(m.id))
}

// Clone implements Subject.
func (m *twisted) Clone() Subject { return m.clone() }

func (m *twisted) clone() *twisted {
	c := *m
	c.sound = m.sound.Clone()
	return &c
}

// stopping reports whether a grace period is open.
func (m *twisted) stopping() bool { return m.sound.State() == lifecycle.Stopping }

// stepNotingOpener steps the sound machine, and remembers who has opened its grace
// period.
func (m *twisted) stepNotingOpener(now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
	open := m.stopping()
	effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
	if !open && m.stopping() {
		m.by = ev.By
	}
	return effects
}

// asks reports whether ev wants the container to end.
func asks(ev lifecycle.Event) bool {
	return ev.Kind == lifecycle.StopRequest || ev.Kind == lifecycle.MonitorSignal && ev.Signal == signals.TERM
}

// without returns the effects but those that drop says.
func without(effects []lifecycle.Effect, drop func(lifecycle.Effect) bool) []lifecycle.Effect {
	var kept []lifecycle.Effect
	for _, e := range effects {
		if !drop(e) {
			kept = append(kept, e)
		}
	}
	return kept
}

func isKind(k lifecycle.EffectKind) func(lifecycle.Effect) bool {
	return func(e lifecycle.Effect) bool { return e.Kind == k }
}

func deliverKill() lifecycle.Effect {
	return lifecycle.Effect{Kind: lifecycle.Deliver, Request: lifecycle.ForKill, Signal: signals.KILL}
}

// Mutants returns all of them.
func Mutants() []*Mutant {
	return []*Mutant{
		{
			Name:   "two independent timers",
			Model:  "kubelet's and CRI-O's timers beside systemd's TimeoutStopUSec: each counts from when it was set, none knows of the other",
			Breaks: "I1",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if asks(ev) && m.own == lifecycle.Never {
					m.own = now.After(2 * Tick)
				}
				fired := ev.Kind == lifecycle.Deadline && now >= m.own
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if fired {
					m.own = lifecycle.Never
					if m.sound.State() < lifecycle.Draining {
						effects = append(effects, deliverKill())
					}
				}
				return effects
			},
		},
		{
			Name:     "exit and deadline chosen at random",
			Model:    "CRI-O's stop loop: a Go select takes either case when both are ready",
			Breaks:   "I7",
			AnyOrder: true,
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "error of TERM swallowed",
			Model:  "CRI-O's stop loop: the first `runtime kill` fails, the grace is waited without any signal sent",
			Breaks: "I5",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.Delivered && ev.Request == lifecycle.ForStop {
					ev.Errno = 0
				}
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "timer started when the kill call returns",
			Model:  "CRI-O's stop loop: `runtime kill` runs before the timer is looked at, and can hang",
			Breaks: "I9",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.Delivered && ev.Request == lifecycle.ForStop {
					m.flag = true
				}
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if m.stopping() && !m.flag {
					effects = append(effects, lifecycle.Effect{Kind: lifecycle.Arm, At: lifecycle.Never})
				} else if m.stopping() {
					effects = append(effects, lifecycle.Effect{Kind: lifecycle.Arm, At: m.sound.Deadline()})
				}
				return effects
			},
		},
		{
			Name:   "late request lengthens the deadline",
			Model:  "a naive re-arm: every stop sets the timer to now plus its own grace",
			Breaks: "I2",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if asks(ev) && m.stopping() {
					m.flag = true // from here on the deadline is this one's
					m.own = now.After(max(ev.Grace, 0))
				}
				if ev.Kind == lifecycle.Deadline && m.flag {
					if now < m.own {
						return nil
					}
					m.flag, m.own = false, lifecycle.Never
				}
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if m.flag && m.stopping() {
					effects = append(effects, lifecycle.Effect{Kind: lifecycle.Arm, At: lifecycle.Never})
				}
				return effects
			},
		},
		{
			Name:   "late shorter request ignored",
			Model:  "a stop in progress answers a second one with \"already stopping\": kubelet's force delete waits for the first",
			Breaks: "I2",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.StopRequest && m.stopping() {
					ev.Grace = max(ev.Grace, lifecycle.Duration(m.sound.Deadline()-now))
				}
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "bare pid killed after reap",
			Model:  "crun before bca0b3b5, conmon's signal forwarding: kill(2) on a remembered number",
			Breaks: "I4",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if ev.Kind == lifecycle.SignalRequest && m.sound.State() == lifecycle.Draining {
					effects = append(effects, lifecycle.Effect{Kind: lifecycle.Deliver, Request: ev.Request, Signal: ev.Signal})
				}
				return effects
			},
		},
		{
			Name:   "reply before delivery",
			Model:  "a daemon that answers when it has queued the request",
			Breaks: "I5",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if ev.Kind == lifecycle.SignalRequest && m.sound.State() < lifecycle.Draining {
					effects = append(effects, lifecycle.Effect{Kind: lifecycle.Reply, Request: ev.Request, Outcome: lifecycle.DeliveredOutcome})
				}
				return effects
			},
		},
		{
			Name:   "second TERM forwarded",
			Model:  "conmon forwards the SIGTERM that systemd sends to its scope, CRI-O sends one of its own",
			Breaks: "I3",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				second := ev.Kind == lifecycle.MonitorSignal && m.stopping()
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if second {
					effects = append(effects, lifecycle.Effect{Kind: lifecycle.Deliver, Request: lifecycle.ForStop, Signal: signals.TERM})
				}
				return effects
			},
		},
		{
			Name:   "grace counted from acceptance",
			Model:  "timeouts that run while the request waits for a lock: CRI-O's opLock, kubelet's own timer",
			Breaks: "I1",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.StopRequest && m.own == lifecycle.Never {
					m.own = now.After(ev.Grace)
				}
				fired := ev.Kind == lifecycle.Deadline && now >= m.own
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if fired {
					m.own = lifecycle.Never
				}
				if fired && m.stopping() {
					effects = append(effects, deliverKill())
				}
				return effects
			},
		},
		{
			Name:   "timer trusted",
			Model:  "a handler that kills because the timer fired, without asking what time it is",
			Breaks: "I1",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.Deadline && m.stopping() && now < m.sound.Deadline() {
					return append(append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...), deliverKill())
				}
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "exit recorded before the log",
			Model:  "a monitor that writes the exit file as soon as init is reaped",
			Breaks: "I6",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.InitExited {
					m.sound.Step(now, lifecycle.Event{Kind: lifecycle.StreamsDrained})
				}
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "end of output awaited for ever",
			Model:  "a monitor that waits for EOF on a pipe that a grandchild holds: the pod stays Terminating",
			Breaks: "I6",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.Deadline && m.sound.State() == lifecycle.Draining {
					return nil
				}
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "status invented",
			Model:  "conmon with an init that is not its child: ECHILD and ESRCH are recorded as exit code 0",
			Breaks: "I6",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.InitExited && ev.Status.Kind == lifecycle.StatusUnknown {
					ev.Status = lifecycle.Exited(0)
				}
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "exit command before the exit file",
			Model:  "a cleanup that is started when init exits: podman container cleanup finds no exit code",
			Breaks: "I6",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				effects := without(m.sound.Step(now, ev), isKind(lifecycle.RunExitCommand))
				if ev.Kind == lifecycle.InitExited {
					effects = append(effects, lifecycle.Effect{Kind: lifecycle.RunExitCommand})
				}
				return effects
			},
		},
		{
			Name:   "started after stopped",
			Model:  "a start that was queued behind a stop is carried out all the same",
			Breaks: "I8",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				for i := range effects {
					if effects[i].Outcome == lifecycle.Refused && m.stopping() {
						effects[i].Outcome = lifecycle.Granted
					}
				}
				return effects
			},
		},
		{
			Name:   "stop while created lost",
			Model:  "conmon's first SIGTERM handler is _exit(1): a stop during create is nobody's",
			Breaks: "I9",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if asks(ev) && m.sound.State() == lifecycle.Creating {
					return nil
				}
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "stop sent to a frozen container",
			Model:  "CRI-O resumes first and ignores that it failed: the grace passes frozen",
			Breaks: "I11",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.ThawDone {
					ev.Errno = 0
				}
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "SIGKILL sent once",
			Model:  "a stop that takes the first kill for granted: it failed, or the cgroup was frozen",
			Breaks: "I9",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if m.sound.State() == lifecycle.Killing {
					effects = append(without(effects, isKind(lifecycle.Arm)), lifecycle.Effect{Kind: lifecycle.Arm, At: lifecycle.Never})
				}
				return effects
			},
		},
		{
			Name:   "early SIGKILL let through under enforce",
			Model:  "crictl rm -f, a liveness failure or an operator inside another's grace period, as every runtime has it",
			Breaks: "I1",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				early := ev.Kind == lifecycle.SignalRequest && ev.Signal == signals.KILL && m.stopping()
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if early && m.config.Policy == lifecycle.Enforce && !ev.Force {
					effects = append(effects, lifecycle.Effect{Kind: lifecycle.Deliver, Request: ev.Request, Signal: signals.KILL})
				}
				return effects
			},
		},
		{
			Name:   "systemd's SIGTERM shortens the manager's stop",
			Model:  "gracemon before it knew who asks: SIGTERM to the monitor in a stop of 60 s set the container's own 30 s as the deadline",
			Breaks: "I1",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.MonitorSignal && ev.Signal == signals.TERM {
					ev = lifecycle.Event{Kind: lifecycle.StopRequest, Request: lifecycle.FromMonitor, Grace: -1}
				}
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "SIGKILL held against the manager itself",
			Model:  "one deadline for all: `crictl stop -t 3` takes the container's own 30 s",
			Breaks: "I2",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Signal == signals.KILL && m.config.Policy == lifecycle.Delegate {
					ev.By = nil
				}
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "manager known by the number of its process",
			Model:  "a lock file with a pid in it: another process gets the number",
			Breaks: "I1",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if m.config.Policy == lifecycle.Delegate && ev.By != nil && m.by != nil && ev.By.Pid == m.by.Pid {
					ev.By = m.by
				}
				return m.stepNotingOpener(now, ev)
			},
		},
		{
			Name:   "anybody shortens the manager's deadline",
			Model:  "the earliest of all timeouts, whoever asks: an operator's stop of 1 s ends a pod's 30 s",
			Breaks: "I1",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.StopRequest && m.stopping() && m.by != nil {
					ev.By = m.by
				}
				return m.stepNotingOpener(now, ev)
			},
		},
		{
			Name:   "the manager's own deadline taken for a breach",
			Model:  "observe before it knew who asks: CRI-O's SIGKILL at the end of its own timeout was reported as an early kill",
			Breaks: "I5",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				ev.By = nil
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "timed out, said of an exit in time",
			Model:  "a monitor that takes any exit after it sent SIGKILL for a kill at the deadline",
			Breaks: "I7",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				m.flag = m.flag || m.sound.State() == lifecycle.Killing
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				for i := range effects {
					if effects[i].Kind == lifecycle.RecordExit && m.flag {
						effects[i].Reason = lifecycle.AtDeadline
					}
				}
				return effects
			},
		},
		{
			Name:   "caller forgotten",
			Model:  "a reply that is sent only to whoever asked last",
			Breaks: "I5",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.StopRequest {
					m.id = ev.Request
				}
				return without(m.sound.Step(now, ev), func(e lifecycle.Effect) bool {
					return e.Kind == lifecycle.Reply && e.Outcome == lifecycle.Ended && e.Request != m.id
				})
			},
		},
		{
			Name:   "deadline restarts at recovery",
			Model:  "CRI-O restarted in mid stop: the grace starts anew",
			Breaks: "I2",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				if ev.Kind == lifecycle.Recovered && m.stopping() {
					m.flag, m.own = true, now.After(m.config.Grace)
				}
				if ev.Kind == lifecycle.Deadline && m.flag && now >= m.own {
					m.flag, m.own = false, lifecycle.Never
				}
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if m.flag && m.stopping() {
					effects = append(without(effects, isKind(lifecycle.Arm)), lifecycle.Effect{Kind: lifecycle.Arm, At: lifecycle.Never})
				}
				return effects
			},
		},
		{
			Name:     "exit command run twice",
			Model:    "a restart policy of the service manager around a monitor that keeps no note of what it has done",
			Breaks:   "I12",
			Careless: true,
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				return m.sound.Step(now, ev)
			},
		},
		{
			Name:   "status invented after recovery",
			Model:  "a new monitor that finds no process: what cleans up after a dead shim of containerd reports 137, SIGKILL",
			Breaks: "I6",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				m.flag = m.flag || ev.Kind == lifecycle.Recovered
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				for i := range effects {
					if effects[i].Kind == lifecycle.RecordExit && m.flag && effects[i].Status.Kind == lifecycle.StatusUnknown {
						effects[i].Status = lifecycle.Signaled(signals.KILL)
					}
				}
				return effects
			},
		},
		{
			Name:   "stop signal sent anew at recovery",
			Model:  "CRI-O restarted in mid stop sends its TERM once more: many programs take the second as \"quit now\"",
			Breaks: "I3",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				stopping := m.stopping() && ev.Kind == lifecycle.Recovered
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if stopping {
					effects = append(effects, lifecycle.Effect{Kind: lifecycle.Deliver, Request: lifecycle.ForStop, Signal: signals.TERM})
				}
				return effects
			},
		},
		{
			Name:   "stop forgotten at recovery",
			Model:  "CRI-O interrupted in mid stop: TERM is sent, nobody is left to KILL",
			Breaks: "I9",
			Twist: func(m *twisted, now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
				effects := append([]lifecycle.Effect(nil), m.sound.Step(now, ev)...)
				if ev.Kind == lifecycle.Recovered {
					effects = without(effects, isKind(lifecycle.Arm))
				}
				return effects
			},
		},
	}
}
