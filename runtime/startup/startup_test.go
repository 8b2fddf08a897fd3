package startup

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

// forked starts a process that waits, and executes the same program again once go is
// called: as a runtime's init would whose container's program is the runtime.
func forked(t *testing.T) (c Container, proceed func()) {
	t.Helper()
	const script = `
		( read line; exec /bin/sh -c 'echo runs; read line' ) <&3 &
		echo $!
		wait`
	cmd := exec.Command("/bin/sh", "-c", script)
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{in}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	lines := bufio.NewReader(said)
	line := func() string {
		text, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(text)
	}
	pid, err := strconv.Atoi(line())
	if err != nil {
		t.Fatal(err)
	}
	init, err := process.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out.Close()
		_, _ = io.Copy(io.Discard, lines)
		_ = cmd.Wait()
		init.Close()
	})
	return Container{Init: init, Pid: pid, Signal: signals.TERM}, func() {
		if _, err := out.WriteString("go\n"); err != nil {
			t.Fatal(err)
		}
		if said := line(); said != "runs" {
			t.Fatalf("it says %q", said)
		}
	}
}

func TestLook(t *testing.T) {
	c, proceed := forked(t)
	dir := t.TempDir()
	expect := func(when string, c Container, want Progress) {
		t.Helper()
		if got := c.Look(); got != want {
			t.Errorf("%s: %d, want %d", when, got, want)
		}
	}
	unknown := c
	expect("of a runtime that is not known", unknown, Waits)
	unknown.Ended = true
	expect("and whose start has ended", unknown, UnderWay)
	unknown.EndedAgo = ExecTimeout
	expect("long ago", unknown, Runs)

	c.Dir = dir
	fifo := filepath.Join(dir, FIFO)
	if err := os.WriteFile(fifo, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect("created", c, Waits)
	if err := os.Remove(fifo); err != nil {
		t.Fatal(err)
	}
	expect("started", c, UnderWay)
	for _, ago := range []time.Duration{ExecTimeout, -time.Hour} {
		at := time.Now().Add(-ago)
		if err := os.Chtimes(dir, at, at); err != nil {
			t.Fatal(err)
		}
		expect("started "+ago.String()+" ago, and executes nothing", c, Runs)
	}

	proceed()
	if err := os.Chtimes(dir, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	expect("its program runs, the same file", c, Runs)
	expect("likewise", Container{Init: c.Init, Pid: c.Pid}, Runs)
	expect("it had executed it at create", Container{Init: c.Init, Pid: c.Pid, Executed: true}, Waits)
	expect("and was started then", Container{Dir: dir, Init: c.Init, Pid: c.Pid, Executed: true}, Runs)
}

// PID 1 of a pid namespace does not hear a signal before it has a handler for it, and
// is given a second for that.
func TestLookAtInit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a pid namespace")
	}
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", "read line; trap : TERM; echo; read line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
	}()
	children := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/task/" + strconv.Itoa(cmd.Process.Pid) + "/children"
	pid := 0
	for pid == 0 {
		text, err := os.ReadFile(children)
		if err != nil {
			t.Fatal(err)
		}
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	init, err := process.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer init.Close()
	for { // until the shell is executed
		if stat, err := init.Stat(pid); err != nil {
			t.Fatal(err)
		} else if !stat.Forked {
			break
		}
	}
	c := Container{Init: init, Pid: pid, Signal: signals.TERM, Ended: true}
	if got := c.Look(); got != UnderWay {
		t.Errorf("without a handler: %d, want %d", got, UnderWay)
	}
	c.EndedAgo = HandlerTimeout
	if got := c.Look(); got != Runs {
		t.Errorf("without a handler, a second later: %d, want %d", got, Runs)
	}
	c.EndedAgo = 0
	c.Signal = signals.KILL
	if got := c.Look(); got != Runs {
		t.Errorf("KILL: %d, want %d", got, Runs)
	}
	c.Signal = signals.TERM
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if got := c.Look(); got != Runs {
		t.Errorf("with a handler: %d, want %d", got, Runs)
	}
}
