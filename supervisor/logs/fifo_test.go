package logs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// runFIFO has a container whose log is a FIFO.
func runFIFO(t *testing.T, o Options) *container {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	o.Targets = toFile(path)
	if err := unix.Mkfifo(path, 0o640); err != nil {
		t.Fatal(err)
	}
	lp, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	o.Loop = lp
	return run(t, o)
}

// fifoReader reads the log as it comes.
type fifoReader struct {
	t    *testing.T
	fd   int
	text strings.Builder
}

func (c *container) reader() *fifoReader {
	c.t.Helper()
	fd, err := unix.Open(c.options.Targets[0].Path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { unix.Close(fd) })
	return &fifoReader{t: c.t, fd: fd}
}

// read takes up to n bytes of what is there, and reports whether it saw the end.
func (r *fifoReader) read(n int) (end bool) {
	r.t.Helper()
	buf := make([]byte, n)
	got, err := unix.Read(r.fd, buf)
	if err != nil && err != unix.EAGAIN {
		r.t.Fatal(err)
	}
	r.text.Write(buf[:max(got, 0)])
	return err == nil && got == 0
}

// turn lets the loop of the logs go round once.
func (c *container) turn() {
	c.t.Helper()
	c.options.Loop.Defer(c.options.Loop.Stop)
	if err := c.options.Loop.Run(); err != nil {
		c.t.Fatal(err)
	}
}

// A reader that is slower than the container gets every record once, whole, be it
// longer than what a FIFO takes at once.
func TestFIFOWithASlowReader(t *testing.T) {
	c := runFIFO(t, Options{})
	r := c.reader()
	said := numbered(0, 3000) + strings.Repeat("long line ", 30000) + "\n" + numbered(3000, 3100)
	c.says(said)
	unix.Close(c.pipe)
	for rounds := 0; c.logs.Late(); rounds++ {
		r.read(777) // never as much as a record of a long line
		c.turn()
	}
	c.logs.Finish()
	c.logs.Close()
	for !r.read(64 << 10) {
	}
	if got := content(masked(r.text.String())); got != said {
		t.Errorf("the reader has %d bytes of output, want %d", len(got), len(said))
	}
	if len(c.warnings) != 0 {
		t.Errorf("warnings are %q", c.warnings)
	}
}

// A reader that is missing is waited for, and holds nobody up. When one goes the
// next one goes on where it was.
func TestFIFOWithoutAReader(t *testing.T) {
	c := runFIFO(t, Options{})
	c.says(numbered(0, 1000)) // all of which the FIFO takes
	first := c.reader()
	first.read(1 << 10)
	unix.Close(first.fd)
	first.fd, _ = unix.Dup(0)
	c.says(numbered(1000, 3000)) // more than that
	second := c.reader()
	unix.Close(c.pipe)
	for c.logs.Late() {
		second.read(64 << 10)
		c.turn()
	}
	c.logs.Finish()
	c.logs.Close()
	for !second.read(64 << 10) {
	}
	if got, want := content(masked(first.text.String()+second.text.String())), numbered(0, 3000); got != want {
		t.Errorf("the readers have %d bytes of output, want %d", len(got), len(want))
	}
}

// At the end a reader that does not come is waited for only so long; one that is
// there has what is in the FIFO, however slow it is.
func TestFIFOAtTheEnd(t *testing.T) {
	c := runFIFO(t, Options{})
	c.says("last words\n")
	if !c.logs.Late() {
		t.Error("what nobody has read would be lost, and no reader is waited for")
	}
	r := c.reader()
	if c.logs.Late() {
		t.Error("a reader that is there is waited for")
	}
	c.ends()
	r.read(1 << 10)
	if got := masked(r.text.String()); got != "T stdout F last words\n" || !r.read(1) {
		t.Errorf("the reader has %q, want the last words and the end", got)
	}

	c = runFIFO(t, Options{})
	c.says("last words\n")
	c.logs.Late()
	c.file().flow.since = 1
	if c.logs.Late() {
		t.Error("a reader is waited for that has not come in time")
	}
	c.ends()
}

// Nobody opens a FIFO to see whether it can be opened: its reader would see the end.
func TestCheckLeavesAFIFOAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o640); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		f, err := os.Open(path) // waits for a writer
		if err == nil {
			defer f.Close()
			_, err = f.Read(make([]byte, 10))
		}
		ended <- err
	}()
	for range 10 {
		if err := Check(Options{Targets: toFile(path)}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the reader saw the end of the log: %v", err)
	default:
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("hello\n")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A successor goes on with the FIFO; whoever has Keep's descriptor keeps the reader
// from seeing an end.
func TestFIFOOutlivesItsSupervisor(t *testing.T) {
	c := runFIFO(t, Options{})
	c.says(numbered(0, 2000)) // more than the FIFO takes
	kept := c.logs.Keep()
	if kept < 0 {
		t.Fatal("it cannot be kept")
	}
	c.logs.Close()
	r := c.reader()
	for range 3 {
		r.read(10 << 10)
	}
	c.open()
	unix.Close(kept)
	c.says(numbered(2000, 2100))
	unix.Close(c.pipe)
	for c.logs.Late() {
		if r.read(64 << 10) {
			t.Fatal("the reader saw the end")
		}
		c.turn()
	}
	c.logs.Finish()
	c.logs.Close()
	for !r.read(64 << 10) {
	}
	if got, want := content(masked(r.text.String())), numbered(0, 2100); got != want {
		t.Errorf("the reader has %d bytes of output, want %d", len(got), len(want))
	}
}
