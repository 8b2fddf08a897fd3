package crash

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
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
	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

// limit is how long anything may take that takes milliseconds when all is well.
const limit = 60 * time.Second

// stack is what the containers of the test run on.
type stack struct {
	bin       string // programs of this tree, and writer
	dir       string
	rootfs    string
	state     string // GRACERUN_STATE_DIR
	runtime   string // beneath gracerun
	namespace string // of mounts, "" for this one
}

// container is one container, and what it has gone through.
type container struct {
	*stack
	id     string
	dir    string
	env    []string
	pid    int
	init   process.Pidfd
	ended  chan time.Duration // when init has exited, once
	killed int                // supervisors

	clients []int // connections to the attach socket that stay open
}

var counter atomic.Int64

// plan is what a container does and what is done to it.
type plan struct {
	code     int           // with which it exits by itself
	after    time.Duration // how long it goes on after SIGTERM; negative: until it is killed
	burst    int
	pause    time.Duration
	most     int // lines before it is stopped; 0: no limit
	grace    time.Duration
	env      []string
	terminal bool
	policy   string
}

func (s *stack) make(p plan) (*container, error) {
	c := &container{stack: s, id: fmt.Sprintf("crash-%d-%d", os.Getpid(), counter.Add(1)), init: -1}
	c.dir = filepath.Join(s.dir, c.id)
	for _, d := range []string{"bundle", "io", "exits", "persist", "attach"} {
		if err := os.MkdirAll(filepath.Join(c.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	c.env = append(os.Environ(), "GRACERUN_STATE_DIR="+s.state, "GRACERUN_RUNTIME="+s.runtime)
	c.env = append(c.env, p.env...)
	spec := testbed.Spec("/gracecrash/"+c.id, "/writer", "write", strconv.Itoa(p.code), strconv.Itoa(int(p.after.Milliseconds())),
		strconv.Itoa(p.burst), strconv.Itoa(int(p.pause.Milliseconds())), strconv.Itoa(p.most))
	spec.Root.Path = s.rootfs
	spec.Root.Readonly = true
	spec.Process.Terminal = p.terminal
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/io", Type: "bind", Source: c.dir + "/io", Options: []string{"bind", "rw"}})
	if p.terminal {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}})
	}
	spec.Annotations = map[string]string{"io.gracerun.grace": p.grace.String()}
	if p.policy != "" {
		config := c.dir + "/config.toml"
		if err := os.WriteFile(config, []byte("[stop]\npolicy = \""+p.policy+"\"\n"), 0o644); err != nil {
			return nil, err
		}
		c.env = append(c.env, "GRACERUN_CONFIG="+config)
	}
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(c.dir+"/bundle/config.json", text, 0o644)
	}
	return c, err
}

// command gives a call of a program of ours in the stack's namespace.
func (c *container) command(program string, args ...string) *exec.Cmd {
	argv := append([]string{filepath.Join(c.bin, program)}, args...)
	if c.namespace != "" {
		argv = append([]string{"nsenter", "--mount=" + c.namespace, "--wdns=" + c.dir + "/bundle"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = c.dir+"/bundle", c.env, time.Second
	return cmd
}

func (c *container) root() string  { return c.dir + "/root" }
func (c *container) log() string   { return c.dir + "/log" }
func (c *container) exit() string  { return c.dir + "/exits/" + c.id }
func (c *container) notes() string { return c.dir + "/commands" }
func (c *container) stateDir() string {
	key, err := statedir.Key(c.root())
	if err != nil {
		panic(err)
	}
	return filepath.Join(c.state, key, c.id)
}

// errNoAnswer: the supervisor died before it could say what became of the create.
var errNoAnswer = errors.New("the sync pipe ended without a word")

// create creates the container as CRI-O does.
func (c *container) create(more ...string) error {
	sync, syncChild, err := os.Pipe()
	if err != nil {
		return err
	}
	defer sync.Close()
	args := []string{
		"-b", c.dir + "/bundle", "-c", c.id, "-u", c.id, "-n", c.id, "-r", filepath.Join(c.bin, "gracerun"),
		"--runtime-arg", "--root=" + c.root(), "-l", "k8s-file:" + c.log(), "--exit-dir", c.dir + "/exits", "--persist-dir", c.dir + "/persist",
		"-P", c.dir + "/monitor-pid", "-p", c.dir + "/pid", "--socket-dir-path", c.dir + "/attach", "--no-sync-log",
		"--exit-command", filepath.Join(c.bin, "writer"), "--exit-command-arg", "note", "--exit-command-arg", c.notes(),
	}
	cmd := c.command("gracemon", append(args, more...)...)
	cmd.Env = append(cmd.Env, "_OCI_SYNCPIPE=3")
	cmd.ExtraFiles = []*os.File{syncChild}
	var said bytes.Buffer
	cmd.Stderr = &said
	err = cmd.Run()
	syncChild.Close()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("gracemon: %w: %s", err, said.String())
	}
	var answer struct {
		Pid     int
		Message string
	}
	_ = sync.SetReadDeadline(time.Now().Add(limit))
	if err := json.NewDecoder(sync).Decode(&answer); err != nil {
		return errNoAnswer
	}
	if answer.Pid <= 0 {
		return fmt.Errorf("create failed: %s", answer.Message)
	}
	c.pid = answer.Pid
	if c.init, err = process.Open(c.pid); err != nil {
		return err
	}
	c.ended = make(chan time.Duration, 1)
	go func() {
		if exited, err := c.init.Wait(-1); exited && err == nil {
			c.ended <- testbed.Now()
		}
	}()
	return nil
}

// gracerun calls gracerun.
func (c *container) gracerun(args ...string) (string, error) {
	cmd := c.command("gracerun", append([]string{"--root", c.root()}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("gracerun %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return string(out), err
}

// recover calls gracemon --recover.
func (c *container) recover(where string) error {
	if out, err := c.command("gracemon", "--recover", where).CombinedOutput(); err != nil {
		return fmt.Errorf("gracemon --recover %s: %w: %s", where, err, out)
	}
	return nil
}

// monitor opens the supervisor that looks after the container now; -1 if there is
// none, or its number is not its own any more.
func (c *container) monitor() process.Pidfd {
	text, err := os.ReadFile(c.dir + "/monitor-pid")
	if err != nil {
		return -1
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return -1
	}
	fd, err := process.Open(pid)
	if err != nil {
		return -1
	}
	if cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); !bytes.Contains(cmdline, []byte("\x00"+c.id+"\x00")) {
		fd.Close()
		return -1
	}
	return fd
}

// killMonitor kills the supervisor, and reports whether there was one alive.
func (c *container) killMonitor() bool {
	fd := c.monitor()
	if fd < 0 {
		return false
	}
	defer fd.Close()
	if exited, err := fd.Exited(); exited || err != nil {
		return false
	}
	if fd.Send(signals.KILL) != nil {
		return false
	}
	_, _ = fd.Wait(limit)
	c.killed++
	return true
}

// until waits for a condition.
func until(what string, holds func() bool) error {
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("waited in vain until %s", what)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// counts is what the container knows of itself.
type counts struct {
	Lines   [2]uint64
	Terms   uint64
	HeardAt uint64
}

func (c *container) counts() (n counts) {
	text, err := os.ReadFile(c.dir + "/io/counts")
	if err != nil || len(text) < 32 {
		return n
	}
	for i, word := range []*uint64{&n.Lines[0], &n.Lines[1], &n.Terms, &n.HeardAt} {
		*word = binary.NativeEndian.Uint64(text[8*i:])
	}
	return n
}

// argv has the container run something else.
func (c *container) argv(t *testing.T, argv ...string) {
	t.Helper()
	path := c.dir + "/bundle/config.json"
	var spec specs.Spec
	text, err := os.ReadFile(path)
	if err == nil {
		if err = json.Unmarshal(text, &spec); err == nil {
			spec.Process.Args = argv
			if text, err = json.Marshal(spec); err == nil {
				err = os.WriteFile(path, text, 0o644)
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// commands is how often the exit command was run.
func (c *container) commands() int {
	text, _ := os.ReadFile(c.notes())
	return bytes.Count(text, []byte("run\n"))
}

// remove ends whatever is left of the container.
func (c *container) remove() error {
	for _, fd := range c.clients {
		unix.Close(fd)
	}
	_, err := c.gracerun("delete", "--force", c.id)
	if c.init >= 0 {
		_ = c.init.Send(signals.KILL)
		_, _ = c.init.Wait(limit)
	}
	if fd := c.monitor(); fd >= 0 {
		if ended, _ := fd.Wait(5 * time.Second); !ended {
			_ = fd.Send(signals.KILL)
			err = errors.Join(err, errors.New("its supervisor does not end"))
		}
		fd.Close()
	}
	for _, pattern := range []string{"/sys/fs/cgroup/gracecrash/", "/sys/fs/cgroup/*/gracecrash/"} {
		found, _ := filepath.Glob(pattern + c.id)
		for _, dir := range found {
			_ = unix.Rmdir(dir)
		}
	}
	return err
}
