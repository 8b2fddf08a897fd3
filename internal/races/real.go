package races

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"gracerun.io/faults"
	"gracerun.io/internal/crinode"
	"gracerun.io/internal/testbed"
	"gracerun.io/recorder"
	"gracerun.io/supervisor/settings"
	"gracerun.io/timeline"
)

// Real is a CRI-O to be run: what scenarios are staged with in place of the one
// that the testbed plays.
type Real struct {
	Programs crinode.Programs
	Store    string // of images, from crinode.Store
}

// Unable says why a scenario cannot be staged with a real CRI-O, "" if it can.
func (s *Scenario) Unable() string {
	switch {
	case s.Drain > 0:
		return "a drain is staged with a kubelet: make node-test"
	case s.Exec != "":
		return "the monitor of an exec is not to be found from outside"
	case s.SlowMonitor > 0:
		return "CRI-O waits for its monitor before anybody can look for it"
	}
	for _, step := range s.Steps {
		switch step.Do {
		case "lock":
			return "nobody else can hold CRI-O's lock of a container"
		case "try-create":
			return "a create that goes on has no id yet that could be asked for"
		}
	}
	return ""
}

// Stage stages a scenario on stock and ours, side by side, each with a CRI-O of
// its own.
func (r *Real) Stage(s *Scenario, programs, dir, runtime string) *Staged {
	policy := s.Ours.Policy
	if policy == "" {
		policy = settings.Defaults().Stop.Policy.String()
	}
	staged := &Staged{Scenario: s}
	var both sync.WaitGroup
	both.Go(func() { staged.Stock = r.on(s, testbed.Stock(runtime), crinode.Stock(runtime), dir, "") })
	both.Go(func() {
		staged.Ours = r.on(s, testbed.Ours(programs, runtime), crinode.Ours(programs, runtime, policy), dir, policy)
	})
	both.Wait()
	return staged
}

func (r *Real) on(s *Scenario, stack *testbed.Stack, real *crinode.Stack, dir, policy string) *Verdict {
	v := &Verdict{Stack: stack, Policy: policy, Skipped: s.Unable()}
	switch {
	case v.Skipped != "":
	case real.Missing != "":
		v.Skipped = real.Missing
	case s.MemoryMB > 0 && !real.Resources():
		v.Skipped = "no memory controller where this runtime runs"
	}
	for range s.Trials {
		if v.Skipped != "" {
			break
		}
		f, err := r.run(s, stack, *real, dir)
		if err != nil {
			v.Skipped = err.Error()
			break
		}
		v.take(s, f)
	}
	return v
}

// run stages it once.
func (r *Real) run(s *Scenario, stack *testbed.Stack, real crinode.Stack, dir string) (f *Facts, err error) {
	if dir, err = os.MkdirTemp(dir, "r"); err != nil {
		return nil, err
	}
	if real.Runtime, err = s.Trouble.Before(dir+"/t", real.Runtime); err != nil {
		return nil, err
	}
	called := &real.Runtime
	if real.Ours() {
		called = &real.Shim
	}
	if *called, err = s.CallerTrouble.Before(dir+"/c", *called); err != nil {
		return nil, err
	}
	if real.Ours() && s.faults != "" {
		real.Env = append(real.Env, faults.Variable+"="+s.faults)
	}
	recording, err := recorder.Start()
	if err != nil {
		return nil, err
	}
	defer recording.Close()
	node, err := crinode.New(r.Programs, &real, dir+"/n", r.Store)
	if err != nil {
		return nil, err
	}
	c, err := stack.Foreign(dir, testbed.Options{Workload: s.Workload, Grace: s.Grace}, testbed.Foreign{
		Namespace: node.Namespace(), Root: node.Root(), Runtime: node.Called(), State: node.Path("/run/gracerun"),
		Cgroups: strings.TrimPrefix(node.Cgroup, "/") + "/race/crio-",
	})
	if err != nil {
		_ = node.Close()
		return nil, err
	}
	m := &realCRIO{c: c, node: node, made: crinode.Container{
		Node: node, Name: "race", Command: []string{"/bin/sh", "/data/workload"}, Dir: dir,
		Mounts: []crinode.Mount{
			{HostPath: c.Data, ContainerPath: "/data"}, {HostPath: "/usr", ContainerPath: "/usr", Readonly: true},
			{HostPath: "/usr/lib", ContainerPath: "/lib", Readonly: true}, {HostPath: "/usr/lib64", ContainerPath: "/lib64", Readonly: true},
		},
		Grace: int(s.Grace.Seconds()), HostPID: s.HostPID, Memory: s.MemoryMB << 20,
	}}
	ctx, cancel := context.WithTimeout(context.Background(), crinode.Patience+3*s.Grace)
	defer cancel()
	m.calls, m.abort = context.WithCancel(ctx)
	defer func() {
		m.abort()
		if closed := m.close(); err == nil {
			err = closed
		}
	}()
	return s.play(ctx, c, m, recording)
}

// realCRIO is the manager that runs.
type realCRIO struct {
	c     *testbed.Container
	node  *crinode.Node
	made  crinode.Container
	calls context.Context // of crictl
	abort context.CancelFunc

	mu     sync.Mutex
	sawEnd time.Duration
}

func (m *realCRIO) Create(ctx context.Context) error {
	m.c.Note(timeline.Caller, timeline.Note, "crictl runp, create")
	if err := m.made.Create(ctx); err != nil {
		return err
	}
	return m.c.Adopt(m.made.ID, m.made.Bundle(), m.made.Log(), m.made.Exit(), m.made.Pid)
}

func (m *realCRIO) Start(ctx context.Context) error { return m.made.Start(ctx) }

func (m *realCRIO) Stop(timeout time.Duration) {
	if m.made.Stop(m.calls, int(timeout.Seconds())) != nil {
		return
	}
	m.c.Note(timeline.Caller, timeline.Note, "CRI-O: StopContainer is answered")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sawEnd = testbed.Now()
}

// Interrupt kills CRI-O; nobody starts it anew.
func (m *realCRIO) Interrupt() {
	m.c.Note(timeline.Caller, timeline.Breach, "CRI-O is killed")
	_ = m.node.EndCRIO(syscall.SIGKILL)
}

func (m *realCRIO) Abort() { m.abort() }

// SaidTimedOut reads CRI-O's log.
func (m *realCRIO) SaidTimedOut() bool {
	text, _ := os.ReadFile(m.node.CRIOLog())
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "timed out. Killing") && strings.Contains(line, m.c.ID) {
			return true
		}
	}
	return false
}

func (m *realCRIO) SawEnd() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sawEnd
}

// Recorded is what CRI-O has read of the exit file, which it then removes; -1 is
// what it takes for an exit that nobody recorded.
func (m *realCRIO) Recorded() string {
	if text := readExit(m.made.Exit()); text != "" {
		return text
	}
	if m.node.CRIOPid() == 0 || m.made.ID == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), testbed.Patience)
	defer cancel()
	code, exited, err := m.made.ExitCode(ctx)
	if err != nil || !exited || code < 0 {
		return ""
	}
	return strconv.Itoa(code)
}

// close ends the container whatever became of it, and the node.
func (m *realCRIO) close() error {
	hung, _ := filepath.Glob(filepath.Join(m.made.Dir, "[tc]", "hung.*"))
	for _, file := range hung {
		testbed.EndHung(file)
	}
	if m.node.CRIOPid() == 0 {
		if err := m.node.StartCRIO(); err != nil {
			return fmt.Errorf("restart after the scene: %w", err)
		}
	}
	removed := m.c.Release()
	if err := m.node.Close(); err != nil {
		return err
	}
	for _, cgroup := range m.node.Cgroups() {
		_ = os.Remove(cgroup)
	}
	return removed
}
