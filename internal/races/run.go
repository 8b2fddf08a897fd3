package races

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gracerun.io/check"
	"gracerun.io/faults"
	"gracerun.io/internal/testbed"
	"gracerun.io/recorder"
	"gracerun.io/signals"
	"gracerun.io/timeline"
)

// Run stages the scenario once on a stack, beneath dir, and gives what became of
// it. The error says why it could not be staged; harm is no error.
func (s *Scenario) Run(stack *testbed.Stack, dir, policy string) (f *Facts, err error) {
	if s.Drain > 0 {
		drained, err := Drain{Containers: s.Drain, Grace: s.Grace, Policy: policy}.Run(stack, dir)
		return &Facts{Grace: s.Grace, Drained: drained}, err
	}
	recording, err := recorder.Start()
	if err != nil {
		return nil, err
	}
	defer recording.Close()
	var env []string
	if stack.Ours() && s.faults != "" {
		env = append(env, faults.Variable+"="+s.faults)
	}
	c, err := stack.New(dir, testbed.Options{
		Env:      env,
		Workload: s.Workload, Grace: s.Grace, Policy: policy, HostPID: s.HostPID, Memory: s.MemoryMB << 20,
		Trouble: s.Trouble, CallerTrouble: s.CallerTrouble, SlowMonitor: s.SlowMonitor,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if removeErr := c.Remove(); err == nil && removeErr != nil {
			err = removeErr
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), testbed.Patience+3*s.Grace)
	defer cancel()
	return s.play(ctx, c, &played{c, testbed.NewCRIO(c)}, recording)
}

// A manager makes the container and stops it, as CRI-O does, or is CRI-O.
type manager interface {
	Create(ctx context.Context) error
	Start(ctx context.Context) error
	// Stop returns when the container has ended, or the manager was interrupted.
	Stop(timeout time.Duration)
	Interrupt()
	// Abort ends what goes on because nobody looks any more.
	Abort()
	SaidTimedOut() bool
	SawEnd() time.Duration
	// Recorded is the exit status that the monitor has left, "" if there is none.
	Recorded() string
}

// played is the manager that the testbed plays.
type played struct {
	*testbed.Container
	*testbed.CRIO
}

func (p *played) Recorded() string { return readExit(p.Exit) }

// play goes through the steps, and gives what became of the container.
func (s *Scenario) play(ctx context.Context, c *testbed.Container, m manager, recording *recorder.Recorder) (*Facts, error) {
	p := &play{Scenario: s, ctx: ctx, c: c, crio: m, facts: &Facts{Container: c, Grace: s.Grace}}
	p.ownStop = c.Stack().Ours() && s.Ours.Stop == "gracerun"
	defer p.wait.Wait()
	defer p.cut()
	for _, step := range s.Steps {
		if err := deeds[step.Do](p, step); err != nil {
			return nil, fmt.Errorf("%s on %s: step %q: %w", s.ID, c.Stack().Name, strings.TrimSpace(step.Do+" "+step.What), err)
		}
	}
	return p.facts, p.gather(recording)
}

// play is a scenario that is being staged.
type play struct {
	*Scenario
	ctx     context.Context
	c       *testbed.Container
	crio    manager
	ownStop bool // `gracerun stop` owns it
	facts   *Facts
	wait    sync.WaitGroup // for what goes on besides the steps
	created chan error     // of a create in the background

	mu       sync.Mutex
	stopped  context.CancelFunc // ends the calls of `gracerun stop`
	stranger *stranger

	execution *testbed.Exec
}

// cut ends what still goes on when the scenario is over.
func (p *play) cut() {
	p.crio.Abort()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped != nil {
		p.stopped()
	}
	if p.stranger != nil {
		p.stranger.end()
	}
}

// deeds are the steps that there are.
var deeds map[string]func(*play, Step) error

func init() { // not a literal: the steps are read by what reads it
	deeds = map[string]func(*play, Step) error{
		"create":         (*play).create,
		"try-create":     (*play).tryCreate,
		"start":          (*play).start,
		"try-start":      (*play).tryStart,
		"await":          func(p *play, s Step) error { return p.c.Await(p.ctx, s.What) },
		"await-end":      (*play).awaitEnd,
		"await-record":   (*play).awaitRecord,
		"wait":           (*play).pause,
		"stop":           (*play).stop,
		"exec":           (*play).exec,
		"end-exec":       (*play).endExec,
		"await-file":     (*play).awaitFile,
		"await-exec-log": (*play).awaitExecLog,
		"touch":          (*play).touch,
		"begin":          (*play).begin,
		"check":          (*play).check,
		"call":           (*play).call,
		"signal":         (*play).signal,
		"interrupt":      (*play).interrupt,
		"lock":           (*play).lock,
		"reuse-pid":      (*play).reusePid,
		"await-monitor":  (*play).awaitMonitor,
	}
}

func (p *play) create(Step) error { return p.crio.Create(p.ctx) }

// tryCreate creates in the background: that it can fail is part of the scene.
func (p *play) tryCreate(Step) error {
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	p.created = make(chan error, 1)
	p.wait.Go(func() {
		defer cancel()
		p.created <- p.crio.Create(ctx)
	})
	return nil
}

// awaitMonitor waits until the monitor's second stage exists.
func (p *play) awaitMonitor(Step) error {
	return testbed.Until(p.ctx, "the monitor has a pid", func() bool { return p.c.Monitor() > 0 })
}

func (p *play) start(Step) error { return p.crio.Start(p.ctx) }

// tryStart starts where the start can fail as a part of the scene.
func (p *play) tryStart(Step) error {
	p.facts.StartError = p.crio.Start(p.ctx)
	p.facts.StartAsked = true
	return nil
}

// awaitEnd waits until init has exited, or the time has passed: what that means
// is for the harms to say.
func (p *play) awaitEnd(s Step) error {
	limit, err := time.ParseDuration(s.What)
	if err != nil {
		return err
	}
	_, err = p.c.Init.Wait(limit)
	return err
}

// awaitRecord waits for the exit file in the same way.
func (p *play) awaitRecord(s Step) error {
	limit, err := time.ParseDuration(s.What)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	recorded := testbed.Until(ctx, "the exit is recorded", func() bool {
		p.facts.Recorded = p.crio.Recorded()
		return p.facts.Recorded != ""
	})
	if recorded == nil {
		p.facts.RecordedAt = testbed.Now()
		p.facts.Logged = append([]string{}, readLog(p.c.Log)...)
		p.c.Note(timeline.Monitor, timeline.Exit, "the exit is recorded")
	}
	return nil
}

// pause lets time pass: scenes say when something is to happen.
func (p *play) pause(s Step) error {
	d, err := time.ParseDuration(s.What)
	time.Sleep(d)
	return err
}

// stop stops the container in the background.
func (p *play) stop(s Step) error {
	grace, err := time.ParseDuration(s.What)
	if err != nil {
		return err
	}
	who := s.By
	if who == "" {
		who = "CRI-O"
	}
	p.facts.Stops = append(p.facts.Stops, Stop{At: testbed.Now(), Grace: grace})
	if p.ownStop {
		ctx, cancel := context.WithCancel(p.ctx)
		p.mu.Lock()
		before := p.stopped
		p.stopped = func() {
			cancel()
			if before != nil {
				before()
			}
		}
		p.mu.Unlock()
		p.wait.Go(func() { _, _ = p.c.Call(ctx, who, "stop", "--timeout", grace.String(), p.c.ID) })
		return nil
	}
	p.c.Note(timeline.Caller, timeline.Stop, "%s: stop within %s", who, grace)
	p.wait.Go(func() { p.crio.Stop(grace) })
	return nil
}

// call calls the runtime: "kill ID KILL by an operator".
func (p *play) call(s Step) error {
	who := s.By
	if who == "" {
		who = "an operator"
	}
	args := strings.Fields(s.What)
	for i := range args {
		if args[i] == "ID" {
			args[i] = p.c.ID
		}
	}
	call := Call{Who: who, Args: s.What, At: testbed.Now()}
	// A call beside the stop does not hold the scene up for ever.
	ctx, cancel := context.WithTimeout(p.ctx, 3*p.Grace)
	defer cancel()
	call.Stdout, call.Err = p.c.Call(ctx, who, args...)
	call.Done = testbed.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.facts.Calls = append(p.facts.Calls, call)
	return nil
}

// begin makes a call that goes on while the scene does.
func (p *play) begin(s Step) error {
	p.wait.Go(func() { _ = p.call(s) })
	return nil
}

// exec begins to run the scenario's script in the container, within a time.
func (p *play) exec(s Step) error {
	timeout, err := time.ParseDuration(s.What)
	if err != nil {
		return err
	}
	script := "say() { echo \"$1\" >> /data/exec-said; echo \"$1\"; }\n" + p.Exec
	p.execution, err = p.c.ExecSync(p.ctx, script, timeout)
	return err
}

// awaitExecLog waits until the exec's monitor has logged a line: it has begun to
// look after the command then.
func (p *play) awaitExecLog(s Step) error {
	return testbed.Until(p.ctx, "the exec's log has "+s.What, func() bool {
		return slices.Contains(readLog(p.execution.Log), s.What)
	})
}

// endExec waits for the end of the exec's monitor, and reads what it has logged.
func (p *play) endExec(Step) error {
	if err := p.execution.Wait(); err != nil {
		return err
	}
	p.facts.ExecLogged = readLog(p.execution.Log)
	p.facts.ExecSaid = readLines(filepath.Join(p.c.Data, "exec-said"))
	return nil
}

// awaitFile waits until the container has made a file in /data; touch makes one.
func (p *play) awaitFile(s Step) error {
	return testbed.Until(p.ctx, "there is a file "+s.What, func() bool {
		_, err := os.Stat(filepath.Join(p.c.Data, s.What))
		return err == nil
	})
}

func (p *play) touch(s Step) error {
	return os.WriteFile(filepath.Join(p.c.Data, s.What), nil, 0o644)
}

// check asks what gracelab check says of the container.
func (p *play) check(Step) error {
	for _, c := range check.Node(p.ctx).Containers {
		for _, finding := range c.Found {
			if c.ID == p.c.ID && finding.Race == p.Race {
				p.facts.Warned = true
				p.c.Note(timeline.Caller, timeline.Note, "gracelab check: %s: %s", finding.Race, finding.Text)
			}
		}
	}
	return nil
}

// signal sends a signal by kill(2): "TERM to monitor by systemd".
func (p *play) signal(s Step) error {
	name, to, ok := strings.Cut(s.What, " to ")
	sig, err := signals.Parse(name)
	switch {
	case err != nil:
		return err
	case to == "exec-monitor":
		return p.execution.Signal(s.By, sig)
	case !ok || to != "monitor" && to != "init":
		return fmt.Errorf("want \"SIGNAL to monitor\" or \"SIGNAL to init\", found %q", s.What)
	}
	if to == "monitor" && sig == signals.TERM {
		p.facts.MonitorTold = true
	}
	return p.c.Signal(s.By, to, sig)
}

// interrupt ends the manager, or its call of `gracerun stop`.
func (p *play) interrupt(Step) error {
	if !p.ownStop {
		p.crio.Interrupt()
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.c.Note(timeline.Caller, timeline.Breach, "CRI-O is interrupted, and `gracerun stop` with it")
	p.stopped()
	return nil
}

// lock has another operation hold CRI-O's lock of the container for a while.
func (p *play) lock(s Step) error {
	d, err := time.ParseDuration(s.What)
	if err != nil {
		return err
	}
	m, ok := p.crio.(*played)
	if !ok {
		return errors.New("nobody else can hold the lock of a real CRI-O")
	}
	m.OpLock.Lock()
	p.c.Note(timeline.Caller, timeline.Note, "CRI-O: another operation holds the container's lock for %s", d)
	p.wait.Go(func() {
		time.Sleep(d)
		m.OpLock.Unlock()
	})
	return nil
}
