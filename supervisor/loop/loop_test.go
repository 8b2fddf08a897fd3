package loop

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
)

func newLoop(t *testing.T) *Loop {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(l.epoll) })
	return l
}

func pipe(t *testing.T) (read, write int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func run(t *testing.T, l *Loop) {
	t.Helper()
	if err := l.Run(); err != nil {
		t.Fatal(err)
	}
}

func TestReadyAndHangup(t *testing.T) {
	l := newLoop(t)
	read, write := pipe(t)
	var told []uint32
	must(t, l.Add(read, Readable, HandlerFunc(func(events uint32) {
		told = append(told, events)
		if events&Readable != 0 {
			var b [8]byte
			if _, err := unix.Read(read, b[:]); err != nil {
				t.Error(err)
			}
			unix.Close(write)
			return
		}
		l.Stop()
	})))
	if _, err := unix.Write(write, []byte("x")); err != nil {
		t.Fatal(err)
	}
	run(t, l)
	if len(told) != 2 || told[0] != Readable || told[1] != Hup {
		t.Errorf("told %x, want readable, then hangup", told)
	}
}

// Both pipes are ready together; whichever is told first removes the other.
func TestRemovedInTheSameBatch(t *testing.T) {
	l := newLoop(t)
	calls := 0
	var reads [2]int
	for i := range reads {
		read, write := pipe(t)
		reads[i] = read
		if _, err := unix.Write(write, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range reads {
		must(t, l.Add(reads[i], Readable, HandlerFunc(func(uint32) {
			calls++
			l.Remove(reads[1-i])
			l.Stop()
		})))
	}
	run(t, l)
	if calls != 1 {
		t.Errorf("%d handlers ran, want 1", calls)
	}
	l.Remove(reads[0])
	l.Remove(reads[0])
}

func TestTimersFireInOrderAndNeverEarly(t *testing.T) {
	l := newLoop(t)
	start := Now()
	var fired []int
	arm := func(n int, after lifecycle.Duration) *Timer {
		at := start.After(after)
		timer := &Timer{Fire: func() {
			fired = append(fired, n)
			if now := Now(); now < at {
				t.Errorf("timer %d is %d ns early", n, at-now)
			}
			if n == 3 {
				l.Stop()
			}
		}}
		l.Arm(timer, at)
		return timer
	}
	arm(3, 3*lifecycle.Millisecond)
	arm(1, lifecycle.Millisecond)
	arm(2, 2*lifecycle.Millisecond)
	never := arm(4, lifecycle.Millisecond)
	l.Arm(never, lifecycle.Never)
	run(t, l)
	if len(fired) != 3 || fired[0] != 1 || fired[1] != 2 || fired[2] != 3 {
		t.Errorf("fired %v, want 1 2 3", fired)
	}
}

// What is ready comes before a timer that is due already, and what was deferred
// comes after both.
func TestOrderWithinABatch(t *testing.T) {
	l := newLoop(t)
	read, write := pipe(t)
	if _, err := unix.Write(write, []byte("x")); err != nil {
		t.Fatal(err)
	}
	var order string
	must(t, l.Add(read, Readable, HandlerFunc(func(uint32) {
		order += "r"
		l.Remove(read)
		l.Defer(func() { order += "d"; l.Defer(func() { order += "e"; l.Stop() }) })
	})))
	l.Arm(&Timer{Fire: func() { order += "t" }}, 1)
	run(t, l)
	if order != "rtde" {
		t.Errorf("order is %q, want rtde", order)
	}
}

// A timer that arms itself for an instant that has passed gets the others their turn.
func TestDescriptorIsHeardBesideABusyTimer(t *testing.T) {
	l := newLoop(t)
	read, write := pipe(t)
	if _, err := unix.Write(write, []byte("x")); err != nil {
		t.Fatal(err)
	}
	rounds := 0
	timer := &Timer{}
	timer.Fire = func() { rounds++; l.Defer(func() { l.Arm(timer, Now()) }) }
	l.Arm(timer, Now())
	must(t, l.Add(read, Readable, HandlerFunc(func(uint32) {
		if rounds > 2 {
			l.Stop()
		}
	})))
	run(t, l)
}

func TestAddReportsWhatCannotBeWaitedFor(t *testing.T) {
	l := newLoop(t)
	file, err := unix.Open("/", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Skip("no O_TMPFILE in /: ", err)
	}
	defer unix.Close(file)
	if err := l.Add(file, Readable, HandlerFunc(nil)); !errors.Is(err, unix.EPERM) {
		t.Errorf("Add of a regular file: %v, want EPERM", err)
	}
}

func TestMilliseconds(t *testing.T) {
	for _, test := range []struct {
		ns   int64
		want int
	}{{0, 0}, {1, 1}, {1_000_000, 1}, {1_000_001, 2}, {1 << 62, 1 << 30}} {
		ts := unix.NsecToTimespec(test.ns)
		if got := milliseconds(&ts); got != test.want {
			t.Errorf("%d ns are %d ms, want %d", test.ns, got, test.want)
		}
	}
	if milliseconds(nil) != -1 {
		t.Error("no timer means no timeout")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Both pipes are ready together; whichever is told first closes the other and has
// its number again for something that is not ready.
func TestNumberTakenInTheSameBatch(t *testing.T) {
	l := newLoop(t)
	var reads [2]int
	for i := range reads {
		read, write := pipe(t)
		if _, err := unix.Write(write, []byte("x")); err != nil {
			t.Fatal(err)
		}
		reads[i] = read
	}
	quiet, _ := pipe(t)
	told := false
	for i := range reads {
		must(t, l.Add(reads[i], Readable, HandlerFunc(func(uint32) {
			for _, fd := range reads {
				l.Remove(fd)
			}
			other := reads[1-i]
			must(t, unix.Dup3(quiet, other, unix.O_CLOEXEC))
			must(t, l.Add(other, Readable, HandlerFunc(func(uint32) { told = true })))
			l.Stop()
		})))
	}
	run(t, l)
	if told {
		t.Error("one that is not ready was told what its predecessor was to hear")
	}
}
