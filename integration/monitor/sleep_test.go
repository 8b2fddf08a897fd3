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

	"gracerun.io/signals/process"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/slumber"
)

// A supervisor that sleeps. Whatever else is tested here holds for it too:
// GRACEMON_SLEEP=1ms go test ./integration/monitor

// soon has a supervisor sleep as soon as it can.
const soon = "GRACEMON_SLEEP=20ms"

// quiet is a container that says "more" when there is a file of that name, and
// ends at a TERM.
const quiet = `trap 'echo TERM; exit 5' TERM; echo up; while [ ! -e /data/more ]; do sleep 0.05; done; echo more; while :; do sleep 0.05; done`

func (c *container) isAsleep() bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", c.monitor))
	return err == nil && strings.HasPrefix(string(env), slumber.Variable+"=")
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
		if !strings.Contains(string(argv), c.id) {
			t.Errorf("it has the command line %q", argv)
		}
		// For the instant of an execve it is called "exe".
		c.until("it is called gracemon", func() bool {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.monitor))
			return string(name) == "gracemon\n"
		})

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
	var before []process.Identity
	for _, c := range all {
		id, err := process.Identify(c.monitor)
		c.must(err)
		before = append(before, id)
		c.must(unix.Kill(c.monitor, unix.SIGKILL))
	}
	for i, c := range all {
		c.succeeded(before[i])
		c.asleep()
		c.must(unix.Kill(c.monitor, unix.SIGTERM))
	}
	for _, c := range all {
		c.expect("exit file", c.exitFile(), "5")
		c.gone()
		c.expect("the log", strings.Join(c.lines(), ";"), "stdout F up;stdout F TERM")
	}
	if left, _ := filepath.Glob(state + "/[^.]*/*"); len(left) > 0 {
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

// Waking takes processes that the container may have used up. Where it could, the
// supervisor stays awake; where it has, by a limit that came later, the supervisor
// dies as it wakes and has a successor.
func TestSleepTakesProcesses(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	base := "/sys/fs/cgroup/pids"
	if !exists(base) {
		base = "/sys/fs/cgroup"
	}
	parent := fmt.Sprintf("/%s/processes-%d", cgroupParent, os.Getpid())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Skip("no cgroup of processes: ", err)
		}
	}
	must(os.MkdirAll(base+parent+"/monitor", 0o755))
	t.Cleanup(func() { // after the container's
		_ = os.Remove(base + parent + "/monitor")
		_ = os.Remove(base + parent)
	})
	if base == "/sys/fs/cgroup" {
		for _, dir := range []string{"", "/" + cgroupParent, parent} {
			must(os.WriteFile(base+dir+"/cgroup.subtree_control", []byte("+pids"), 0))
		}
	}
	limit := func(n string) { must(os.WriteFile(base+parent+"/pids.max", []byte(n), 0)) }
	limit("40")
	c := ours.container(t, "echo up; read x < /data/one; echo more; read x < /data/two; exit 5") // needs no other process
	for _, name := range []string{"/one", "/two"} {
		c.must(unix.Mkfifo(c.dir+name, 0o666))
	}
	c.spec.Linux.CgroupsPath = parent + "/container"
	c.env = []string{soon}
	c.up()
	// A limit of its own that is higher than the one that both share protects nobody.
	must(os.WriteFile(base+parent+"/container/pids.max", []byte("1000"), 0))
	must(os.WriteFile(base+parent+"/monitor/cgroup.procs", []byte(strconv.Itoa(c.monitor)), 0))
	if c.isAsleep() { // it fell asleep before it was there
		c.wake()
	}
	time.Sleep(300 * time.Millisecond) // time to fall asleep in, if it did
	if c.isAsleep() {
		t.Error("it sleeps where its container may use up all processes")
	}
	limit("max")
	c.asleep()
	limit("1")
	before, err := process.Identify(c.monitor)
	c.must(err)
	c.wake()
	c.succeeded(before)
	c.must(os.WriteFile(c.dir+"/one", []byte("\n"), 0))
	c.says("stdout F more")
	c.must(os.WriteFile(c.dir+"/two", []byte("\n"), 0))
	c.expect("exit file", c.exitFile(), "5")
	c.gone()
}

// wake has it wake up for nothing.
func (c *container) wake() {
	c.t.Helper()
	if conn, err := control.Dial(c.state().FD()); err == nil {
		conn.Close()
	}
}

// Without a keeper nobody would see that one does not wake up.
func TestSleepNeedsAKeeper(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, quiet)
		c.env = []string{soon, "GRACEMON_KEEPER=off"}
		c.up()
		time.Sleep(200 * time.Millisecond) // time to fall asleep in, if it did
		if c.isAsleep() {
			t.Error("it sleeps")
		}
	})
}
