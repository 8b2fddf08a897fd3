package crash

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
)

// TestUpgrade has the supervisor of a container that writes as fast as it can, and
// that is being stopped, become another program again and again: the same process,
// with no line lost to the log or to a client, and the deadline kept.
func TestUpgrade(t *testing.T) {
	s := newStack(t, "runc")
	own := *s // with a gracemon of its own, to be replaced
	own.bin = filepath.Join(s.dir, "bin")
	if err := os.Mkdir(own.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gracemon", "gracerun", "writer"} {
		install(t, filepath.Join(s.bin, name), filepath.Join(own.bin, name))
	}
	r := &round{plan: plan{code: 5, after: -time.Millisecond, burst: 30, pause: time.Millisecond, grace: 5 * time.Second}, deaf: true, keeper: true}
	var err error
	if r.container, err = own.make(r.plan); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.remove(); err != nil {
			t.Error(err)
		}
	}()
	if err := r.create("--full-attach"); err != nil {
		t.Fatal(err)
	}
	client := r.attach(t)
	if _, err := r.gracerun("start", r.id); err != nil {
		t.Fatal(err)
	}
	if err := until("its program runs", func() bool { return r.counts().Lines[0] > 0 }); err != nil {
		t.Fatal(err)
	}
	pid, inode := r.supervisor(t)

	var wait sync.WaitGroup
	wait.Go(func() {
		out, _ := r.gracerun("stop", r.id)
		r.answer = strings.TrimSpace(out)
	})
	upgrades := 0
	var longest time.Duration
	for (r.counts().Terms == 0 || upgrades < 5) && len(r.ended) == 0 {
		install(t, filepath.Join(s.bin, "gracemon"), filepath.Join(own.bin, "gracemon"))
		begin := testbed.Now()
		if out, err := r.command("gracemon", "--upgrade", r.stateDir()).CombinedOutput(); err != nil {
			if len(r.ended) > 0 {
				break // too late
			}
			t.Fatalf("gracemon --upgrade: %v: %s", err, out)
		}
		longest = max(longest, testbed.Now()-begin)
		upgrades++
		now, program := r.supervisor(t)
		if now != pid {
			t.Fatalf("the supervisor was process %d and is %d", pid, now)
		}
		if program == inode {
			t.Fatal("it runs the program that it ran before")
		}
		inode = program
	}
	wait.Wait()
	if upgrades == 0 {
		t.Error("there was no upgrade")
	}
	if err := until("the exit is recorded and its exit command was run", func() bool { return exists(r.exit()) && r.commands() > 0 }); err != nil {
		t.Fatal(err)
	}
	r.check()
	for _, p := range r.problems {
		t.Error(p)
	}
	n := r.counts()
	received := <-client
	if got := strings.Count(received, "\n"); uint64(got) < n.Lines[0] {
		t.Errorf("the client received %d lines, %d were written", got, n.Lines[0])
	}
	for i, line := range strings.SplitAfter(received, "\n") {
		if want := lineOf(uint64(i + 1)); line != want && !strings.HasPrefix(want, line) {
			t.Errorf("line %d of the client is %.60q", i+1, line)
			break
		}
	}
	t.Logf("%d upgrades of process %d while it logged %d lines and was stopped; the longest took %s, as a whole process", upgrades, pid, n.Lines[0]+n.Lines[1], longest)
	if t.Failed() {
		t.Logf("%s", r.journal)
	}
}

// install puts a copy of a program in its place, as a package manager does.
func install(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		if err = os.WriteFile(to+".new", text, 0o755); err == nil {
			err = os.Rename(to+".new", to)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// supervisor gives the process of the supervisor and the file it executes. One that
// has just died has a successor in a moment.
func (c *container) supervisor(t *testing.T) (pid int, inode uint64) {
	t.Helper()
	var st unix.Stat_t
	if err := until("it has a supervisor", func() bool {
		text, err := os.ReadFile(c.dir + "/monitor-pid")
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(string(text))
		return err == nil && unix.Stat(fmt.Sprintf("/proc/%d/exe", pid), &st) == nil
	}); err != nil {
		t.Fatal(err)
	}
	return pid, st.Ino
}

// numbered tells one writing of the monitor's number from another: a successor writes the
// same.
func (c *container) numbered(t *testing.T) (st struct {
	inode uint64
	at    unix.Timespec
}) {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(c.dir+"/monitor-pid", &stat); err != nil {
		t.Fatal(err)
	}
	st.inode, st.at = stat.Ino, stat.Mtim
	return st
}

// attach gives what a client receives of stdout until the end.
func (c *container) attach(t *testing.T) <-chan string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := unix.Open(c.dir+"/bundle", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/attach", dir)})
		unix.Close(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan string, 1)
	go func() {
		defer unix.Close(fd)
		var out bytes.Buffer
		buf := make([]byte, 8193)
		for {
			n, err := unix.Read(fd, buf)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n <= 0 {
				received <- out.String()
				return
			}
			if buf[0] == 2 { // stdout
				out.Write(buf[1:n])
			}
		}
	}()
	return received
}

// TestOneSuccessor: many find a supervisor dead at the same time, one goes on.
func TestOneSuccessor(t *testing.T) {
	s := newStack(t, "runc")
	c, err := s.make(plan{code: 5, after: 50 * time.Millisecond, burst: 2, pause: 5 * time.Millisecond, grace: 10 * time.Second,
		env: []string{"GRACEMON_KEEPER=off"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.remove(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.create(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.gracerun("start", c.id); err != nil {
		t.Fatal(err)
	}
	var fastest time.Duration
	for range 5 {
		if !c.killMonitor() {
			t.Fatal("there is no supervisor to kill")
		}
		var all sync.WaitGroup
		for i := range 12 {
			all.Go(func() {
				var err error
				begin := testbed.Now()
				switch i % 3 {
				case 0:
					err = c.recover(c.stateDir())
				case 1:
					err = c.recover("all")
				default:
					_, err = c.gracerun("state", c.id)
				}
				if took := testbed.Now() - begin; i == 0 && (fastest == 0 || took < fastest) {
					fastest = took
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		// Those that found another one at work take a moment to end.
		if err := until("one supervisor looks after the container", func() bool { return c.supervisors() == 1 }); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := c.gracerun("stop", c.id)
	if strings.TrimSpace(out) != "code=5" {
		t.Errorf("stop says %q", out)
	}
	t.Logf("5 supervisors killed, each found dead by 12 at once; the fastest was replaced after %s", fastest)
}

// supervisors counts the processes that have the container's id on their command
// line as gracemon's.
func (c *container) supervisors() (n int) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		text, _ := os.ReadFile(path)
		if bytes.HasPrefix(text, []byte(filepath.Join(c.bin, "gracemon")+"\x00")) && bytes.Contains(text, []byte("\x00"+c.id+"\x00")) {
			n++
		}
	}
	return n
}

// TestTerminal: with a keeper the terminal of a container outlives its supervisor,
// whoever finds that dead first.
func TestTerminal(t *testing.T) {
	s := newStack(t, "runc")
	r := &round{plan: plan{code: 6, after: 100 * time.Millisecond, burst: 3, pause: 2 * time.Millisecond, grace: 10 * time.Second, terminal: true}, keeper: true}
	var err error
	if r.container, err = s.make(r.plan); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.remove(); err != nil {
			t.Error(err)
		}
	}()
	if err := r.create("-t"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.gracerun("start", r.id); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		before := r.counts().Lines[0]
		if err := until("it writes", func() bool { return r.counts().Lines[0] > before+20 }); err != nil {
			t.Fatal(err)
		}
		if !r.killMonitor() {
			t.Fatal("there is no supervisor to kill")
		}
		var callers sync.WaitGroup
		for range 3 { // they find it dead before the keeper has seen to it, or after
			callers.Go(func() {
				if _, err := r.gracerun("state", r.id); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		if err := until("another one goes on", func() bool {
			fd := r.monitor()
			if fd >= 0 {
				fd.Close()
			}
			return fd >= 0
		}); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := r.gracerun("stop", r.id)
	if strings.TrimSpace(out) != "code=6" {
		t.Errorf("stop says %q", out)
	}
	if err := until("the exit is recorded", func() bool { return exists(r.exit()) }); err != nil {
		t.Fatal(err)
	}
	// Both streams are one here. Each is whole and in order; a terminal ends lines with CR and LF.
	text, err := os.ReadFile(r.log())
	if err != nil {
		t.Fatal(err)
	}
	var content strings.Builder
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(line, " ", 4)
		if fields[2] == "P" {
			fields[3] = strings.TrimSuffix(fields[3], "\n")
		}
		content.WriteString(fields[3])
	}
	var seen [2]uint64
	for line := range strings.SplitSeq(strings.TrimSuffix(content.String(), "\r\n"), "\r\n") {
		switch line + "\n" {
		case lineOf(seen[0] + 1):
			seen[0]++
		case lineOf(seen[1] + 1):
			seen[1]++
		default:
			t.Fatalf("after %v lines: %.60q", seen, line)
		}
	}
	n := r.counts()
	if seen[0]+seen[1] != n.Lines[0]+n.Lines[1] {
		t.Errorf("%v lines are in the log, %v were written", seen, n.Lines)
	}
}

// TestStdin: what a client has still to send reaches the container by way of the
// successor, and the container's input does not end in between.
func TestStdin(t *testing.T) {
	s := newStack(t, "runc")
	c, err := s.make(plan{grace: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	c.argv(t, "/writer", "copy")
	defer func() {
		if err := c.remove(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.create("-i", "--full-attach"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.gracerun("start", c.id); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		c.send(t, fmt.Sprintf("line %d\n", i))
		if err := until("the line is in the log", func() bool {
			text, _ := os.ReadFile(c.log())
			return bytes.Contains(text, fmt.Appendf(nil, "line %d\n", i))
		}); err != nil {
			t.Fatal(err)
		}
		before := c.numbered(t)
		c.killMonitor()
		if err := until("another one goes on", func() bool { return c.numbered(t) != before }); err != nil {
			t.Fatal(err)
		}
	}
	if exited, err := c.init.Exited(); exited || err != nil {
		t.Errorf("its input has ended: %v, %v", exited, err)
	}
	c.send(t, "") // the end
	if err := until("it ends with its input", func() bool { return exists(c.exit()) }); err != nil {
		t.Error(err)
	}
}

// send sends a packet to the container's input, as a client that then leaves
// without ending it; an empty one ends it.
func (c *container) send(t *testing.T, text string) {
	t.Helper()
	var fd int
	if err := until("one can attach", func() bool {
		var err error
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0); err != nil {
			return false
		}
		dir, err := unix.Open(c.dir+"/bundle", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/attach", dir)})
			unix.Close(dir)
		}
		if err != nil {
			unix.Close(fd)
		}
		return err == nil
	}); err != nil {
		t.Fatal(err)
	}
	if text == "" {
		unix.Close(fd)
		return
	}
	if err := unix.Send(fd, []byte(text), unix.MSG_NOSIGNAL); err != nil {
		t.Fatal(err)
	}
	c.clients = append(c.clients, fd) // the end of a connection would be the end of the input
}
