// Package loop waits for readiness of descriptors and for points in time, on one
// thread, and calls one handler after another. All work of a supervisor is done in
// these handlers, so that nothing needs a lock.
//
// It calls epoll(7) itself: the poller of package os would bring goroutines, buffers
// and their memory to a program that runs once per container.
package loop

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
)

// What Add and Modify wait for, and what Ready is told (epoll_ctl(2)). Hup and
// Error are always told.
const (
	Readable uint32 = unix.EPOLLIN
	Writable uint32 = unix.EPOLLOUT
	Hup      uint32 = unix.EPOLLHUP
	Error    uint32 = unix.EPOLLERR
)

// Handler hears that its descriptor is ready.
type Handler interface {
	Ready(events uint32)
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(events uint32)

// Ready calls f.
func (f HandlerFunc) Ready(events uint32) { f(events) }

// Loop is one epoll set with its handlers and timers. It must stay on one
// goroutine, but for Stop from inside a handler.
type Loop struct {
	epoll    int
	handlers map[int32]handler
	added    int32    // counts Add
	timers   []*Timer // armed; few, so that a list will do
	deferred []func()
	turn     lifecycle.Instant // when the present one began
	before   lifecycle.Instant // when the one before it did
	stopped  bool
}

// handler is one with the number of its Add: of a descriptor that was closed and
// whose number is another's, the batch may still hold what was reported.
type handler struct {
	Handler
	nth int32
}

// batch is how many ready descriptors are taken from the kernel at once.
const batch = 32

// New makes a loop without anything to wait for.
func New() (*Loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, &OpError{"epoll_create1", err}
	}
	return &Loop{epoll: fd, handlers: map[int32]handler{}}, nil
}

// OpError says which call failed. Err is a unix.Errno.
type OpError struct {
	Op  string
	Err error
}

func (e *OpError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap gives Err.
func (e *OpError) Unwrap() error { return e.Err }

// Add waits for events of the descriptor, level-triggered. Regular files cannot
// be waited for: unix.EPERM.
func (l *Loop) Add(fd int, events uint32, h Handler) error {
	l.added++
	if err := l.control(unix.EPOLL_CTL_ADD, fd, events, l.added); err != nil {
		return err
	}
	l.handlers[int32(fd)] = handler{h, l.added}
	return nil
}

// Modify changes which events of the descriptor are waited for. With 0 it hears
// of Hup and Error only.
func (l *Loop) Modify(fd int, events uint32) error {
	return l.control(unix.EPOLL_CTL_MOD, fd, events, l.handlers[int32(fd)].nth)
}

// Remove stops waiting for the descriptor; its handler is not called again. It
// must come before the descriptor is closed, and is harmless when repeated.
func (l *Loop) Remove(fd int) {
	if _, ok := l.handlers[int32(fd)]; !ok {
		return
	}
	delete(l.handlers, int32(fd))
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, fd, nil) // fails only if it is gone already
}

func (l *Loop) control(op, fd int, events uint32, nth int32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: nth}
	if err := unix.EpollCtl(l.epoll, op, fd, &ev); err != nil {
		return &OpError{"epoll_ctl", err}
	}
	return nil
}

// Defer has f called once everything that became ready together has been told:
// what has to see one such batch as a whole acts then.
func (l *Loop) Defer(f func()) { l.deferred = append(l.deferred, f) }

// FD is the descriptor of the epoll set, which is readable when anything in it
// has something to tell.
func (l *Loop) FD() int { return l.epoll }

// Turns gives when the present turn of the loop began, and when the one before it
// did: something happens in each, descriptors are ready or timers due.
func (l *Loop) Turns() (now, before lifecycle.Instant) { return l.turn, l.before }

// OnlyWaitsFor reports whether nothing but these descriptors can make anything
// happen: no other is waited for, no timer is armed, nothing is deferred.
func (l *Loop) OnlyWaitsFor(fds []int) bool {
	known := 0
	for _, fd := range fds {
		if _, ok := l.handlers[int32(fd)]; ok {
			known++
		}
	}
	return known == len(l.handlers) && len(l.timers) == 0 && len(l.deferred) == 0
}

// Timer is a point in time to act at. The zero value with Fire set is ready for Arm.
type Timer struct {
	Fire func() // called once for each Arm, never early

	at    lifecycle.Instant
	armed bool
}

// Arm has the timer fire at the instant, lifecycle.Never for not at all. It
// replaces what the timer was armed for before.
func (l *Loop) Arm(t *Timer, at lifecycle.Instant) {
	t.at = at
	if want := at != lifecycle.Never; want != t.armed {
		t.armed = want
		if want {
			l.timers = append(l.timers, t)
		} else {
			l.drop(t)
		}
	}
}

func (l *Loop) drop(t *Timer) {
	for i := range l.timers {
		if l.timers[i] == t {
			last := len(l.timers) - 1
			l.timers[i], l.timers[last] = l.timers[last], nil
			l.timers = l.timers[:last]
			return
		}
	}
}

// Stop has Run return once the handlers of the present batch have run.
func (l *Loop) Stop() { l.stopped = true }

// Run tells handlers and timers what happens until Stop is called.
//
// Of what is ready at once descriptors are told before timers: an exit that came
// in time is seen before the deadline (invariant I7).
func (l *Loop) Run() error {
	l.stopped = false
	var ready [batch]unix.EpollEvent
	for !l.stopped {
		if err := l.once(ready[:]); err != nil {
			return err
		}
	}
	return nil
}

func (l *Loop) once(ready []unix.EpollEvent) error {
	n, err := l.wait(ready)
	if err != nil && err != unix.EINTR {
		return &OpError{"epoll_pwait2", err}
	}
	l.before, l.turn = l.turn, Now()
	for _, ev := range ready[:max(n, 0)] {
		// A handler that ran before may have removed this one.
		if h, ok := l.handlers[ev.Fd]; ok && h.nth == ev.Pad {
			h.Ready(ev.Events)
		}
	}
	l.fire()
	for i := 0; i < len(l.deferred); i++ { // they may defer others
		f := l.deferred[i]
		l.deferred[i] = nil
		f()
	}
	l.deferred = l.deferred[:0]
	return nil
}

// fire calls the timers whose time has come, the earliest first.
func (l *Loop) fire() {
	if len(l.timers) == 0 {
		return
	}
	now := Now()
	for {
		t := l.next()
		if t == nil || t.at > now {
			return
		}
		l.Arm(t, lifecycle.Never)
		t.Fire()
	}
}

func (l *Loop) next() *Timer {
	var first *Timer
	for _, t := range l.timers {
		if first == nil || t.at < first.at {
			first = t
		}
	}
	return first
}
