package monitor

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/control"
)

// A supervisor that sleeps. Whatever else is tested here holds for it too:
// GRACEMON_SLEEP=1ms go test ./integration/monitor

// soon has a supervisor sleep as soon as it can.
const soon = "GRACEMON_SLEEP=20ms"

// quiet is a container that says "more" when there is a file of that name, and
// ends at a TERM.
const quiet = `trap 'echo TERM; exit 5' TERM; echo up; while [ ! -e /data/more ]; do sleep 0.05; done; echo more; while :; do sleep 0.05; done`

func (c *container) isAsleep() bool {
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.monitor))
	return err == nil && strings.HasPrefix(program, "/memfd:")
}

func (c *container) asleep() {
	c.t.Helper()
	c.until("its supervisor sleeps", c.isAsleep)
}

func TestSleepIsNotNoticed(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, quiet)
		c.env = []string{soon}
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		c.must(err)
		port, err := listener.(*net.TCPListener).File()
		c.must(err)
		address := listener.Addr().String()
		listener.Close()
		c.files = []*os.File{port}
		c.created(c.exitCommand()...)
		port.Close()
		c.asleep()
		c.call("start", c.id)
		c.says("stdout F up")

		c.asleep()
		conn, err := control.Dial(c.state().FD())
		c.must(err)
		c.expect("state", c.askOn(conn, "state"), fmt.Sprintf("state status=running pid=%d phase=running", c.pid()))
		conn.Close()
		if !running(c.monitor) {
			t.Error("it is another process now")
		}
		argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.monitor))
		c.must(err)
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.monitor))
		c.must(err)
		if !strings.Contains(string(argv), c.id) || string(name) != "gracemon\n" {
			t.Errorf("it is called %q and has the command line %q", name, argv)
		}

		c.asleep()
		client, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: c.dir + "/sockets/" + c.id + "/attach", Net: "unixpacket"})
		c.must(err)
		defer client.Close()
		c.must(os.WriteFile(c.dir+"/more", nil, 0o644))
		c.must(client.SetReadDeadline(time.Now().Add(patience)))
		var packet [8193]byte
		n, err := client.Read(packet[:])
		c.must(err)
		c.expect("what a client gets that came in its sleep", string(packet[:n]), "\x02more\n")
		c.says("stdout F more")

		c.asleep() // and the client stays
		c.must(unix.Kill(c.monitor, unix.SIGTERM))
		n, err = client.Read(packet[:])
		c.must(err)
		c.expect("what it gets later", string(packet[:n]), "\x02TERM\n")
		c.expect("exit file", c.exitFile(), "5")
		l, err := net.Listen("tcp4", address)
		if err != nil {
			t.Errorf("the port is not free when the exit file is there: %v", err)
		} else {
			l.Close()
		}
		c.gone()
		if c.exitCommandSaw() == "" {
			t.Error("the exit command has not run")
		}
		c.expect("the log", strings.Join(c.lines(), ";"), "stdout F up;stdout F more;stdout F TERM")
	})
}

// What has begun is seen to the end: a grace period in one piece, an end of the
// container that nobody has asked for.
func TestSleepEndsWithTheContainer(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, deaf)
		c.env = []string{soon}
		c.up()
		c.asleep()
		begin := time.Now()
		c.ask("stop grace=700ms")
		if took := time.Since(begin); took < 700*time.Millisecond {
			t.Errorf("its grace period of 700ms took %v", took)
		}
		c.expect("exit file", c.exitFile(), "137")
		c.says("stdout F TERM 1")

		d := s.container(t, quiet)
		d.env = []string{soon}
		d.up()
		d.asleep()
		d.must(unix.Kill(d.pid(), unix.SIGKILL))
		d.expect("exit file", d.exitFile(), "137")
		d.gone()
	})
}

// The figures of docs/gracemon.md, and that each has a successor when it is killed
// in its sleep.
func TestManyAsleep(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	state := t.TempDir()
	var all []*container
	for range 30 {
		c := ours.container(t, quiet)
		c.env = []string{soon, "GRACERUN_STATE_DIR=" + state}
		c.up()
		all = append(all, c)
	}
	kib := 0
	for _, c := range all {
		c.asleep()
		kib += c.pss()
	}
	t.Logf("%d supervisors asleep take %d KiB", len(all), kib)
	if each := kib / len(all); each > 24 {
		t.Errorf("a supervisor asleep takes %d KiB", each)
	}
	for _, c := range all {
		c.must(unix.Kill(c.monitor, unix.SIGKILL))
	}
	for _, c := range all {
		dead := c.monitor
		c.until("there is a successor", func() bool {
			text, _ := os.ReadFile(c.dir + "/conmon-pidfile")
			c.monitor, _ = strconv.Atoi(string(text))
			return c.monitor != dead && c.monitor != 0
		})
		c.asleep()
		c.must(unix.Kill(c.monitor, unix.SIGTERM))
	}
	for _, c := range all {
		c.expect("exit file", c.exitFile(), "5")
		c.gone()
		c.expect("the log", strings.Join(c.lines(), ";"), "stdout F up;stdout F TERM")
	}
	if left, _ := filepath.Glob(state + "/*/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// pss gives the KiB that the monitor has, with its part of what it shares.
func (c *container) pss() (kib int) {
	c.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", c.monitor))
	c.must(err)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[0] == "Pss:" {
			kib, err = strconv.Atoi(fields[1])
			c.must(err)
		}
	}
	return kib
}
