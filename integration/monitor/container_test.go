package monitor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/control"
)

// patience is how long anything may take before the test gives up. Nothing here
// takes a tenth of it.
const patience = 60 * time.Second

// cgroupParent is above the cgroups of all containers here.
const cgroupParent = "gracemon-test"

// A container is one container of a stack, or one exec in it, and what its
// manager sees of it.
type container struct {
	t      *testing.T
	stack  *stack
	spec   *specs.Spec
	id     string
	dir    string // everything of it
	bundle string
	root   string // of the runtime's state
	exits  string
	log    string

	runtime string   // if it is not the stack's
	args    []string // of the monitor, besides what all have
	env     []string
	files   []*os.File // for the monitor, from descriptor 3 on

	monitor int // process number of the daemon
	stderr  string
	sync    *bufio.Reader
	pipe    *os.File
	pidFile string     // if it is not where common has it
	inside  *container // an exec's: in which one
	number  int        // an exec's: which one
}

var counter atomic.Int64

func (s *stack) container(t *testing.T, script string) *container {
	t.Helper()
	c := &container{t: t, stack: s, dir: t.TempDir()}
	c.id = fmt.Sprintf("gracemon-test-%d-%d", os.Getpid(), counter.Add(1))
	c.bundle, c.root = c.dir+"/bundle", c.dir+"/root"
	c.exits, c.log = c.dir+"/exits", c.dir+"/log"
	for _, dir := range []string{c.bundle, c.root, c.exits, c.dir + "/persist", c.dir + "/sockets"} {
		c.must(os.MkdirAll(dir, 0o755))
	}
	c.must(testbed.Rootfs(c.bundle + "/rootfs"))
	c.spec = testbed.Spec("/"+cgroupParent+"/"+c.id, "/bin/sh", "-c", script)
	c.spec.Mounts = append(c.spec.Mounts,
		specs.Mount{Destination: "/data", Type: "bind", Source: c.dir, Options: []string{"bind", "rw"}},
		specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}})
	t.Cleanup(c.remove)
	return c
}

func (c *container) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// common are the arguments that Podman and CRI-O both give.
func (c *container) common() []string {
	return []string{
		"-c", c.id, "-u", c.id, "-n", "name-" + c.id, "-b", c.bundle, "-r", c.runtimePath(), "--runtime-arg", "--root=" + c.root,
		"-p", c.dir + "/pidfile", "-P", c.dir + "/conmon-pidfile", "-l", "k8s-file:" + c.log, "--exit-dir", c.exits,
		"--persist-dir", c.dir + "/persist", "--socket-dir-path", c.dir + "/sockets", "--log-level", "debug",
	}
}

func (c *container) runtimePath() string {
	if c.runtime != "" {
		return c.runtime
	}
	return c.stack.runtime
}

// create has the monitor create the container, up to the end of its foreground,
// whose exit status it gives.
func (c *container) create(args ...string) int {
	c.t.Helper()
	text, err := json.Marshal(c.spec)
	c.must(err)
	c.must(os.WriteFile(c.bundle+"/config.json", text, 0o644))
	return c.start(append(append(c.common(), c.args...), args...)...)
}

// start starts the monitor with the pipes of a manager, and gives leave to begin.
func (c *container) start(args ...string) int {
	c.t.Helper()
	reader, writer, err := os.Pipe()
	c.must(err)
	go_, leave, err := os.Pipe()
	c.must(err)
	c.pipe, c.sync = reader, bufio.NewReader(reader)
	c.t.Cleanup(func() { reader.Close() })
	// A file, for the daemon may keep it.
	stderr, err := os.Create(c.dir + "/stderr." + strconv.Itoa(c.number))
	c.must(err)
	cmd := c.stack.command(c.bundle, c.stack.monitor, args...)
	cmd.Env = append(append(os.Environ(), "GRACERUN_STATE_DIR="+c.dir+"/state",
		fmt.Sprint("_OCI_SYNCPIPE=", 3+len(c.files)), fmt.Sprint("_OCI_STARTPIPE=", 4+len(c.files))), c.env...)
	cmd.ExtraFiles = append(append([]*os.File{}, c.files...), writer, go_)
	cmd.Stdout, cmd.Stderr = stderr, stderr
	c.must(cmd.Start())
	writer.Close()
	go_.Close()
	_, err = leave.Write([]byte{0})
	c.must(err)
	leave.Close()
	err = cmd.Wait()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		c.t.Fatal(err)
	}
	said, err := os.ReadFile(stderr.Name())
	c.must(err)
	c.stderr = string(said)
	stderr.Close()
	if text, err := os.ReadFile(c.dir + "/conmon-pidfile"); err == nil && c.monitor == 0 {
		c.monitor, _ = strconv.Atoi(string(text))
	}
	return cmd.ProcessState.ExitCode()
}

// message waits for the next line on the sync pipe. Numbers of processes are
// replaced by PID.
func (c *container) message() string {
	c.t.Helper()
	c.must(c.pipe.SetReadDeadline(time.Now().Add(patience)))
	line, err := c.sync.ReadString('\n')
	if err == io.EOF && line == "" {
		return "EOF"
	}
	c.must(err)
	if text, err := os.ReadFile(c.pidfile()); err == nil && len(text) > 0 {
		line = strings.Replace(line, ": "+string(text)+"}", ": PID}", 1)
	}
	return strings.TrimSuffix(line, "\n")
}

func (c *container) pidfile() string {
	if c.inside != nil {
		return fmt.Sprintf("%s/pidfile.%d", c.dir, c.number)
	}
	if c.pidFile != "" {
		return c.pidFile
	}
	return c.dir + "/pidfile"
}

// pid is that of init.
func (c *container) pid() int {
	c.t.Helper()
	text, err := os.ReadFile(c.pidfile())
	c.must(err)
	pid, err := strconv.Atoi(string(text))
	c.must(err)
	return pid
}

// created creates and expects success.
func (c *container) created(args ...string) {
	c.t.Helper()
	if code := c.create(args...); code != 0 {
		c.t.Fatalf("exit status %d: %s", code, c.stderr)
	}
	if message := c.message(); message != `{"pid": PID}` && message != `{"data": PID}` {
		said, _ := os.ReadFile(c.dir + "/stderr." + strconv.Itoa(c.number))
		c.t.Fatalf("the sync pipe says %s; monitor %d runs: %v; stderr: %s", message, c.monitor, running(c.monitor), said)
	}
}

// started creates and starts.
func (c *container) started(args ...string) {
	c.t.Helper()
	c.created(args...)
	c.call("start", c.id)
}

// call calls the runtime, and expects success.
func (c *container) call(args ...string) string {
	c.t.Helper()
	cmd := c.stack.command(c.bundle, c.runtimePath(), append([]string{"--root", c.root}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("%v: %v: %s", args, err, said.String())
	}
	return out.String()
}

// exec has the monitor run a script in the container. Its own messages come on
// the sync pipe of what this gives.
func (c *container) exec(script string, args ...string) (*container, int) {
	c.t.Helper()
	e := *c
	e.number = int(counter.Add(1))
	e.inside, e.log, e.monitor = c, fmt.Sprintf("%s/log.%d", c.dir, e.number), 0
	process := *c.spec.Process
	process.Args = []string{"/bin/sh", "-c", script}
	process.Terminal = contains(args, "-t")
	text, err := json.Marshal(process)
	c.must(err)
	spec := fmt.Sprintf("%s/process.%d", c.dir, e.number)
	c.must(os.WriteFile(spec, text, 0o644))
	code := e.start(append([]string{
		"-c", c.id, "-r", c.runtimePath(), "--runtime-arg", "--root=" + c.root, "-e", "--exec-process-spec", spec,
		"-p", e.pidfile(), "-l", e.log, "--log-level", "error",
	}, args...)...)
	return &e, code
}

func contains(list []string, word string) bool {
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

// lines are those of the log, without their times.
func (c *container) lines() []string {
	c.t.Helper()
	text, err := os.ReadFile(c.log)
	c.must(err)
	var lines []string
	for line := range strings.Lines(string(text)) {
		at, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			c.t.Errorf("log line %q does not begin with a time", line)
		}
		lines = append(lines, rest)
	}
	return lines
}

func (c *container) says(line string) {
	c.t.Helper()
	c.until(fmt.Sprintf("the log has %q", line), func() bool {
		text, _ := os.ReadFile(c.log)
		return strings.Contains(string(text), " "+line+"\n")
	})
}

func (c *container) until(what string, holds func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain until %s\nstderr: %s", what, c.stderr)
		}
	}
}

// exitFile waits for the exit file and gives what is in it.
func (c *container) exitFile() string {
	c.t.Helper()
	var text []byte
	c.until("there is an exit file", func() bool {
		var err error
		text, err = os.ReadFile(filepath.Join(c.exits, c.id))
		return err == nil
	})
	return string(text)
}

// gone waits until the monitor's process has ended.
func (c *container) gone() {
	c.t.Helper()
	c.until("the monitor has ended", func() bool { return !running(c.monitor) })
}

// running reports whether there is such a process that is no zombie.
func running(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	stat, err := process.ParseStat(text)
	return err == nil && stat.State != process.Zombie && stat.State != process.Dead
}

// remove leaves nothing behind, whatever the test has done.
func (c *container) remove() {
	if c.inside != nil {
		return
	}
	for range 100 {
		cmd := c.stack.command("/", c.stack.runtime, "--root", c.root, "delete", "--force", c.id)
		if out, err := cmd.CombinedOutput(); err == nil || bytes.Contains(out, []byte("does not exist")) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	// Its number may be another's by now.
	mine := func() bool {
		argv, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.monitor))
		return bytes.Contains(argv, []byte("\x00"+c.id+"\x00"))
	}
	for deadline := time.Now().Add(5 * time.Second); c.monitor > 0 && running(c.monitor) && mine(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Errorf("monitor %d still runs; it is killed", c.monitor)
			_ = unix.Kill(c.monitor, unix.SIGKILL)
			break
		}
	}
}

// --- the control socket

// state opens the state directory.
func (c *container) state() *statedir.Dir {
	c.t.Helper()
	c.t.Setenv("GRACERUN_STATE_DIR", c.dir+"/state")
	dir, err := statedir.Open(c.root, c.id)
	c.must(err)
	c.t.Cleanup(func() { dir.Close() })
	return dir
}

func (c *container) dial() control.Conn {
	c.t.Helper()
	conn, err := control.Dial(c.state().FD())
	c.must(err)
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// ask makes a request on a connection of its own and gives the reply in words.
func (c *container) ask(request string) string {
	c.t.Helper()
	return c.askOn(c.dial(), request)
}

func (c *container) askOn(conn control.Conn, request string) string {
	c.t.Helper()
	r, err := control.ParseRequest(request)
	c.must(err)
	reply, err := conn.Ask(r, patience)
	c.must(err)
	return string(reply.Append(nil))
}

// journal gives the events and effects that the journal has.
func (c *container) journal() string {
	c.t.Helper()
	text, err := c.state().ReadFile("journal")
	c.must(err)
	return string(text)
}
