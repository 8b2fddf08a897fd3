package attach

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal gives both sides of a new one.
func terminal(t *testing.T) (master, slave int) {
	t.Helper()
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(master) })
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = unix.Open("/dev/pts/"+strconv.Itoa(n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(slave) })
	return master, slave
}

// size is what a program in the terminal sees.
func size(t *testing.T, slave int) string {
	t.Helper()
	ws, err := unix.IoctlGetWinsize(slave, unix.TIOCGWINSZ)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(int(ws.Row)) + " " + strconv.Itoa(int(ws.Col))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) control(reopen func()) *Control {
	r.t.Helper()
	c, err := OpenControl(r.loop, ControlConfig{Bundle: r.dir, Terminal: true, Reopen: reopen, Warn: r.warn})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

func TestResize(t *testing.T) {
	for _, test := range []struct{ fifo, text, size, warning string }{
		{"ctl", "1 2 3\n", "2 3", ""},
		{"ctl", "1 0010 0020\n", "10 20", ""},
		{"ctl", "1 1000 1000\n", "1000 1000", ""},
		{"ctl", "  1\t+2   3 4 anything\n", "2 3", ""},
		{"ctl", "1+2+3\n", "2 3", ""},
		{"ctl", "1 2 3\r\n", "2 3", ""},
		{"ctl", "1 1 1\n1 2 2\n1 3 3\n", "3 3", ""},
		{"ctl", "1 1 1\n1 2", "1 1", ""},
		{"ctl", "nonsense\n1 2 3\n", "2 3", "Invalid control message format"},
		{"ctl", "\n", "0 0", "Invalid control message format"},
		{"ctl", "foo\n", "0 0", "Invalid control message format"},
		{"ctl", "1\n", "0 0", "Invalid control message format"},
		{"ctl", "1 2\n", "0 0", "Invalid control message format"},
		{"ctl", "1 10.5 20.3\n", "0 0", "Invalid control message format"},
		{"ctl", "1 0x10 0x20\n", "0 0", "Invalid control message format"},
		{"ctl", "1 - 2\n", "0 0", "Invalid control message format"},
		{"ctl", "1 4294967298 2\n", "0 0", "Invalid control message format"}, // scanf makes it 2
		{"ctl", "1 -1 -1\n", "0 0", "Invalid window size: -1x-1 (must be between 0 and 1000)"},
		{"ctl", "1 100000 100000\n", "0 0", "Invalid window size: 100000x100000 (must be between 0 and 1000)"},
		{"ctl", "1 1001 2\n", "0 0", "Invalid window size: 1001x2 (must be between 0 and 1000)"},
		{"ctl", "999 2 2\n", "0 0", "Invalid control message type: 999"},
		{"ctl", "2 -1 2\n", "0 0", "Invalid window size: -1x2 (must be between 0 and 1000)"},
		{"ctl", "1 2 3\x00\n", "2 3", ""},
		{"ctl", "\x00 1 2 3\n", "0 0", "Invalid control message format"},
		{"ctl", "1 2 2 " + strings.Repeat("#", 300) + "\n", "0 0", "Could not find newline in entire buffer"},
		{"ctl", "1 2 2 " + strings.Repeat("#", 60_000) + "\n1 4 5\n", "4 5", "Could not find newline in entire buffer"},
		{"winsz", "2 3\n", "2 3", ""},
		{"winsz", "2\n", "0 0", "Failed to parse window size"},
		{"winsz", "2 1001\n", "0 0", "Invalid window size: 2x1001 (must be between 0 and 1000)"},
	} {
		r := newRig(t)
		c := r.control(func() { t.Errorf("%q reopens the log", test.text) })
		master, slave := terminal(t)
		c.SetTerminal(master)
		write(t, r.dir+"/"+test.fifo, test.text)
		quietSoon(t, r)
		if got := size(t, slave); got != test.size {
			t.Errorf("%s %.40q: size %s, want %s", test.fifo, test.text, got, test.size)
		}
		want := []string{test.warning}
		if test.warning == "" {
			want = nil
		}
		if !slices.Equal(r.warnings, want) {
			t.Errorf("%s %.40q: warned of %q, want %q", test.fifo, test.text, r.warnings, want)
		}
	}
}

// quietSoon turns until there is nothing more to be told.
func quietSoon(t *testing.T, r *rig) {
	t.Helper()
	r.until("nothing is ready", func() bool { return ready(r) == 0 })
}

func TestReopen(t *testing.T) {
	r := newRig(t)
	reopened := 0
	r.control(func() { reopened++ })
	write(t, r.dir+"/ctl", "2 0 0\n") // CRI-O
	write(t, r.dir+"/ctl", "2 1 1\n")
	quietSoon(t, r)
	if reopened != 2 || len(r.warnings) != 0 {
		t.Errorf("reopened %d times, warned of %q", reopened, r.warnings)
	}
}

// A message may come in pieces, and from writers that come and go.
func TestPieces(t *testing.T) {
	r := newRig(t)
	c := r.control(nil)
	master, slave := terminal(t)
	c.SetTerminal(master)
	for _, piece := range []string{"1", " 2", "4 8", "0\n1 30 ", "100\n"} {
		if got := size(t, slave); piece == "100\n" && got != "24 80" {
			t.Errorf("size %s", got)
		}
		write(t, r.dir+"/ctl", piece)
		quietSoon(t, r)
	}
	if got := size(t, slave); got != "30 100" {
		t.Errorf("size %s", got)
	}
}

// Podman sets the size before it starts an exec: before there is a terminal.
func TestSizeBeforeTheTerminal(t *testing.T) {
	r := newRig(t)
	c := r.control(nil)
	write(t, r.dir+"/ctl", "1 24 80\n")
	write(t, r.dir+"/ctl", "1 30 100\n")
	quietSoon(t, r)
	master, slave := terminal(t)
	c.SetTerminal(master)
	if got := size(t, slave); got != "30 100" {
		t.Errorf("size %s", got)
	}
}

// Without a terminal sizes mean nothing; conmon blocks when it was sent many.
func TestSizeWithoutTerminal(t *testing.T) {
	r := newRig(t)
	c, err := OpenControl(r.loop, ControlConfig{Bundle: r.dir, Warn: r.warn})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 100 {
		write(t, r.dir+"/ctl", strings.Repeat("1 24 80\n", 100))
		quietSoon(t, r)
	}
	if len(r.warnings) != 0 {
		t.Errorf("warned of %q", r.warnings[0])
	}
}

// A successor finds FIFOs, or whatever else is in their place.
func TestFIFOsAreMadeAnew(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(r.dir+"/winsz", []byte("1 1\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", r.dir+"/ctl"); err != nil {
		t.Fatal(err)
	}
	before := openFDs(t)
	for range 3 {
		c := r.control(nil)
		for _, name := range []string{"ctl", "winsz"} {
			info, err := os.Lstat(r.dir + "/" + name)
			if err != nil || info.Mode()&os.ModeType != os.ModeNamedPipe || info.Mode().Perm()&^0o660 != 0 {
				t.Errorf("%s: %v %v", name, info.Mode(), err)
			}
		}
		c.Close()
		c.Close()
	}
	if n := openFDs(t); n != before {
		t.Errorf("%d descriptors leak", n-before)
	}
	_, err := OpenControl(r.loop, ControlConfig{Bundle: "/nonexistent"})
	if err == nil || err.Error() != "Failed to mkfifo at /nonexistent/ctl: no such file or directory" {
		t.Errorf("%v", err)
	}
}

// Lines are the same however they are cut into reads, and as if the text were
// split at its newlines.
func FuzzControl(f *testing.F) {
	f.Add([]byte("1 2 3\n2 0 0\n"), 3)
	f.Add([]byte("1 24 80\n"+strings.Repeat("#", 500)+"\n1 1 1\n1"), 7)
	f.Add([]byte(strings.Repeat("#", maxLine)+"\nx"), maxLine)
	f.Add([]byte(strings.Repeat("#", maxLine-1)+"\nx"), 1)
	f.Fuzz(func(t *testing.T, text []byte, step int) {
		step = max(1, min(step, maxLine))
		var l lines
		var got [][]byte
		tooLong := 0
		take := func(line []byte) { got = append(got, bytes.Clone(line)) }
		for rest := text; len(rest) > 0; {
			room := l.room()
			if len(room) == 0 {
				t.Fatal("no room to read to")
			}
			n := copy(room, rest[:min(step, len(rest))])
			if l.add(n, take) {
				tooLong++
			}
			rest = rest[n:]
		}
		var want [][]byte
		wantTooLong := 0
		parts := bytes.Split(text, []byte("\n"))
		for i, part := range parts {
			whole := i < len(parts)-1
			if len(part) >= maxLine {
				wantTooLong++
			} else if whole {
				want = append(want, part)
			}
		}
		if !slices.EqualFunc(got, want, bytes.Equal) || tooLong != wantTooLong {
			t.Errorf("%q by %d: lines %q and %d too long, want %q and %d", text, step, got, tooLong, want, wantTooLong)
		}
		// No line brings anything down, or makes a terminal of an impossible size.
		c := &Control{term: -1, cfg: ControlConfig{Terminal: true, Warn: func(string) {}}}
		for _, line := range got {
			c.ctl(line)
			c.winsz(line)
			if c.height < 0 || c.height > maxSide || c.width < 0 || c.width > maxSide {
				t.Errorf("%q: size %dx%d", line, c.height, c.width)
			}
		}
	})
}

// A caller that waits in the open of a dead supervisor's FIFO is heard by the
// successor.
func TestControlOfASuccessor(t *testing.T) {
	r := newRig(t)
	path := r.dir + "/ctl"
	if err := unix.Mkfifo(path, 0o660); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error)
	go func() {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_, err = file.WriteString("2 0 0\n")
			file.Close()
		}
		opened <- err
	}()
	// It is to be in its open(2) before the successor comes; a kernel that does not
	// say what a thread waits for makes it a shorter test.
	for deadline := time.Now().Add(5 * time.Second); !waitsForReader() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	reopened := false
	c, err := OpenControl(r.loop, ControlConfig{Bundle: r.dir, Keep: true, Reopen: func() { reopened = true }, Warn: r.warn})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	select {
	case err := <-opened:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the caller still waits for a reader")
	}
	r.until("the log is reopened", func() bool { return reopened })

	// What is no FIFO gives way, as before.
	os.Remove(r.dir + "/winsz")
	os.WriteFile(r.dir+"/winsz", nil, 0o600)
	again, err := OpenControl(r.loop, ControlConfig{Bundle: r.dir, Keep: true, Warn: r.warn})
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// waitsForReader reports whether a thread is in the open(2) of a FIFO.
func waitsForReader() bool {
	paths, _ := filepath.Glob("/proc/self/task/*/wchan")
	for _, path := range paths {
		if text, _ := os.ReadFile(path); bytes.Contains(text, []byte("partner")) || bytes.Contains(text, []byte("fifo_open")) {
			return true
		}
	}
	return false
}
