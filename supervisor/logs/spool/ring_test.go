package spool

import (
	"bytes"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// killed is what a supervisor panics with that is to die at a store.
const killed = "killed"

// life is a supervisor after another, with one stream and one log that takes some
// of the output now and then.
type life struct {
	t    *testing.T
	dir  int
	path string
	pipe [2]int
	said []byte // what the container has written and the log has not had
	told int    // how much it has written

	c *Cursor
	s *Spool
}

func begin(t *testing.T) *life {
	l := &life{t: t}
	l.dir, l.path = openDir(t)
	if err := unix.Pipe2(l.pipe[:], unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(l.pipe[0]); unix.Close(l.pipe[1]) })
	if _, err := unix.FcntlInt(uintptr(l.pipe[0]), unix.F_SETPIPE_SZ, 1<<20); err != nil {
		t.Fatal(err)
	}
	l.succeed()
	t.Cleanup(l.die)
	return l
}

// succeed goes on with what a predecessor has left, and checks what that is.
func (l *life) succeed() {
	l.t.Helper()
	var err error
	if l.c, err = OpenCursor(l.dir); err != nil {
		l.t.Fatal(err)
	}
	if l.s, err = Open(l.dir, "spool"); err != nil {
		l.t.Fatal(err)
	}
	if err := l.s.Resume(l.c, 0); err != nil {
		l.t.Fatal(err)
	}
	l.check()
}

func (l *life) die() {
	l.s.Close()
	l.c.Close()
}

// check compares: each byte is in the spool or in the pipe, in order, once.
func (l *life) check() {
	l.t.Helper()
	got := l.unread(1 << 30)
	if rest := pipeHolds(l.pipe[0]); len(got)+rest != len(l.said) {
		l.t.Fatalf("%d bytes are in the spool and %d in the pipe, want %d", len(got), rest, len(l.said))
	}
	if !bytes.Equal(got, l.said[:len(got)]) {
		l.t.Fatalf("the %d bytes in the spool are not what was said", len(got))
	}
}

// unread is what the log has not had of the spool.
func (l *life) unread(max int) []byte {
	l.t.Helper()
	at := l.c.Pos(0, 0)
	b := make([]byte, min(int64(max), l.s.Size()-at))
	b, err := l.s.Read(b, at)
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

// says writes to the pipe, as much as fits.
func (l *life) says(n int) {
	b := make([]byte, n)
	for i := range b {
		at := uint32(l.told + i)
		b[i] = byte(at * 2654435761 >> 24)
	}
	if n, _ = unix.Write(l.pipe[1], b); n > 0 {
		l.said = append(l.said, b[:n]...)
		l.told += n
	}
}

// hears takes output for the log.
func (l *life) hears(n int) {
	b, step := l.unread(n), l.c.Step
	l.c.Step = nil
	l.c.SetPos(0, 0, l.c.Pos(0, 0)+int64(len(b)), false)
	l.c.Step = step
	l.said = l.said[len(b):]
}

func (l *life) fill(max int) error {
	_, _, err := l.s.Fill(l.pipe[0], max, l.c.Pos(0, 0))
	return err
}

// inRing brings the output into the ring.
func (l *life) inRing() {
	l.t.Helper()
	l.says(ringFrom)
	for l.fill(1<<18) == nil && !l.s.ring.on {
		l.hears(1 << 20)
		l.says(ringFrom)
	}
	if !l.s.ring.on {
		l.t.Fatal("the output is not in the ring")
	}
	l.check()
}

func TestRing(t *testing.T) {
	l := begin(t)
	l.inRing()
	file := filepath.Join(l.path, "spool.ring")
	for round := range 40 { // several times around, with and without a rest of a line
		l.hears(1 << 20)
		l.says(100_000 + round)
		if err := l.fill(1 << 18); err != nil || !l.s.ring.on {
			t.Fatalf("Fill: %v, in the ring: %v", err, l.s.ring.on)
		}
		l.check()
		l.hears(len(l.unread(1<<20)) - 77*(round%3))
		l.says(3000)
		if err := l.fill(1 << 18); err != nil || !l.s.ring.on {
			t.Fatalf("Fill: %v, in the ring: %v", err, l.s.ring.on)
		}
		l.check()
	}
	l.hears(len(l.unread(1<<20)) - 10)
	for _, little := range []int{15, 0} {
		l.says(little)
		if err := l.fill(1 << 18); err != nil && err != unix.EAGAIN || l.s.ring.on {
			t.Errorf("Fill with %d bytes: %v, in the ring: %v", little, err, l.s.ring.on)
		}
		l.check()
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if err := l.s.Rest(l.c.Pos(0, 0)); err != nil || l.s.InRing() {
		t.Errorf("Rest: %v, there is a ring: %v", err, l.s.InRing())
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the ring's file is there, %v", err)
	}
	l.check()
}

// A log that takes nothing gets the room of the file, not only that of the ring.
func TestRingThatIsNotEmptied(t *testing.T) {
	l := begin(t)
	l.inRing()
	for range 20 {
		l.says(200_000)
		if err := l.fill(1 << 18); err != nil {
			t.Fatal(err)
		}
		l.check()
	}
	if l.s.ring.on || len(l.unread(1<<30)) < 3_000_000 {
		t.Errorf("in the ring: %v, %d bytes kept", l.s.ring.on, len(l.unread(1<<30)))
	}
}

// A splice that is killed has filled some pages. Its successor finds how many.
func TestRingFilledInPart(t *testing.T) {
	for _, had := range []int{1 << 20, 5} { // with and without a rest of a line
		for pages := 0; pages <= 12; pages++ {
			for _, last := range []int{PageSize, 16, 1000} {
				l := begin(t)
				l.inRing()
				l.hears(min(had, len(l.unread(1<<20))))
				l.says(11*PageSize + last)
				if !l.s.align(l.c.Pos(0, 0)) {
					t.Fatal("no room")
				}
				want := pipeHolds(l.pipe[0])
				l.s.mark(l.s.size, l.s.size+int64(want))
				l.c.setRingTo(0, l.s.size+int64(want))
				for at, end := l.s.size, l.s.size+int64(min(want, pages*PageSize)); at < end; {
					place := l.s.ring.place(at)
					n, err := l.s.splice(l.pipe[0], l.s.ring.fd, place, int(min(end-at, ringSize-place)))
					if err != nil {
						t.Fatal(err)
					}
					at += int64(n)
				}
				l.die()
				l.succeed()
				if rest := pipeHolds(l.pipe[0]); rest != max(0, want-pages*PageSize) {
					t.Errorf("%d of %d bytes are in the pipe after %d pages", rest, want, pages)
				}
				l.fill(1 << 18)
				l.check()
			}
		}
	}
}

// Killed at each store while it fills the ring: the end of the output is at the
// beginning of a page or not, and so is what follows.
func TestRingKilledAtEachStore(t *testing.T) {
	for _, before := range []int{0, 1, 15, 16, 100, 4090} {
		for after := range 18 {
			for step := 1; ; step++ {
				l := begin(t)
				l.inRing()
				l.says(2*PageSize + before)
				l.fill(1 << 18)
				l.hears(len(l.unread(1<<20)) - 50)
				l.says(PageSize + after)
				dead := l.dies(step, func() { l.fill(1 << 18) })
				l.die()
				l.succeed()
				l.fill(1 << 18)
				l.check()
				if !dead {
					break
				}
			}
		}
	}
}

// A container can read what it has written itself, even between the question how
// much is in the pipe and the splice. What it has left is taken. (Killed right
// after such a splice, step 3, its end is known to a page only.)
func TestRingWhoseWriterReads(t *testing.T) {
	for _, takes := range []int{1, 3000, 2*PageSize - 5, 2 * PageSize} {
		for step := 2; ; step++ {
			if step == 3 {
				continue
			}
			l := begin(t)
			l.inRing()
			l.hears(1 << 20)
			l.says(2 * PageSize)
			l.fill(1 << 18)
			l.hears(1 << 20)
			l.says(2 * PageSize)
			steps := 0
			l.c.Step = func() {
				if steps++; steps == 2 {
					n, _ := unix.Read(l.pipe[0], make([]byte, takes))
					l.said = l.said[n:]
				}
				if steps == step {
					panic(killed)
				}
			}
			dead := l.dies(0, func() { l.fill(1 << 18) })
			l.die()
			l.succeed()
			if !dead {
				break
			}
		}
	}
}

// While a log is being written what comes is put behind what it has not had, as long as
// there is room; then it goes to the file. Killed at each store all of it is there.
func TestRingGoesOnBeforeALogHasABatch(t *testing.T) {
	for step := 1; ; step++ {
		l := begin(t)
		l.inRing()
		l.hears(len(l.unread(1 << 20)))
		l.says(5 * ringBatch)
		l.fill(1 << 18)
		if n := len(l.unread(1 << 20)); n != ringBatch || !l.s.Goes() {
			t.Fatalf("the first batch has %d bytes, and is the last: %v", n, !l.s.Goes())
		}
		dead := l.dies(step, func() { l.fill(1 << 18) })
		if !dead && (len(l.unread(1<<20)) != 2*ringBatch || !l.s.ring.on) {
			t.Fatalf("the second batch is not behind the first: %d bytes, in the ring: %v", len(l.unread(1<<20)), l.s.ring.on)
		}
		l.die()
		l.succeed()
		l.fill(1 << 18)
		l.fill(1 << 18)
		if l.s.ring.on {
			t.Fatal("there was room for everything")
		}
		l.check()
		if !dead {
			return
		}
	}
}

// dies does something and kills the supervisor at a store; 0: it has its own
// way to.
func (l *life) dies(step int, do func()) (dead bool) {
	if step > 0 {
		l.c.Step = func() {
			if step--; step == 0 {
				panic(killed)
			}
		}
	}
	defer func() {
		l.c.Step = nil
		if r := recover(); r == killed {
			dead = true
		} else if r != nil {
			panic(r)
		}
	}()
	do()
	return false
}

// Whatever happens in whatever order, and at whatever store the supervisor is
// killed, nothing is lost or doubled.
func TestRingInAnyOrder(t *testing.T) {
	seed := time.Now().UnixNano()
	rounds := 8
	if os.Getenv("GRACERUN_SOAK") != "" {
		rounds = 400
	}
	kills, inRing := 0, 0
	for round := range rounds {
		random := rand.New(rand.NewSource(seed + int64(round)))
		l := begin(t)
		for range 200 {
			if l.live(random) {
				kills++
				l.die()
				l.succeed()
			}
			l.check()
			if l.s.ring.on {
				inRing++
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed+int64(round))
			}
		}
	}
	if t.Logf("%d kills, in the ring after %d of %d steps, seed %d", kills, inRing, 200*rounds, seed); kills < 4*rounds || inRing < 40*rounds {
		t.Error("that tries too little")
	}
}

// live does something, and reports whether that was the end.
func (l *life) live(random *rand.Rand) (dead bool) {
	sizes := [...]int{10, 500, 10_000, 70_000, 300_000}
	size := 1 + random.Intn(sizes[random.Intn(len(sizes))])
	step := 0
	if random.Intn(3) == 0 {
		step = 1 + random.Intn(20)
	}
	switch random.Intn(16) {
	case 0:
		l.hears(size)
	case 1, 2:
		l.says(size)
	case 3:
		return l.dies(step, func() { l.s.Rest(l.c.Pos(0, 0)) })
	case 4:
		return l.dies(step, func() {
			if l.c.Pos(0, 0) == l.s.Size() && l.s.Size() > 0 && l.s.Empty() == nil {
				l.c.Truncated(0)
			}
		})
	default:
		return l.dies(step, func() {
			for range 3 {
				l.says(size)
				if err := l.fill(1 << 18); err != nil && err != unix.EAGAIN {
					l.t.Fatal(err)
				}
				if random.Intn(8) > 0 {
					l.hears(max(0, len(l.unread(1<<20))-random.Intn(200)*random.Intn(2)))
				}
			}
		})
	}
	return false
}
