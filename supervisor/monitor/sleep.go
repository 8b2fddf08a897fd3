package monitor

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/ownsignal"
	"gracerun.io/supervisor/recovery"
	"gracerun.io/supervisor/slumber"
)

// An idle supervisor can sleep: its process executes a program of 12 KiB that
// does nothing but wait for the same descriptors and signals, and that executes
// gracemon again when one of them has something to tell. To wake up is what it is
// to go on after an upgrade. Nothing outside can tell one from the other, but by
// /proc/PID/exe: number, parent, children, cgroup and sockets stay.

// sleepVariable of the environment says how long a supervisor must have been idle
// before it sleeps, as "10s". Unset: it never does.
const sleepVariable = "GRACEMON_SLEEP"

// Names of descriptors that one who sleeps has.
const (
	selfName    = "self"    // the program to be executed again
	signalsName = "signals" // a signalfd of ownSignals
	epollName   = "epoll"
)

// rest looks from time to time whether anything has happened.
type rest struct {
	timer loop.Timer
	every lifecycle.Duration
	turns uint64
}

// restWhenIdle begins to look.
func (c *Container) restWhenIdle() {
	text, _ := unix.Getenv(sleepVariable)
	if text == "" || c.memo == nil {
		return
	}
	r := &c.s.rest
	every, err := time.ParseDuration(text)
	if err != nil || every <= 0 {
		c.notes.warn("container " + c.o.ID + ": " + sleepVariable + "=" + text + " is not a time such as 10s: its supervisor does not sleep")
		return
	}
	r.every = lifecycle.Duration(every)
	r.timer.Fire = c.sleepIfIdle
	c.lookAgain()
}

func (c *Container) lookAgain() {
	r := &c.s.rest
	r.turns = c.s.loop.Turns()
	c.s.loop.Arm(&r.timer, loop.Now().After(r.every))
}

// sleepIfIdle is a turn of the loop itself, and must have been the only one.
func (c *Container) sleepIfIdle() {
	r := &c.s.rest
	if len(c.s.containers) == 0 {
		return
	}
	if c.s.loop.Turns() == r.turns+1 && c.canSleep() {
		if err := c.sleep(); err != nil {
			c.notes.warn("container " + c.o.ID + ": its supervisor cannot sleep: " + err.Error())
			return
		}
	}
	c.lookAgain()
}

// canSleep reports whether everything that this process knows is written down,
// and everything that it waits for can be waited for by another program.
func (c *Container) canSleep() bool {
	switch {
	case c.init.pid == 0 || c.faults != nil || len(c.events) > 0:
		return false
	case c.machine.State() != lifecycle.Created && c.machine.State() != lifecycle.Running:
		return false
	case len(c.machine.Callers()) > 0 || c.machine.Starting() != 0:
		return false
	case c.streams.logs == nil || !c.streams.logs.Kept() || c.clients.held || !c.clients.idle():
		return false
	}
	_, passed := c.passOn(nil)
	return c.s.loop.OnlyWaitsFor(passed)
}

// sleep does not return if it works.
func (c *Container) sleep() error {
	origin, err := recovery.ReadOrigin(c.dir)
	if err != nil {
		return err
	}
	self, err := open(selfPath, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(self)
	mask := ownSignals()
	signals, err := unix.Signalfd(-1, &mask, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(signals)
	// The loop's own set: what is not to be waited for at present is not in it.
	epoll := c.s.loop.FD()
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(signals)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, signals, &event); err != nil {
		return err
	}
	env, passed := c.passOn(nil, held{selfName, self}, held{signalsName, signals}, held{epollName, epoll})
	env = append(successorEnvironment(origin, c.dir.Path()), env...)
	bed := slumber.Bed{Epoll: epoll, Self: self, Signals: signals, Caught: c.s.signals.FD(), Name: ownName()}
	for _, sig := range caughtSignals {
		bed.Units[sig] = ownsignal.Unit(sig)
	}
	return handOn(passed, func() error { return bed.Sleep(origin.Args, env) })
}

// ownName is what this process is called (PR_GET_NAME(2const)).
func ownName() string {
	var name [16]byte
	_ = unix.Prctl(unix.PR_GET_NAME, uintptr(unsafe.Pointer(&name)), 0, 0, 0)
	return unix.ByteSliceToString(name[:])
}

// wake closes what was there for the sleep only.
func (h *heritage) wake() {
	for _, name := range [...]string{selfName, signalsName, epollName} {
		if fd := h.take(name); fd >= 0 {
			unix.Close(fd)
		}
	}
}
