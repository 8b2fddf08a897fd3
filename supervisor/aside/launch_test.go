package aside

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// launched reads a byte from a pipe; write has it come back.
type launched struct {
	line  *Line
	read  int
	write int
	b     [1]byte
	n     int
	errno unix.Errno
	ended int // how often it has landed
}

func newLaunched(t *testing.T) *launched {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &launched{line: newLine(t), read: fds[0], write: fds[1]}
}

func (l *launched) launch(t *testing.T, fd int) {
	t.Helper()
	if !l.line.Launch(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&l.b)), 1, func(n int, errno unix.Errno) {
		l.n, l.errno = n, errno
		l.ended++
	}) {
		t.Fatal("it cannot be launched")
	}
	if l.line.Busy() {
		t.Error("the line is busy before it had to be waited for")
	}
}

func (l *launched) comeBack(t *testing.T) {
	t.Helper()
	if _, err := unix.Write(l.write, []byte{'x'}); err != nil {
		t.Error(err)
	}
}

func TestLaunchedCallLands(t *testing.T) {
	l := newLaunched(t)
	if !l.line.Land() {
		t.Error("nothing was launched, and the line is not free")
	}
	for n := range 1000 {
		l.b[0] = 0
		l.launch(t, l.read)
		l.comeBack(t)
		if !l.line.Land() || l.ended != n+1 || l.n != 1 || l.errno != 0 || l.b[0] != 'x' {
			t.Fatalf("call %d: landed %d times, %d bytes, error %v, %q", n, l.ended, l.n, l.errno, l.b[0])
		}
	}
	l.launch(t, -1)
	if !l.line.Land() || l.errno != unix.EBADF {
		t.Errorf("a call that fails gives %v", l.errno)
	}
	if !l.line.Do(func() {}) || l.ended != 1001 {
		t.Error("functions cannot be done after it")
	}
	if !l.line.Loop.OnlyWaitsFor(nil) {
		t.Error("the loop waits for what has landed")
	}
}

// One that nobody waits for lands in a turn of the loop, and is no hanging one.
func TestLaunchedCallLandsByItself(t *testing.T) {
	l := newLaunched(t)
	l.line.Ended = func() { t.Error("it was taken for one that hung") }
	l.launch(t, l.read)
	l.comeBack(t)
	var tick loop.Timer
	tick.Fire = func() {
		if l.ended > 0 {
			l.line.Loop.Stop()
		}
		l.line.Loop.Arm(&tick, loop.Now()+1_000_000)
	}
	tick.Fire()
	if err := l.line.Loop.Run(); err != nil {
		t.Fatal(err)
	}
	if l.ended != 1 || !l.line.Land() || l.ended != 1 {
		t.Errorf("it landed %d times", l.ended)
	}
}

func TestLaunchedCallThatHangs(t *testing.T) {
	l := newLaunched(t)
	l.launch(t, l.read)
	if l.line.Land() || !l.line.Busy() || l.line.Since() == 0 || l.ended != 0 {
		t.Fatalf("busy %v since %v, landed %d times", l.line.Busy(), l.line.Since(), l.ended)
	}
	if l.line.Land() || l.ended != 0 {
		t.Error("it landed")
	}
	over := false
	l.line.Ended = func() {
		if over = !l.line.Busy() && l.ended == 1; !over {
			t.Error("it ends busy")
		}
		l.line.Loop.Stop()
	}
	tick := loop.Timer{Fire: func() { l.comeBack(t) }}
	l.line.Loop.Arm(&tick, loop.Now()+10_000_000)
	if err := l.line.Loop.Run(); err != nil {
		t.Fatal(err)
	}
	if !over || l.n != 1 {
		t.Errorf("over %v, %d bytes", over, l.n)
	}
	l.launch(t, l.read)
	l.comeBack(t)
	if !l.line.Land() || l.ended != 2 {
		t.Error("it cannot be used again")
	}
}

func TestLaunchedCallIsAbandoned(t *testing.T) {
	l := newLaunched(t)
	l.launch(t, l.read)
	l.line.Land()
	l.line.Abandon()
	if !l.line.Loop.OnlyWaitsFor(nil) {
		t.Error("the loop waits for it")
	}
	l.comeBack(t)
	tick := loop.Timer{Fire: func() { l.line.Loop.Stop() }}
	l.line.Loop.Arm(&tick, loop.Now()+50_000_000)
	if err := l.line.Loop.Run(); err != nil {
		t.Fatal(err)
	}
	if l.ended != 0 {
		t.Error("it landed")
	}
}
