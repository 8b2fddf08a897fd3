package bench

import (
	"fmt"
	"os/exec"
	"strconv"
	"sync"
	"time"
)

const drainSection = "Drain of a node"

// fullNode is how many containers it has at least.
const fullNode = 500

// A container that is stopped has something to save, and needs nearly all the
// time that it is given.
const (
	drainGrace = 3 * time.Second
	drainSaves = 2700 * time.Millisecond
)

// oursOverCrun is ours of the stacks.
const oursOverCrun = "gracemon and gracerun over crun"

// stack is a runtime and a monitor as a node has them.
type stack struct {
	name             string
	monitor, runtime *Program
	annotations      map[string]string
}

func (s stack) String() string { return s.name }

func (l *lab) stacks() (all []stack) {
	enforce := map[string]string{"io.gracerun.policy": "enforce", "io.gracerun.grace": drainGrace.String()}
	for _, s := range []stack{
		{oursOverCrun, l.gracemon, l.overCrun, enforce},
		{l.conmon.Name + " and " + l.crun.Name, l.conmon, l.crun, nil},
		{l.newConmon.Name + " and " + l.newCrun.Name, l.newConmon, l.newCrun, nil},
	} {
		if s.monitor.Missing == "" && s.runtime.Missing == "" {
			all = append(all, s)
		}
	}
	return all
}

// drain stops all containers of a node at the same moment, as CRI-O does: `kill`
// with the stop signal, and `kill KILL` when the grace period is over, counted
// from the request.
func (l *lab) drain() error {
	sizes := []struct{ containers, rounds int }{{10, 5}, {100, 2}, {500, 1}}
	if l.Quick {
		sizes = sizes[:1]
		sizes[0].rounds = 1
	}
	for _, size := range sizes {
		l.progress("drain of %d containers", size.containers)
		interleave(l, fmt.Sprintf("drain of %d", size.containers), size.rounds, l.stacks(), func(s stack) error {
			return l.drainOnce(s, size.containers)
		})
	}
	return nil
}

func (l *lab) drainOnce(s stack, n int) error {
	saves := strconv.FormatInt(drainSaves.Milliseconds(), 10)
	var all []*container
	defer func() {
		for _, c := range all {
			c.end()
		}
	}()
	for range n {
		c, err := l.running(s.monitor, s.runtime, s.annotations, "serve", saves)
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	if n >= fullNode {
		if err := l.addFull(s, all); err != nil {
			return err
		}
	}
	cpu, err := cpuOfMonitors(all)
	if err != nil {
		return err
	}
	asked, begin := time.Now(), now()
	stops := make([]stopped, n)
	var heard, done sync.WaitGroup
	heard.Add(n)
	for i, c := range all {
		done.Go(func() { stops[i] = c.stopAsManager(asked.Add(drainGrace), heard.Done) })
	}
	heard.Wait()
	after, cpuErr := cpuOfMonitors(all) // none of them has ended yet
	cpu = after - cpu
	done.Wait()
	var last int64
	var early int
	for _, stop := range stops {
		if stop.err != nil {
			return stop.err
		}
		last = max(last, stop.heard)
		cpu += stop.cpu
		if !stop.saved {
			early++
		}
	}
	if cpuErr != nil {
		return cpuErr
	}
	work := fmt.Sprintf("%d containers", n)
	l.report.add(drainSection, work, s.name, LastTerm, milliseconds(last-begin))
	l.report.add(drainSection, work, s.name, EarlyKills, float64(early))
	l.report.add(drainSection, work, s.name, CPU, milliseconds(cpu))
	return nil
}

func cpuOfMonitors(all []*container) (sum int64, err error) {
	pids := make([]int, len(all))
	for i, c := range all {
		pids[i] = c.monitorPid
	}
	return cpuOfAll(pids)
}

// stopped is how a stop went.
type stopped struct {
	heard int64 // when the program heard TERM (CLOCK_MONOTONIC, ns)
	cpu   int64 // of the call that sent it, ns
	saved bool  // the program could end its work, and its exit says so
	err   error
}

// stopAsManager sends TERM now and KILL at the deadline. It calls heard when the program has heard TERM, or never will.
func (c *container) stopAsManager(deadline time.Time, heard func()) (s stopped) {
	kill := c.kill("TERM")
	output, err := kill.CombinedOutput()
	if err == nil {
		s.heard, err = c.await("signal 15")
		used := kill.ProcessState
		s.cpu = (used.UserTime() + used.SystemTime()).Nanoseconds()
	}
	heard()
	if err != nil {
		s.err = fmt.Errorf("%v: %w: %s", kill, err, output)
		return s
	}
	if !c.exitsBefore(deadline) {
		c.kill("KILL").Run() // it fails if the exit came first
	}
	status, err := c.awaitExitFile()
	s.saved, s.err = status == "0", err
	return s
}

func (c *container) kill(signal string) *exec.Cmd {
	argv := c.argv("kill", c.id, signal)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = c.lab.environ(c.runtime)
	return cmd
}
