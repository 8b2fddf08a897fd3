// Package crash kills supervisors, at random instants and at each boundary of what
// they do, and looks whether anything was lost that they had promised: a line of
// output, a deadline, an exit status, the one run of the exit command.
package crash

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gracerun.io/internal/progress"
	"gracerun.io/internal/testbed"
	"gracerun.io/supervisor/recovery"
)

// atOnce is how many rounds there are at a time: they mostly wait.
const atOnce = 8

// rounds is how many there are: some under -short with the race detector in `make
// test`, many in `make soak`. GRACERUN_ROUNDS overrides it, GRACERUN_SEED=N repeats
// one of them.
func rounds() (first, number int) {
	if text := os.Getenv("GRACERUN_SEED"); text != "" {
		n, _ := strconv.Atoi(text)
		return n, 1
	}
	if n, err := strconv.Atoi(os.Getenv("GRACERUN_ROUNDS")); err == nil {
		return 1, n
	}
	if os.Getenv("GRACERUN_SOAK") != "" {
		return 1, 5000
	}
	return 1, 240
}

var build = sync.OnceValues(func() (string, error) {
	bin, err := os.MkdirTemp("", "gracecrash-bin-")
	if err != nil {
		return "", err
	}
	for _, why := range testbed.Build(bin, "gracemon", "gracerun") {
		return bin, errors.New(why)
	}
	cmd := exec.Command("go", "build", "-o", bin+"/writer", "./writer")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return bin, fmt.Errorf("writer does not build: %w\n%s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	os.Exit(testbed.UnderReaper(func() int {
		status := m.Run()
		if bin, _ := build(); bin != "" {
			os.RemoveAll(bin)
		}
		return status
	}))
}

// newStack gives what containers run on, over "runc" or "crun".
func newStack(t *testing.T, runtime string) *stack {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make these containers")
	}
	path, err := exec.LookPath(runtime)
	if err != nil {
		t.Skipf("%s is not installed (make deps)", runtime)
	}
	s := &stack{dir: t.TempDir(), runtime: path}
	if runtime == "crun" {
		if s.namespace, err = testbed.Cgroup2Namespace(); err != nil {
			t.Skipf("no mount namespace with cgroup2, which crun needs: %v", err)
		}
	}
	if s.bin, err = build(); err != nil {
		t.Fatal(err)
	}
	s.rootfs, s.state = filepath.Join(s.dir, "rootfs"), filepath.Join(s.dir, "state")
	for _, d := range []string{"proc", "dev", "usr", "io"} {
		if err := os.MkdirAll(filepath.Join(s.rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writer, err := os.ReadFile(s.bin + "/writer")
	if err == nil {
		err = os.WriteFile(s.rootfs+"/writer", writer, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// boundaries are the places of the fault plan at which a supervisor is killed:
// before and after each effect, and around each record of the journal.
func boundaries() (plans []string) {
	for _, point := range []string{"runtime.create", "effect.deliver", "effect.record-exit", "effect.run-exit-command", "effect.reply", "effect.kill-cgroup"} {
		plans = append(plans, point+" do=crash count=1", point+" after do=crash count=1")
	}
	for skip := range 14 {
		plans = append(plans, fmt.Sprintf("write.journal do=crash skip=%d count=1", skip), fmt.Sprintf("write.journal after do=crash skip=%d count=1", skip))
	}
	return plans
}

// round is one container and what happens to it.
type round struct {
	seed   uint64
	r      *rand.Rand
	plan   plan
	deaf   bool
	faults string
	keeper bool
	kills  int
	early  bool // they begin before the container is started
	rotate bool // the log is full again and again
	*container

	stopped  time.Duration // when the stop was asked for
	answer   string        // of gracerun stop
	deadline time.Duration // as the journal has it
	journal  string
	aborted  bool // the create died with its supervisor
	gap      bool // no keeper, and it exited while nobody watched
	deleted  bool // before it is checked
	doubled  bool // it heard its stop signal twice
	problems []string
}

func (r *round) fail(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// newRound draws a round by its seed.
func newRound(seed uint64) *round {
	rng := rand.New(rand.NewPCG(seed, 1))
	r := &round{seed: seed, r: rng, keeper: true}
	ms := func(least, most int) time.Duration {
		return time.Duration(least+rng.IntN(most-least+1)) * time.Millisecond
	}
	r.plan = plan{code: 3 + rng.IntN(100), after: ms(0, 200), burst: 1 + rng.IntN(40), pause: ms(1, 8), grace: ms(300, 600)}
	if rng.IntN(3) == 0 {
		r.deaf, r.plan.after = true, -time.Millisecond
	} else {
		r.plan.grace += 3 * time.Second // it ends by itself, also on a slow machine
	}
	if rng.IntN(4) == 0 {
		r.plan.policy = "enforce"
	}
	r.early, r.rotate = rng.IntN(3) == 0, rng.IntN(4) == 0
	switch all := boundaries(); {
	case seed%5 < 2:
		r.faults = all[int(seed/5*2+seed%5)%len(all)]
		r.plan.env = append(r.plan.env, "GRACERUN_FAULTS="+r.faults)
		if !strings.HasPrefix(r.faults, "runtime") && rng.IntN(3) == 0 {
			r.kills = 1
		}
	case seed%5 == 2:
		r.keeper, r.kills = false, 1+rng.IntN(3)
		r.plan.env = append(r.plan.env, "GRACEMON_KEEPER=off")
	default:
		r.kills = 1 + rng.IntN(3)
	}
	return r
}

func (r *round) run(s *stack) {
	var err error
	if r.container, err = s.make(r.plan); err != nil {
		r.fail("%v", err)
		return
	}
	defer func() {
		if err := r.remove(); err != nil && !r.aborted {
			r.fail("%v", err)
		}
		if exists(r.stateDir()) {
			r.fail("its state directory is left")
		}
	}()
	var more []string
	if r.rotate {
		more = []string{"--log-rotate", "--log-size-max", "30000", "--log-max-files", "999"}
	}
	switch err = r.create(more...); {
	case errors.Is(err, errNoAnswer):
		r.aborted = true
		r.checkAborted()
		return
	case err != nil:
		r.fail("%v", err)
		return
	}
	over := make(chan struct{})
	var killer sync.WaitGroup
	defer killer.Wait()
	end := sync.OnceFunc(func() { close(over) })
	defer end()
	// The random numbers are drawn here: by two goroutines no seed would repeat them.
	var pauses []time.Duration
	for range r.kills {
		pauses = append(pauses, time.Duration(r.r.IntN(300_000))*time.Microsecond)
	}
	before := time.Duration(20+r.r.IntN(150)) * time.Millisecond
	if r.early {
		killer.Go(func() { r.kill(pauses, over) })
	}
	if _, err := r.gracerun("start", r.id); err != nil {
		r.fail("%v", err)
		return
	}
	if err := until("its program runs", func() bool { return r.counts().Lines[0] > 0 }); err != nil {
		r.fail("%v", err)
		return
	}
	if !r.early {
		killer.Go(func() { r.kill(pauses, over) })
	}
	time.Sleep(before)
	r.stopped = testbed.Now()
	out, err := r.gracerun("stop", r.id)
	r.answer = strings.TrimSpace(out)
	if r.answer == "" {
		r.fail("stop: %v", err)
	}
	if err := until("the exit is recorded and its exit command was run", func() bool { return exists(r.exit()) && r.commands() > 0 }); err != nil {
		r.fail("%v", err)
	}
	end()
	killer.Wait()
	if !r.keeper {
		// The last one may be dead. Where nothing is left to go on with, that is an error.
		if err := r.recover(r.stateDir()); err != nil && exists(r.stateDir()+"/"+recovery.OriginName) {
			r.fail("%v", err)
		}
	}
	if err := until("its supervisor ends, and there is nothing left to go on with", func() bool {
		if exists(r.stateDir() + "/" + recovery.OriginName) {
			return false
		}
		fd := r.monitor()
		if fd >= 0 {
			fd.Close()
		}
		return fd < 0
	}); err != nil {
		r.fail("%v", err)
	}
	r.check()
}

// kill kills supervisors, one after the other. Without a keeper somebody has to
// find that out: three at once do.
func (r *round) kill(pauses []time.Duration, over chan struct{}) {
	for _, pause := range pauses {
		select {
		case <-time.After(pause):
		case <-over:
			return
		}
		if !r.killMonitor() || r.keeper {
			continue
		}
		var wait sync.WaitGroup
		for range 3 {
			wait.Go(func() { _ = r.recover(r.stateDir()) })
		}
		wait.Wait()
		if exited, err := r.init.Exited(); err == nil && exited {
			r.gap = true // it may have, in between
		}
	}
}

func TestCrash(t *testing.T) {
	stacks := []*stack{newStack(t, "runc")}
	t.Run("crun", func(t *testing.T) { // so that its absence does not skip the rest
		if _, err := exec.LookPath("crun"); err != nil {
			t.Skip("crun is not installed (make deps)")
		}
	})
	if _, err := exec.LookPath("crun"); err == nil {
		stacks = append(stacks, newStack(t, "crun"))
	}
	first, number := rounds()
	var mu sync.Mutex
	var done []*round
	var wait sync.WaitGroup
	free := make(chan struct{}, atOnce)
	begin := time.Now()
	line := progress.ForSoak()
	for seed := first; seed < first+number; seed++ {
		free <- struct{}{}
		wait.Go(func() {
			r := newRound(uint64(seed))
			r.run(stacks[min(seed%4, 1)%len(stacks)])
			mu.Lock()
			done = append(done, r)
			line.Count(len(done), number, "rounds of the crash test")
			mu.Unlock()
			<-free
		})
	}
	wait.Wait()
	line.End()
	report(t, done, time.Since(begin))
}

// report counts, and tells of each round in which something was lost.
func report(t *testing.T, done []*round, took time.Duration) {
	var killed, byPlan, bare, aborted, gaps, doubled, deaf, failed int
	var lines uint64
	for _, r := range done {
		if r.container == nil {
			continue
		}
		n := r.counts()
		lines += n.Lines[0] + n.Lines[1]
		killed += r.killed
		if r.faults != "" {
			byPlan++
		}
		if !r.keeper {
			bare++
		}
		aborted += count(r.aborted)
		gaps += count(r.gap)
		doubled += count(r.doubled)
		deaf += count(r.deaf)
		if len(r.problems) == 0 {
			continue
		}
		if failed++; failed <= 10 {
			t.Errorf("GRACERUN_SEED=%d (%s; deaf %v, keeper %v, %d kills, faults %q):\n  %s\n%s", r.seed, filepath.Base(r.runtime), r.deaf, r.keeper,
				r.killed, r.faults, strings.Join(r.problems, "\n  "), r.journal)
		}
	}
	t.Logf("%d rounds in %s: %d supervisors killed at random, %d rounds killed at a boundary of the fault plan, %d without keeper, %d creates cut off",
		len(done), took.Round(time.Second), killed, byPlan, bare, aborted)
	t.Logf("%d lines were written; %d containers were deaf and killed at their deadline; %d stop signals were heard twice; %d exits came while nobody watched (no keeper)",
		lines, deaf, doubled, gaps)
	if failed > 0 {
		t.Errorf("%d of %d rounds lost something", failed, len(done))
	} else {
		t.Log("no line lost or doubled, no wrong status, no early or missing SIGKILL, each exit command run once")
	}
	// Only a supervisor that dies within the one system call cannot know.
	if most := 1 + len(done)/1000; doubled > most {
		t.Errorf("%d stop signals were heard twice, want at most %d", doubled, most)
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}
