package aside

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

func newLine(t *testing.T) *Line {
	t.Helper()
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(l.FD()) })
	return &Line{Loop: l}
}

// hanging is a call of the kernel that comes back when it is told to.
func hanging(t *testing.T) (call func(), comeBack func()) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return func() {
			var b [1]byte
			if _, err := unix.Read(fds[0], b[:]); err != nil {
				t.Error(err)
			}
		}, func() {
			if _, err := unix.Write(fds[1], []byte{1}); err != nil {
				t.Error(err)
			}
		}
}

func TestWhatDoesNotHangIsWaitedFor(t *testing.T) {
	line := newLine(t)
	n := 0
	for range 1000 {
		if !line.Do(func() {
			line.Call(func() { _, _ = unix.Write(-1, nil) })
			n++
		}) || line.Busy() {
			t.Fatal("it was not waited for")
		}
	}
	if n != 1000 {
		t.Errorf("%d functions ran", n)
	}
}

// A call that hangs, one that does not, and another that hangs: the loop goes on
// meanwhile, and never at the same time as the function beside its calls.
func TestLoopGoesOn(t *testing.T) {
	for _, procs := range []int{1, 2} {
		before := runtime.GOMAXPROCS(procs)
		line := newLine(t)
		first, back1 := hanging(t)
		second, back2 := hanging(t)
		shared, ticks := 0, 0 // touched by both, as the race detector sees
		line.Ended = func() { line.Loop.Stop() }
		if line.Do(func() {
			shared++
			line.Call(first)
			shared++
			line.Call(func() {})
			shared++
			line.Call(second)
			shared++
		}) {
			t.Fatal("a call that hangs was waited for")
		}
		if !line.Busy() || line.Since() == 0 || shared != 1 {
			t.Errorf("busy %v, since %v, %d steps", line.Busy(), line.Since(), shared)
		}
		var tick loop.Timer
		tick.Fire = func() {
			shared += 10
			switch ticks++; ticks {
			case 3:
				back1()
			case 20:
				if shared != 203 {
					t.Errorf("%d steps, want that it is in its last call", shared)
				}
				back2()
			}
			line.Loop.Arm(&tick, loop.Now()+10_000_000)
		}
		tick.Fire()
		if err := line.Loop.Run(); err != nil {
			t.Fatal(err)
		}
		if line.Busy() || line.Since() != 0 || shared%10 != 4 || ticks < 20 {
			t.Errorf("busy %v, %d steps, %d ticks", line.Busy(), shared, ticks)
		}
		if !line.Do(func() { shared = 0 }) || shared != 0 {
			t.Error("it cannot be used again")
		}
		runtime.GOMAXPROCS(before)
	}
}

// A function that computes for long is waited for: the loop may not touch what it
// touches.
func TestOnlyCallsAreLeftBehind(t *testing.T) {
	line := newLine(t)
	if !line.Do(func() {
		for begin := time.Now(); time.Since(begin) < 4*limit; {
			line.Call(func() {})
		}
	}) {
		t.Error("it was left behind")
	}
}

func TestAbandoned(t *testing.T) {
	line := newLine(t)
	call, comeBack := hanging(t)
	went := false
	line.Do(func() {
		line.Call(call)
		went = true
	})
	line.Abandon()
	comeBack()
	tick := loop.Timer{Fire: func() { line.Loop.Stop() }}
	line.Loop.Arm(&tick, loop.Now()+100_000_000)
	if err := line.Loop.Run(); err != nil {
		t.Fatal(err)
	}
	if went {
		t.Error("it went on")
	}
}

func BenchmarkDo(b *testing.B) {
	l, err := loop.New()
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(l.FD())
	line := Line{Loop: l}
	null, err := unix.Open("/dev/null", unix.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(null)
	text := []byte("x")
	call := func() { _, _ = unix.Write(null, text) }
	f := func() { line.Call(call) }
	before := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(before)
	b.Run("aside", func(b *testing.B) {
		for b.Loop() {
			line.Do(f)
		}
	})
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			call()
		}
	})
}
