package logs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// Nothing is allocated while output flows.
func TestNoGarbage(t *testing.T) {
	journal := startJournal(t, t.TempDir()+"/socket")
	for name, o := range map[string]Options{
		"k8s-file": {},
		"much":     {}, // by the spool's ring
		"full":     {SizeMax: 1 << 30, GlobalSizeMax: 1 << 40},
		"none":     {Targets: nowhere},
		"journald": {Targets: toJournal, ID: testID, JournalSocket: journal.path},
		"memory":   {Dir: -1},
	} {
		t.Run(name, func(t *testing.T) {
			c := run(t, o)
			heard := 0
			c.out.Sink = func(b []byte) { heard += len(b) }
			text := []byte(strings.Repeat("one line of output\n", 5))
			if name == "much" {
				text = []byte(strings.Repeat("one line of output\n", 2000))
			}
			drop := make([]byte, 64<<10)
			pass := func() {
				if _, err := unix.Write(c.pipe, text); err != nil {
					t.Fatal(err)
				}
				if r := c.out.Readable(); r != Again {
					t.Fatalf("Readable gives %d", r)
				}
				for name == "journald" {
					if _, err := unix.Read(journal.fd, drop); err != nil {
						break
					}
				}
			}
			pass()
			if n := testing.AllocsPerRun(2000, pass); n != 0 {
				t.Errorf("%v allocations for each call of Readable", n)
			}
			if c.out.spool.InRing() != (name == "much") {
				t.Errorf("it has a ring: %v", c.out.spool.InRing())
			}
			if heard == 0 || len(c.warnings) > 0 {
				t.Errorf("%d bytes heard, warnings %q", heard, c.warnings)
			}
			c.ends()
		})
	}
}

// A quiet container has no buffers, and its spool no pages.
func TestQuietContainerGivesMemoryBack(t *testing.T) {
	c := run(t, Options{})
	c.says(numbered(0, 50000))
	ring := filepath.Join(c.dir, spoolName(Stdout)+".ring")
	if _, err := os.Stat(ring); err != nil || resident(t, c.logs.in.mem) == 0 || resident(t, c.file().buffer.mem) == 0 {
		t.Fatal("nothing was in use: ", err)
	}
	due := c.logs.Due()
	if until := due - loop.Now(); until <= 0 || until > 2e9 {
		t.Errorf("Tick is due in %d ns, want about a second", until)
	}
	c.logs.quiet, c.logs.moved = loop.Now(), idleSize-1 // a second has passed
	c.logs.Tick()
	if n := resident(t, c.logs.in.mem) + resident(t, c.file().buffer.mem); n > 0 {
		t.Errorf("%d pages of the buffers are in use", n)
	}
	if _, err := os.Stat(ring); !os.IsNotExist(err) || c.out.spool.InRing() {
		t.Errorf("the ring is there: %v", err)
	}
	if used := spoolPages(t, c); used > 0 {
		t.Errorf("the spool has %d bytes of pages", used)
	}
	c.says("and it goes on\n")
	c.ends()
	if got := content(c.read()); got != numbered(0, 50000)+"and it goes on\n" {
		t.Error("the log is not what was said")
	}
}

func resident(t *testing.T, mem []byte) (pages int) {
	t.Helper()
	state := make([]byte, (len(mem)+4095)/4096)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), uintptr(unsafe.Pointer(&state[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, s := range state {
		pages += int(s & 1)
	}
	return pages
}

// A successor gives back what its predecessor needed for much output, even if the
// container says nothing more.
func TestSuccessorOfABusyOneRests(t *testing.T) {
	c := run(t, Options{})
	for n := range 3 {
		unix.Write(c.pipe, []byte(numbered(1000*n, 1000*n+1000)))
		c.out.Readable()
	}
	c.logs.Close() // as if killed
	c.open()
	ring := filepath.Join(c.dir, spoolName(Stdout)+".ring")
	if _, err := os.Stat(ring); err != nil {
		t.Fatal("nothing was in use: ", err)
	}
	if c.logs.quiet == 0 || c.logs.Due() > c.logs.quiet {
		t.Fatal("it does not look whether its container is quiet")
	}
	c.logs.quiet = 1
	c.logs.Tick()
	if _, err := os.Stat(ring); !os.IsNotExist(err) || c.out.spool.InRing() {
		t.Errorf("the ring is there: %v", err)
	}
	c.says("and it goes on\n")
	c.ends()
	if got := content(c.read()); got != numbered(0, 3000)+"and it goes on\n" {
		t.Error("the log is not what was said")
	}
}

// The state directory of a container that has ended may stay for long.
func TestFinishedContainerHasNoRing(t *testing.T) {
	c := run(t, Options{})
	c.says(numbered(0, 50000))
	if !c.out.spool.InRing() {
		t.Fatal("there was none")
	}
	c.ends()
	if _, err := os.Stat(filepath.Join(c.dir, spoolName(Stdout)+".ring")); !os.IsNotExist(err) {
		t.Errorf("the ring is there: %v", err)
	}
	if used := spoolPages(t, c); used > 0 {
		t.Errorf("the spool has %d bytes of pages", used)
	}
	if got := content(c.read()); got != numbered(0, 50000) {
		t.Error("the log is not what was said")
	}
}

// A quiet container without a log driver has no buffers either.
func TestQuietContainerWithoutLog(t *testing.T) {
	c := run(t, Options{Targets: nowhere})
	c.says(numbered(0, 50000))
	if resident(t, c.logs.in.mem) == 0 || c.logs.quiet == 0 {
		t.Fatal("nothing was in use, or nobody looks for it")
	}
	c.logs.quiet, c.logs.moved = 1, 0
	c.logs.Tick()
	if n := resident(t, c.logs.in.mem); n > 0 {
		t.Errorf("%d pages of the buffers are in use", n)
	}
	c.ends()
}
