package explore

import (
	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

// Setups returns the worlds that every machine must keep its promises in, from
// small to large. Together they hold every kind of request and every fault.
func Setups() []*Setup {
	var all []*Setup
	for _, policy := range lifecycle.Policies() {
		config := lifecycle.Config{
			StopSignal: signals.TERM, Grace: 3 * Tick, Policy: policy,
			Drain: 2 * Tick, RetryMin: Tick, RetryMax: 2 * Tick,
		}
		name := func(s string) string { return s + ", " + policy.String() }
		all = append(all,
			&Setup{Name: name("one stop"), Config: config, Running: true,
				Requests: []lifecycle.Event{stop(1, 2)},
				Faults:   2, OOM: true, Grandchild: true, Unknown: true, Late: 1, Slow: 1},
			&Setup{Name: name("a later stop with another grace"), Config: config, Running: true,
				Requests: []lifecycle.Event{stop(1, 2), stop(2, 1), stop(3, 3)},
				Faults:   1, Late: 1, Slow: 1},
			&Setup{Name: name("bare kills, as CRI-O and Podman stop"), Config: config, Running: true,
				Requests: []lifecycle.Event{kill(1, signals.TERM), kill(2, signals.KILL), kill(3, signals.TERM)},
				Faults:   1, Late: 1, Slow: 1},
			&Setup{Name: name("several early KILLs"), Config: config, Running: true,
				Requests: []lifecycle.Event{kill(1, signals.TERM), kill(2, signals.KILL), killAll(3, signals.KILL), kill(4, signals.TERM)},
				Faults:   1, Crashes: 1, Late: 1},
			&Setup{Name: name("a frozen container"), Config: config, Running: true,
				Requests: []lifecycle.Event{stop(1, 2), kill(2, signals.TERM), kill(3, signals.KILL)},
				Faults:   1, Freezes: 1, Late: 1, Slow: 1},
			&Setup{Name: name("a stop while it is created and started"), Config: config,
				Requests: []lifecycle.Event{stop(1, 2), start(2), kill(3, signals.TERM)},
				Faults:   1, Late: 1, Slow: 1},
			&Setup{Name: name("systemd, CRI-O and an operator at once"), Config: config, Running: true,
				Requests: []lifecycle.Event{systemd(), stop(1, 2), kill(2, signals.KILL), killAll(3, signals.TERM), force(4, signals.KILL)},
				Faults:   1, Late: 1, Slow: 1},
			&Setup{Name: name("a stop at once"), Config: config, Running: true,
				Requests: []lifecycle.Event{stop(1, 0), stop(2, 2), kill(3, signals.USR1)},
				Faults:   2, Freezes: 1, Grandchild: true, Late: 1, Slow: 1},
			&Setup{Name: name("everything"), Config: config,
				Requests: []lifecycle.Event{stop(1, 2), start(2), kill(3, signals.TERM), kill(4, signals.KILL), systemd(), kill(5, signals.USR1)},
				Faults:   2, Freezes: 1, OOM: true, Grandchild: true, Unknown: true, Late: 1, Slow: 2},
			&Setup{Name: name("the supervisor dies in a stop"), Config: config, Running: true,
				Requests: []lifecycle.Event{stop(1, 2), kill(2, signals.USR1)},
				Crashes:  2, Faults: 1, Grandchild: true, Unknown: true, Late: 1, Slow: 1},
			&Setup{Name: name("the supervisor dies while bare kills come"), Config: config, Running: true,
				Requests: []lifecycle.Event{kill(1, signals.TERM), kill(2, signals.KILL), kill(3, signals.TERM)},
				Crashes:  1, Freezes: 1, Late: 1, Slow: 1},
			&Setup{Name: name("the supervisor dies while it is created and started"), Config: config,
				Requests: []lifecycle.Event{stop(1, 2), start(2), kill(3, signals.TERM)},
				Crashes:  1, Late: 1, Slow: 1},
			&Setup{Name: name("the supervisor dies, and everything else"), Config: config,
				Requests: []lifecycle.Event{stop(1, 2), start(2), kill(3, signals.TERM), kill(4, signals.KILL), systemd(), kill(5, signals.USR1)},
				Crashes:  2, Faults: 1, Freezes: 1, OOM: true, Grandchild: true, Unknown: true, Late: 1, Slow: 2},
			&Setup{Name: name("a manager that is restarted, and somebody else"), Config: config, Running: true,
				Requests: []lifecycle.Event{
					by(crio, kill(1, signals.TERM)), by(crioAgain, kill(2, signals.TERM)), by(crioAgain, kill(3, signals.KILL)),
					by(operator, kill(4, signals.KILL)), systemd()},
				Crashes: 1, Late: 1},
			&Setup{Name: name("stops of a manager and of others"), Config: config, Running: true,
				Requests: []lifecycle.Event{
					by(crio, kill(1, signals.TERM)), by(crio, stop(2, 1)), by(operator, stop(3, 1)), by(stranger, kill(4, signals.KILL)),
					by(operator, stop(5, 4)), systemd()},
				Freezes: 1, Late: 1},
		)
	}
	return all
}

// The callers of the worlds: a manager before and after its restart, somebody else,
// and one who has got the number of the manager's process.
var (
	crio      = &lifecycle.Caller{Program: "/usr/bin/crio", Pid: 1, Start: 1, Unit: "crio.service"}
	crioAgain = &lifecycle.Caller{Program: "/usr/bin/crio", Pid: 2, Start: 5, Unit: "crio.service"}
	operator  = &lifecycle.Caller{Program: "/bin/bash", Pid: 3, Start: 2, Unit: "session-1.scope"}
	stranger  = &lifecycle.Caller{Program: "/bin/bash", Pid: 1, Start: 9, Unit: "session-2.scope"}
)

func by(who *lifecycle.Caller, ev lifecycle.Event) lifecycle.Event {
	ev.By = who
	return ev
}

func request(n int) lifecycle.RequestID {
	return lifecycle.FirstRequest + lifecycle.RequestID(n) - 1
}

func stop(n int, grace lifecycle.Duration) lifecycle.Event {
	return lifecycle.Event{Kind: lifecycle.StopRequest, Request: request(n), Grace: grace * Tick, By: callerOf(n)}
}

// callerOf makes of every other request one of somebody else.
func callerOf(n int) *lifecycle.Caller {
	if n%2 == 0 {
		return operator
	}
	return crio
}

func start(n int) lifecycle.Event {
	return lifecycle.Event{Kind: lifecycle.StartRequest, Request: request(n)}
}

func kill(n int, sig signals.Signal) lifecycle.Event {
	return lifecycle.Event{Kind: lifecycle.SignalRequest, Request: request(n), Signal: sig, By: callerOf(n)}
}

func killAll(n int, sig signals.Signal) lifecycle.Event {
	ev := kill(n, sig)
	ev.All = true
	return ev
}

func force(n int, sig signals.Signal) lifecycle.Event {
	ev := kill(n, sig)
	ev.Force = true
	return ev
}

func systemd() lifecycle.Event {
	return lifecycle.Event{Kind: lifecycle.MonitorSignal, Signal: signals.TERM}
}
