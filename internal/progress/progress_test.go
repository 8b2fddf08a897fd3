package progress

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/console"
)

func TestText(t *testing.T) {
	for _, test := range []struct {
		share float64
		live  bool
		gone  time.Duration
		want  string
	}{
		{0.25, true, 10 * time.Second, "[██████··················] 10 s, about 30 s left: 1 of 4 staged"},
		{0.25, false, 10 * time.Second, "10 s, about 30 s left: 1 of 4 staged"},
		{0, false, 5 * time.Second, "5 s: 1 of 4 staged"},
		{-1, true, 61 * time.Second, "1 min 01 s: 1 of 4 staged"},
		{1, false, 2 * time.Hour, "2 h 00 min, about 0 s left: 1 of 4 staged"},
		{0.001, false, 4 * time.Second, "4 s, about 1 h 06 min left: 1 of 4 staged"},
	} {
		l := &Line{live: test.live, share: test.share, note: "1 of 4 staged"}
		if got := l.text(test.gone); got != test.want {
			t.Errorf("%v after %s: %q, want %q", test.share, test.gone, got, test.want)
		}
	}
}

// where is what somebody has written so far, to be read meanwhile.
type where struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *where) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *where) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + " does not come")
		}
	}
}

// What was over in two seconds has said nothing; later the line is there, gives way to
// other text, comes again, and is gone at the end. It is cut to the terminal.
func TestLive(t *testing.T) {
	var out where
	l := start(&out, true, func() int { return 40 }, time.Millisecond)
	l.Count(1, 3, "containers with a rather long name")
	time.Sleep(20 * time.Millisecond)
	if out.String() != "" {
		t.Errorf("after a moment there is %q", out.String())
	}
	l.mu.Lock()
	l.begin = l.begin.Add(-time.Hour)
	l.mu.Unlock()
	await(t, "the line", func() bool { return strings.Contains(out.String(), "1 h 00") })
	l.Aside(func() { _, _ = out.Write([]byte("something else\n")) })
	await(t, "the line after other text", func() bool {
		_, after, found := strings.Cut(out.String(), "\r\x1b[Ksomething else\n")
		return found && strings.Contains(after, "1 h 00")
	})
	l.End()
	l.End()
	text := out.String()
	if !strings.HasSuffix(text, "\r\x1b[K") {
		t.Errorf("at the end the line stands there: %q", text[max(0, len(text)-80):])
	}
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\n", "\r"), "\r") {
		if n := len([]rune(strings.TrimPrefix(line, "\x1b[K"))); n >= 40 {
			t.Errorf("a line of %d characters in a terminal of 40", n)
		}
	}
}

// On a pipe there is a line now and then, without any control character.
func TestPipe(t *testing.T) {
	var out where
	l := start(&out, false, nil, time.Millisecond)
	l.Count(2, 4, "staged")
	for n := range 2 {
		l.mu.Lock()
		l.begin, l.said = l.begin.Add(-time.Hour), l.said.Add(-time.Hour)
		l.mu.Unlock()
		await(t, "a line", func() bool { return strings.Count(out.String(), "\n") == n+1 })
	}
	time.Sleep(20 * time.Millisecond)
	l.End()
	if text := out.String(); strings.Count(text, "\n") != 2 || strings.ContainsAny(text, "\r\x1b█") || !strings.HasPrefix(text, "1 h 00 min, about 1 h 00 min left: 2 of 4 staged\n") {
		t.Errorf("%q", text)
	}
}

func TestNobody(t *testing.T) {
	var l *Line
	l.Set(0, "nothing")
	printed := false
	l.Aside(func() { printed = true })
	l.End()
	if !printed {
		t.Error("what is printed aside is lost")
	}
}

// TestMain is also a program with a terminal: see TestTerminal.
func TestMain(m *testing.M) {
	if os.Getenv("GRACERUN_PROGRESS_TEST") == "" {
		os.Exit(m.Run())
	}
	l := Start(os.Stderr)
	l.begin = l.begin.Add(-time.Minute)
	l.Count(1, 2, "done")
	time.Sleep(3 * redraw)
	l.End()
}

// A real terminal gets one line that is rewritten, no wider than it is.
func TestTerminal(t *testing.T) {
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := master.Resize(console.WinSize{Height: 24, Width: 30}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "GRACERUN_PROGRESS_TEST=1")
	cmd.Stderr = slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	var text strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf) // EIO: nobody has the other end any more
		text.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := text.String(); strings.Contains(got, "\n") || !strings.HasPrefix(got, "\r\x1b[K[████████████············] 1 ") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("the terminal got %q", got)
	}
}
