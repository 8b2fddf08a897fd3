package logs

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// runMuch is a container whose pipe holds a MiB, so that batches are full, and whose
// log is written by a second thread.
func runMuch(t *testing.T, o Options) *container {
	t.Helper()
	o.Loop = must(loop.New())
	c := run(t, o)
	must(unix.FcntlInt(uintptr(c.pipe), unix.F_SETPIPE_SZ, bigPipe))
	return c
}

// saysMuch has the container write more at once than the logs take at once, and gives
// how many large writes were under way when the logs were through with a batch.
func (c *container) saysMuch(text string) (flights int) {
	c.t.Helper()
	for len(text) > 0 {
		n, err := unix.Write(c.pipe, []byte(text))
		if err != nil && err != unix.EAGAIN {
			c.t.Fatal(err)
		}
		text = text[max(n, 0):]
		for c.out.Readable() == More {
			if c.flies() {
				flights++
			}
		}
	}
	return flights
}

// flies reports whether a write has been begun and not been taken note of.
func (c *container) flies() bool {
	i, set := c.logs.cursor.Intent(0)
	return set && i.Bytes >= flyFrom
}

func TestLargeWritesByASecondThread(t *testing.T) {
	memory, err := os.MkdirTemp(shm, "logs-")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(memory)
	for name, o := range map[string]Options{
		"memory": {Targets: toFile(filepath.Join(memory, "log"))},
		"disk":   {},
		"full":   {SizeMax: 1 << 20, Rotate: true, MaxFiles: 100},
	} {
		t.Run(name, func(t *testing.T) {
			c := runMuch(t, o)
			var heard bytes.Buffer
			c.out.Sink = func(b []byte) { heard.Write(b) }
			said := numbered(0, 60_000)
			if n := c.saysMuch(said); n == 0 && c.file().medium != remote {
				t.Error("none was under way")
			}
			c.ends()
			log := content(string(readRotated(t, c.file().path)))
			if log != said || heard.String() != said || len(c.warnings) > 0 {
				t.Errorf("%d bytes are in the log, %d were heard, want %d; warnings %q", len(log), heard.Len(), len(said), c.warnings)
			}
		})
	}
}

// The disk becomes full in a large write: what was written of it is taken back, and
// all written when there is room.
func TestFullDiskInALargeWrite(t *testing.T) {
	disk := smallDisk(t, 16<<20)
	log := filepath.Join(disk, "log")
	c := runMuch(t, Options{Targets: toFile(log)})
	c.saysMuch(numbered(0, 60_000))
	release := fill(t, filepath.Join(disk, "ballast"))
	c.saysMuch(numbered(60_000, 120_000))
	if len(c.warnings) != 1 {
		t.Errorf("warnings are %q", c.warnings)
	}
	release()
	c.saysMuch(numbered(120_000, 120_010))
	c.ends()
	if got, want := content(c.read(log)), numbered(0, 120_010); got != want {
		t.Errorf("the log has %d bytes of output, want %d", len(got), len(want))
	}
}

// A large write does not come back: the container goes on, and the log has everything
// when it does.
func TestLargeWriteThatHangs(t *testing.T) {
	c := runMuch(t, Options{})
	if c.file().medium == remote {
		t.Skip("no large writes by a second thread on this file system")
	}
	c.saysMuch(numbered(0, 20_000)) // to the ring
	said, more := numbered(0, 20_000), numbered(20_000, 40_000)
	k := c.file()
	if !k.line.Land() {
		t.Fatal("the log is not written")
	}
	before := c.read()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	unix.Dup3(int(write.Fd()), k.fd, unix.O_CLOEXEC) // it takes 64 KiB, and then waits
	write.Close()
	for n := 0; !k.line.Busy(); n++ {
		if n > 10 {
			t.Fatal("no write hangs")
		}
		c.saysMuch(more)
		said += more
	}
	if !c.flies() || !c.logs.Hangs() || c.logs.Owed() == 0 {
		t.Errorf("a large write: %v, it hangs: %v, %d bytes are owed", c.flies(), c.logs.Hangs(), c.logs.Owed())
	}
	c.saysMuch(more)
	said += more
	rest := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(read)
		rest <- all
	}()
	waitForLog(c.options.Loop, c.logs)
	c.ends()
	if got := content(before) + content(masked(string(<-rest))); got != said || len(c.warnings) > 0 {
		t.Errorf("the log has %d bytes of output, want %d; warnings %q", len(got), len(said), c.warnings)
	}
}
