// Package aside makes system calls that may not return for a long time, such as a
// write to a frozen file system or to one whose server does not answer, without
// blocking the loop of a supervisor.
//
// A Line runs one function at a time that makes such calls:
//
//	done := line.Do(func() {
//		...
//		line.Call(func() { n, err = unix.Write(fd, b) })
//		...
//	})
//
// The loop runs on only during a Call that has lasted a while. Otherwise either the
// function or the loop runs, never both, so that the data of both needs no lock. After
// a Call that the loop did not wait for, the function continues in a later turn of
// the loop.
//
// Without a hang this costs a switch of goroutines on the same thread, some hundred
// nanoseconds. The Go runtime starts the second thread when a call does not return.
//
// A single call that takes long as a rule, such as a large write, can be launched: a
// thread of its own makes it, so that both processors work.
//
//	if line.Launch(unix.SYS_WRITE, fd, b, n, func(n int, errno unix.Errno) { ... }) {
//		... // meanwhile
//		landed := line.Land()
//	}
//
// A process with a thread in such a call cannot end: its descriptors stay open, and
// its parent does not see a zombie yet. See process.Dying.
package aside

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// limit is how long a Call may take, and up to twice that, before the loop goes on
// without it: longer than a disk takes as a rule, and short for a signal that waits.
const limit = 30 * time.Millisecond

// Line runs functions, one at a time. The zero value with a Loop is ready; without
// one it waits for everything.
type Line struct {
	Loop *loop.Loop
	// Ended is called in a turn of the loop when a function has come to its end that Do
	// did not wait for; nil: nobody wants to know.
	Ended func()

	work   chan func()
	pass   chan struct{} // from the function's side: it has ended
	resume chan struct{} // to it: go on after the Call
	timer  *time.Timer
	tick   chan struct{} // from the timer
	armed  atomic.Bool
	event  int // eventfd: a Call that was not waited for has come back

	inside bool         // a function runs
	calls  atomic.Int64 // how many have begun and ended, so that an odd number is one; or left
	busy   bool         // Do did not wait for the end of the function
	since  lifecycle.Instant

	thread thread       // its request is nil before the first Launch
	comes  loop.Handler // when it may have come back
	flying bool         // a call was launched and has not been taken note of
	landed func(n int, errno unix.Errno)
}

// left: the loop goes on, and the function is to wait until it is resumed.
const left = -1

// Busy reports whether a function is still under way that Do did not wait for. Until
// Ended is called nothing may be done that it does, too.
func (l *Line) Busy() bool { return l.busy }

// Since is when the Call that keeps the line busy was given up, 0 if none does.
func (l *Line) Since() lifecycle.Instant {
	if !l.busy {
		return 0
	}
	return l.since
}

// Do runs f, and reports whether it has come to its end. The line must not be busy,
// and nothing launched.
func (l *Line) Do(f func()) (ended bool) {
	if l.Loop == nil {
		f()
		return true
	}
	if l.work == nil && !l.start() {
		f() // without a descriptor: as if nothing ever hung
		return true
	}
	l.inside = true
	l.work <- f
	return l.await()
}

func (l *Line) start() bool {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return false
	}
	l.event = fd
	l.work, l.pass, l.resume = make(chan func()), make(chan struct{}), make(chan struct{})
	// One that is armed for each call would cost more than the call. It stays armed, and
	// fires once more when there are no more calls.
	l.tick = make(chan struct{}, 1)
	l.armed.Store(true)
	l.timer = time.AfterFunc(limit, func() {
		l.armed.Store(false)
		select {
		case l.tick <- struct{}{}:
		default:
		}
	})
	go l.run()
	return true
}

// run is the other side.
func (l *Line) run() {
	for f := range l.work {
		f()
		l.inside = false
		l.pass <- struct{}{}
	}
}

// await waits for the end of the function, or until a Call takes too long.
func (l *Line) await() (ended bool) {
	seen := int64(0)
	for {
		if !l.armed.Load() {
			l.armed.Store(true)
			l.timer.Reset(limit)
		}
		select {
		case <-l.pass:
			return true
		case <-l.tick:
			now := l.calls.Load()
			if now == seen && now%2 == 1 && l.calls.CompareAndSwap(now, left) {
				l.leave()
				return false
			}
			seen = now
		}
	}
}

// leave goes on without the function.
func (l *Line) leave() {
	l.since = loop.Now()
	if l.busy {
		return // one more of its calls
	}
	l.busy = true
	// It fails only for want of memory: then the function is given up.
	_ = l.Loop.Add(l.event, loop.Readable, loop.HandlerFunc(func(uint32) { l.back() }))
}

// back has the function go on after its Call.
func (l *Line) back() {
	var count [8]byte
	if n, err := unix.Read(l.event, count[:]); err != nil || n == 0 {
		return
	}
	l.resume <- struct{}{}
	if !l.await() {
		return
	}
	l.Loop.Remove(l.event)
	l.busy = false
	if l.Ended != nil {
		l.Ended()
	}
}

// Call makes a call of the kernel. Outside of a function of Do it just makes it.
func (l *Line) Call(f func()) {
	if !l.inside {
		f()
		return
	}
	call := l.calls.Add(1)
	f()
	if l.calls.CompareAndSwap(call, call+1) {
		return
	}
	one := uint64(1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(l.event), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
	<-l.resume
	l.calls.Store(call + 1)
}

// Launch makes a call of the kernel and does not wait for it. landed is called with its
// result by Land, or else in a later turn of the loop. What the call reads and writes
// stays valid until then. It reports false, and has not made the call, where that is
// not possible. The line must not be busy, and nothing launched.
func (l *Line) Launch(nr, a, b, c uintptr, landed func(n int, errno unix.Errno)) bool {
	if l.Loop == nil {
		return false
	}
	if l.thread.request == nil {
		var err error
		if l.thread, err = startThread(); err != nil {
			return false
		}
		l.comes = loop.HandlerFunc(l.mayLand)
	}
	if l.Loop.Add(int(l.thread.end), loop.Readable, l.comes) != nil {
		return false
	}
	l.flying, l.landed = true, landed
	l.thread.call(nr, a, b, c)
	return true
}

// Land waits for the call that was launched, if one was, and reports whether the line
// is free. If that takes too long the line is busy from then on, and Ended called when
// it is free.
func (l *Line) Land() (free bool) {
	switch {
	case l.busy || !l.flying:
		return !l.busy
	case !l.thread.wait(2 * limit):
		l.busy, l.since = true, loop.Now()
		return false
	}
	l.land()
	return !l.busy
}

func (l *Line) mayLand(uint32) {
	if !l.flying || !l.thread.take() {
		return
	}
	busy := l.busy
	l.busy = false
	l.land()
	if busy && !l.busy && l.Ended != nil {
		l.Ended()
	}
}

func (l *Line) land() {
	l.Loop.Remove(int(l.thread.end))
	l.flying = false
	l.landed(l.thread.got())
}

// Abandon gives a busy line up: its function will not go on, even if the kernel comes
// back. It is for the end of the process.
func (l *Line) Abandon() {
	switch {
	case l.flying:
		l.Loop.Remove(int(l.thread.end))
		l.flying = false
	case l.busy:
		l.Loop.Remove(l.event)
	}
}
