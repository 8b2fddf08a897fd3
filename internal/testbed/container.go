package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/settings"
	"gracerun.io/timeline"
)

// Patience is how long anything may take that takes milliseconds when all is
// well: creating, starting, the end of a container whose grace is over.
const Patience = 60 * time.Second

// Now is CLOCK_MONOTONIC, on which everything here is measured.
func Now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}

// Options say what container is wanted.
type Options struct {
	Workload string        // a script for sh; it has say TEXT, and /data to write to
	Grace    time.Duration // of the pod
	Policy   string        // of ours: "observe", "delegate", "enforce"; "": the default
	HostPID  bool          // without a pid namespace of its own
	Memory   int64         // limit in bytes; 0: none
	Env      []string      // for monitor and runtime, in addition

	// Trouble is before the runtime that does the work: the stock one, or the one
	// that gracerun wraps.
	Trouble *Trouble
	// CallerTrouble is before the runtime that the manager calls: the stock one,
	// or gracerun.
	CallerTrouble *Trouble
	// SlowMonitor is how long each setsid(2) of the monitor takes: a node under
	// load, at the instant between the monitor's two stages.
	SlowMonitor time.Duration
}

// Container is one container of a stack.
type Container struct {
	Options
	ID   string
	Data string // the directory that the container sees as /data
	Log  string // its log, in the k8s-file format
	Exit string // its exit file

	stack   *Stack
	foreign *Foreign // of a container that a real CRI-O makes
	dir     string   // everything of it
	bundle  string
	root    string // of the runtime's state
	runtime string // as monitor and manager call it
	called  string // as the manager calls it
	env     []string

	Pid       int           // init; 0 before create has answered
	Init      process.Pidfd // of init
	startTime uint64
	ended     chan struct{} // closed when init has exited,
	endedAt   time.Duration // which was then
	status    *int          // how, once the container is removed

	mu         sync.Mutex
	monitorPid int
	monitor    process.Pidfd
	story      timeline.Timeline // what the managers and others did
}

var counter atomic.Int64

// New makes what a container needs, beneath dir; nothing runs yet.
func (s *Stack) New(dir string, o Options) (*Container, error) {
	if s.Missing != "" {
		return nil, errors.New(s.Missing)
	}
	c := &Container{Options: o, stack: s, Init: -1, monitor: -1}
	c.ID = fmt.Sprintf("gracelab-%d-%d", os.Getpid(), counter.Add(1))
	c.dir = filepath.Join(dir, c.ID)
	c.bundle, c.Data = filepath.Join(c.dir, "bundle"), filepath.Join(c.dir, "data")
	c.root, c.Log = filepath.Join(c.dir, "root"), filepath.Join(c.dir, "log")
	c.Exit = filepath.Join(c.dir, "exits", c.ID)
	for _, d := range []string{c.bundle, c.Data, c.root, c.dir + "/exits", c.dir + "/persist", c.dir + "/attach", c.dir + "/state"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	c.runtime = s.Runtime
	c.env = append(os.Environ(), o.Env...)
	if err := c.configure(); err != nil {
		return nil, err
	}
	if err := c.layTrouble(); err != nil {
		return nil, err
	}
	return c, c.writeBundle()
}

// configure writes what the owner of the node says about policies.
func (c *Container) configure() error {
	if !c.stack.Ours() || c.Policy == "" {
		return nil
	}
	path := c.dir + "/config.toml"
	c.env = append(c.env, settings.Variable+"="+path)
	return os.WriteFile(path, []byte("[stop]\npolicy = \""+c.Policy+"\"\n"), 0o644)
}

// layTrouble puts the scripts in place that make calls fail.
func (c *Container) layTrouble() (err error) {
	beneath := c.stack.Runtime
	if c.stack.Ours() {
		beneath = c.stack.Wrapped
	}
	if c.Trouble != nil {
		if beneath, err = c.Trouble.wrap(c.dir, "troubled-runtime", beneath); err != nil {
			return err
		}
	}
	if c.stack.Ours() {
		c.env = append(c.env, "GRACERUN_RUNTIME="+beneath, "GRACERUN_STATE_DIR="+c.dir+"/state")
	} else {
		c.runtime = beneath
	}
	c.called = c.runtime
	if c.CallerTrouble != nil {
		c.called, err = c.CallerTrouble.wrap(c.dir, "troubled-call", c.runtime)
	}
	return err
}

// Note adds a mark to the container's story.
func (c *Container) Note(lane timeline.Lane, kind timeline.Kind, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.story.Add(Now(), lane, kind, fmt.Sprintf(format, args...))
}

// Create creates the container through its monitor, as CRI-O does
// (internal/oci/runtime_oci.go, CreateContainer).
func (c *Container) Create(ctx context.Context) error {
	sync, syncChild, err := os.Pipe()
	if err != nil {
		return err
	}
	defer sync.Close()
	defer syncChild.Close()
	startChild, start, err := os.Pipe()
	if err != nil {
		return err
	}
	defer start.Close()
	defer startChild.Close()
	told := CRIOArgs{
		ID: c.ID, Name: "k8s_" + c.ID, Bundle: c.bundle, Log: c.Log, Exits: filepath.Dir(c.Exit), Persist: c.dir + "/persist",
		Sockets: c.dir + "/attach", Runtime: c.runtime, Root: c.root, LogSizeMax: -1,
	}
	program, args := c.stack.Monitor, told.Create()
	if c.SlowMonitor > 0 {
		strace := []string{"-f", "-D", "-o", "/dev/null", "-e", "trace=setsid",
			fmt.Sprintf("--inject=setsid:delay_exit=%d", c.SlowMonitor.Microseconds()), program}
		program, args = "strace", append(strace, args...)
	}
	cmd := c.stack.command(ctx, c.bundle, program, args...)
	cmd.Env = append(c.env, "_OCI_SYNCPIPE=3", "_OCI_STARTPIPE=4")
	cmd.ExtraFiles = []*os.File{syncChild, startChild}
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.WaitDelay = time.Second // the monitor keeps the pipe of its standard error
	c.Note(timeline.Caller, timeline.Note, "CRI-O: create, by %s", filepath.Base(c.stack.Monitor))
	if err := cmd.Start(); err != nil {
		return err
	}
	syncChild.Close()
	startChild.Close()
	if _, err := start.Write([]byte{0}); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s: %w: %s", filepath.Base(c.stack.Monitor), err, said.String())
	}
	c.Monitor()
	var answer struct {
		Pid     int
		Message string
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = sync.SetReadDeadline(deadline)
	}
	if err := json.NewDecoder(sync).Decode(&answer); err != nil {
		c.Note(timeline.Caller, timeline.Breach, "CRI-O: no answer from the monitor: %v", err)
		return fmt.Errorf("error reading container (probably exited) json message: %w", err)
	}
	if answer.Pid <= 0 {
		c.Note(timeline.Caller, timeline.Note, "CRI-O: told that the create failed: %s", oneLine(answer.Message))
		return fmt.Errorf("container create failed: %s", answer.Message)
	}
	return c.meetInit(answer.Pid)
}

// Monitor gives the pid of the monitor's resident stage, 0 if there is none yet:
// the first stage writes it to a file.
func (c *Container) Monitor() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.monitor < 0 {
		c.findMonitor()
	}
	return c.monitorPid
}

func (c *Container) findMonitor() {
	text, err := os.ReadFile(filepath.Join(c.bundle, "conmon-pidfile"))
	if err != nil {
		return
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		if fd, err := process.Open(pid); err == nil {
			c.monitorPid, c.monitor = pid, fd
		}
	}
}

func (c *Container) meetInit(pid int) error {
	fd, err := process.Open(pid)
	if err != nil {
		return err
	}
	stat, err := fd.Stat(pid)
	if err != nil {
		return err
	}
	c.Pid, c.Init, c.startTime = pid, fd, stat.StartTime
	c.ended = make(chan struct{})
	go func() {
		defer close(c.ended)
		if exited, err := fd.Wait(-1); exited && err == nil {
			c.endedAt = Now()
		}
	}()
	return nil
}

// Ended gives when init had exited, with all its threads; 0 while it lives.
func (c *Container) Ended() time.Duration {
	select {
	case <-c.ended:
		return c.endedAt
	default:
	}
	if exited, err := c.Init.Exited(); err == nil && !exited {
		return 0
	}
	<-c.ended // who waits for it is a moment behind
	return c.endedAt
}

// Start starts the container's program.
func (c *Container) Start(ctx context.Context) error {
	_, err := c.Call(ctx, manager, "start", c.ID)
	return err
}

// CallError is what a failing call of the runtime said.
type CallError struct {
	Args   []string
	Stderr string
	Err    error
}

func (e *CallError) Error() string {
	return fmt.Sprintf("%s: %v: %s", strings.Join(e.Args, " "), e.Err, oneLine(e.Stderr))
}

func (e *CallError) Unwrap() error { return e.Err }

// NotFound says whether CRI-O takes the error for "the container is gone": it
// looks for these words in what the runtime says (runtime_oci.go, runtimeCmd).
func (e *CallError) NotFound() bool {
	for _, words := range []string{"no such process", "container not running", "invalid process"} {
		if strings.Contains(e.Stderr, words) {
			return true
		}
	}
	return false
}

// Call calls the runtime as a manager does, and notes it; who is the caller. The
// error is a *CallError.
func (c *Container) Call(ctx context.Context, who string, args ...string) (stdout string, err error) {
	kind := timeline.Note
	if args[0] == "kill" || args[0] == "stop" {
		kind = timeline.Stop
		if last := args[len(args)-1]; last == "KILL" || last == "9" {
			kind = timeline.Kill
		}
	}
	words := strings.ReplaceAll(strings.Join(args, " "), " "+c.ID, " ID")
	c.Note(timeline.Caller, kind, "%s: %s %s", who, filepath.Base(c.stack.Runtime), words)
	var out, said bytes.Buffer
	cmd := c.Command(ctx, c.called, args...)
	if who != manager {
		// Another program than the manager: gracerun knows its callers.
		cmd = c.stack.command(ctx, c.bundle, "/bin/sh", append([]string{"-c", `"$@"; exit $?`, who, c.called, "--root", c.root}, args...)...)
		cmd.Env, cmd.WaitDelay = c.env, time.Second
	}
	cmd.Stdout, cmd.Stderr = &out, &said
	begin := Now()
	if err := cmd.Run(); err != nil {
		c.Note(timeline.Runtime, timeline.Note, "%s failed: %s", words, oneLine(said.String()+" "+err.Error()))
		return out.String(), &CallError{args, said.String(), err}
	}
	c.Note(timeline.Runtime, timeline.Note, "%s done, after %s", words, (Now() - begin).Round(100*time.Microsecond))
	return out.String(), nil
}

// Command gives a call of any runtime for the container, in the environment of
// its stack.
func (c *Container) Command(ctx context.Context, runtime string, args ...string) *exec.Cmd {
	cmd := c.stack.command(ctx, c.bundle, runtime, append([]string{"--root", c.root}, args...)...)
	cmd.Env = c.env
	cmd.WaitDelay = time.Second
	return cmd
}

// Bundle is the directory of the container's bundle.
func (c *Container) Bundle() string { return c.bundle }

// Root is the directory of the runtime's state.
func (c *Container) Root() string { return c.root }

// Signal sends a signal by kill(2) to init or the monitor, past everybody.
func (c *Container) Signal(who, to string, sig signals.Signal) error {
	target, name := c.Init, "init"
	if to == "monitor" {
		c.Monitor()
		target, name = c.monitor, filepath.Base(c.stack.Monitor)
	}
	kind := timeline.Note
	switch sig {
	case signals.TERM:
		kind = timeline.Stop
	case signals.KILL:
		kind = timeline.Kill
	}
	c.Note(timeline.Caller, kind, "%s: %s to %s", who, sig, name)
	err := target.Send(sig)
	if errors.Is(err, process.ErrGone) {
		c.Note(timeline.Kernel, timeline.Note, "%s is gone already", name)
		return nil
	}
	if err != nil || sig != signals.STOP {
		return err
	}
	pid := c.Pid
	if to == "monitor" {
		pid = c.Monitor()
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return Until(ctx, name+" has stopped", func() bool {
		stat, err := target.Stat(pid)
		return err == nil && stat.State == process.Stopped
	})
}

// LastStatus is how init ended, as an exit file has it; -1 while it lives, and
// where the kernel does not tell (before Linux 6.15). Remove keeps it.
func (c *Container) LastStatus() int {
	if c.status != nil {
		return *c.status
	}
	if c.Ended() == 0 {
		return -1
	}
	s, err := c.Init.ExitInfo()
	switch {
	case err != nil || !s.Known:
		return -1
	case s.Signal != 0:
		return 128 + int(s.Signal)
	}
	return s.Code
}

// Await waits until the container has said a line, as it noted itself.
func (c *Container) Await(ctx context.Context, line string) error {
	return Until(ctx, fmt.Sprintf("the container says %q", line), func() bool {
		text, _ := os.ReadFile(filepath.Join(c.Data, "said"))
		return strings.Contains("\n"+string(text), "\n"+line)
	})
}

// AwaitEnd waits until init has exited.
func (c *Container) AwaitEnd(ctx context.Context) error {
	return Until(ctx, "the container ends", func() bool {
		exited, err := c.Init.Exited()
		return err != nil || exited
	})
}

// AwaitExitFile waits until the monitor has recorded the exit.
func (c *Container) AwaitExitFile(ctx context.Context) error {
	return Until(ctx, "the exit is recorded", func() bool {
		_, err := os.Stat(c.Exit)
		return err == nil
	})
}

// Until waits for a condition. The error says what for.
func Until(ctx context.Context, what string, holds func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s", what)
		case <-tick.C:
		}
	}
	return nil
}

// Remove ends whatever is left of the container, and forgets it. Its files stay.
func (c *Container) Remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	hung, _ := filepath.Glob(c.dir + "/hung.*")
	for _, file := range hung {
		EndHung(file)
	}
	if c.monitor >= 0 {
		_ = c.monitor.Send(signals.CONT) // a scene may have stopped it
	}
	var errs []error
	remove := func() error {
		cmd := c.stack.command(ctx, c.bundle, c.stack.Runtime, "--root", c.root, "delete", "--force", c.ID)
		cmd.Env = c.env
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("delete %s: %w: %s", c.ID, err, oneLine(string(out)))
		}
		return err
	}
	// crun 1.8.1 opens init by its pid, even of a container that has ended, and has
	// once said "open pidfd: No such file or directory" of it.
	if err := remove(); err != nil && (!strings.Contains(err.Error(), "open pidfd") || remove() != nil) {
		errs = append(errs, err)
	}
	if c.Init >= 0 {
		_ = c.Init.Send(signals.KILL)
		if ended, err := c.Init.Wait(Patience); err == nil && !ended {
			errs = append(errs, fmt.Errorf("%s: init, pid %d, does not end", c.ID, c.Pid))
		} else {
			<-c.ended // its pidfd is in use until then
			status := c.LastStatus()
			c.status = &status
			c.Init.Close()
		}
	}
	if c.monitor >= 0 {
		if ended, err := c.monitor.Wait(5 * time.Second); err == nil && !ended {
			_ = c.monitor.Send(signals.KILL)
		}
		c.monitor.Close()
	}
	for _, dir := range c.cgroups() {
		os.Remove(dir)
	}
	return errors.Join(errs...)
}

// EndHung kills a call that hangs by the trouble it is in.
func EndHung(file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return
	}
	fd, err := process.Open(pid)
	if err != nil {
		return
	}
	defer fd.Close()
	// It may have been killed with its caller, and its number be another's now.
	if cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.HasPrefix(cmdline, []byte("sleep\x003600")) {
		_ = fd.Send(signals.KILL)
	}
}

func oneLine(text string) string {
	return strings.Join(strings.Fields(text), " ")
}
