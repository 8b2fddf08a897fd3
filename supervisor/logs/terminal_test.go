package logs

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// terminal gives the master and the container's end of a new terminal.
func terminal(t *testing.T) (master int, slave *os.File) {
	t.Helper()
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { unix.Close(master) })
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(master, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(int(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	return master, slave
}

func TestTerminal(t *testing.T) {
	lp, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	master, slave := terminal(t)
	c := run(t, Options{Loop: lp})
	s := c.logs.Stream(Stdout, master, true)
	var heard strings.Builder
	s.Sink = func(b []byte) { heard.Write(b) }
	if err := s.Watch(lp.Stop); err != nil {
		t.Fatal(err)
	}
	said := strings.Repeat("a line on a terminal, which makes CR LF of LF\n", 5000)
	go func() {
		slave.WriteString(said)
		slave.Close()
	}()
	if err := lp.Run(); err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(said, "\n", "\r\n")
	if heard.String() != want {
		t.Errorf("Sink has %d bytes, want %d", heard.Len(), len(want))
	}
	if got := content(c.read()); got != want {
		t.Errorf("the log has %d bytes of output, want %d", len(got), len(want))
	}
	if r := s.Readable(); r != EOF {
		t.Errorf("a terminal that nobody has open: %d, want EOF", r)
	}
	s.Unwatch()
	c.ends()
}

// A supervisor that read from a terminal and was killed before it counted.
func TestTerminalGoesOn(t *testing.T) {
	master, slave := terminal(t)
	c := run(t, Options{})
	s := c.logs.Stream(Stdout, master, true)
	slave.WriteString("one\n")
	if r := s.Readable(); r != Again {
		t.Fatalf("Readable gives %d", r)
	}
	c.logs.Close()
	spool, err := os.OpenFile(filepath.Join(c.dir, "spool.stdout"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := spool.Stat(); st.Size() != 32<<10 {
		t.Errorf("the spool is %d bytes long", st.Size())
	}
	spool.WriteAt([]byte("two\n"), int64(len("one\r\n")))
	spool.Close()
	c.open()
	s = c.logs.Stream(Stdout, master, true)
	more := strings.Repeat("three\n", 20000)
	go func() {
		slave.WriteString(more)
		slave.Close()
	}()
	for s.Readable() != EOF {
		wait(master)
	}
	c.logs.Finish()
	c.logs.Close()
	want := "one\r\ntwo\n" + strings.ReplaceAll(more, "\n", "\r\n")
	if got := content(c.read()); got != want {
		t.Errorf("the log has %d bytes of output, want %d: %.100q", len(got), len(want), got)
	}
}
