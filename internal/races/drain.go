package races

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gracerun.io/internal/testbed"
	"gracerun.io/recorder"
	"gracerun.io/signals"
)

// Drain says how a node drain is staged: all containers of a stack are stopped at
// once.
type Drain struct {
	Containers int
	Grace      time.Duration
	Policy     string
	// Progress, if not nil, is told how many of the containers have come how far.
	Progress func(phase string, done, all int)
}

// Drained is what became of the containers.
type Drained struct {
	Containers    int
	ToCreate      time.Duration // until all ran
	FirstTERM     time.Duration // from the drain's begin to the first stop signal that the kernel sent
	LastTERM      time.Duration // to the last
	LeastGrace    time.Duration // the shortest time that a container had if the node waits for one grace period; at least 0
	ToEnd         time.Duration // until all were gone
	Untold        int           // got no stop signal
	EarlyKills    int           // SIGKILL before their grace was over
	LateKills     int           // ended more than a second after their deadline
	LostExits     int           // whose exit was not recorded, or wrongly
	SignaledTwice int
	Complaints    []string // of what could not be cleaned up
}

// drainWorkload ends after a second, with status 3; every tenth does not end by
// itself at all.
const drainWorkload = `
trap 'if [ -e /data/stubborn ]; then say not now; else sleep 1; exit 3; fi' TERM
say ready
while :; do sleep 3600 & wait $!; done
`

// Run stages the drain on a stack, beneath dir. A drain whose recording is not whole
// is an error, not a result.
func (d Drain) Run(stack *testbed.Stack, dir string) (*Drained, error) {
	if stack.Missing != "" {
		return nil, errors.New(stack.Missing)
	}
	herd := &herd{Drain: d, result: &Drained{Containers: d.Containers}}
	defer herd.remove()
	begin := testbed.Now()
	if err := herd.create(stack, dir); err != nil {
		return nil, err
	}
	herd.result.ToCreate = testbed.Now() - begin
	recording, err := recorder.Start(herd.pids()...)
	if err != nil {
		return nil, err
	}
	defer recording.Close()
	begin = testbed.Now()
	herd.stop()
	herd.result.ToEnd = testbed.Now() - begin
	herd.awaitRecords()
	herd.remove()
	return herd.result, herd.count(recording, begin)
}

// herd is a drain under way.
type herd struct {
	Drain
	result     *Drained
	containers []*testbed.Container
	removed    bool
}

func (h *herd) tell(phase string, done int) {
	if h.Progress != nil {
		h.Progress(phase, done, h.Containers)
	}
}

// each does something for every container, some at a time.
func (h *herd) each(phase string, atOnce int, do func(i int) error) error {
	var wait sync.WaitGroup
	var mu sync.Mutex
	var first error
	done, free := 0, make(chan struct{}, atOnce)
	for i := range h.Containers {
		free <- struct{}{}
		wait.Go(func() {
			err := do(i)
			<-free
			mu.Lock()
			defer mu.Unlock()
			done++
			h.tell(phase, done)
			if first == nil {
				first = err
			}
		})
	}
	wait.Wait()
	return first
}

func (h *herd) create(stack *testbed.Stack, dir string) error {
	h.containers = make([]*testbed.Container, h.Containers)
	return h.each("started", 4, func(i int) error {
		c, err := stack.New(dir, testbed.Options{Workload: drainWorkload, Grace: h.Grace, Policy: h.Policy})
		if err != nil {
			return err
		}
		h.containers[i] = c
		if i%10 == 9 {
			if err := os.WriteFile(c.Data+"/stubborn", nil, 0o644); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), testbed.Patience)
		defer cancel()
		if err := c.Create(ctx); err != nil {
			return err
		}
		if err := c.Start(ctx); err != nil {
			return err
		}
		return c.Await(ctx, "ready")
	})
}

// stop stops them all at once, each as CRI-O does.
func (h *herd) stop() {
	_ = h.each("stopped", h.Containers, func(i int) error {
		m := testbed.NewCRIO(h.containers[i])
		over := make(chan struct{})
		go func() { m.Stop(h.Grace); close(over) }()
		select {
		case <-over:
		case <-time.After(testbed.Patience + h.Grace):
			m.Abort()
			<-over
		}
		return nil
	})
}

func (h *herd) awaitRecords() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, c := range h.containers {
		_ = c.AwaitExitFile(ctx) // count will find what is missing
	}
}

func (h *herd) remove() {
	if h.removed {
		return
	}
	h.removed = true
	var mu sync.Mutex
	_ = h.each("removed", 4, func(i int) error {
		c := h.containers[i]
		if c == nil {
			return nil
		}
		if err := c.Remove(); err != nil {
			mu.Lock()
			defer mu.Unlock()
			h.result.Complaints = append(h.result.Complaints, err.Error())
		}
		return nil
	})
}

// pids are those of all inits.
func (h *herd) pids() []int {
	pids := make([]int, len(h.containers))
	for i, c := range h.containers {
		pids[i] = c.Pid
	}
	return pids
}

// count reads off the recording, and the exit files, what became of everybody.
func (h *herd) count(recording *recorder.Recorder, begin time.Duration) error {
	r := h.result
	events, err := recording.Events(h.pids()...)
	if err != nil {
		return err
	}
	r.LeastGrace = h.Grace
	var told []time.Duration
	for _, c := range h.containers {
		mine := slices.DeleteFunc(slices.Clone(events), func(ev recorder.Event) bool { return ev.Pid != c.Pid })
		at, terms := firstOf(mine, signals.TERM)
		switch {
		case terms == 0:
			r.Untold++
		default:
			told = append(told, at-begin)
			r.LeastGrace = max(min(r.LeastGrace, h.Grace-(at-begin)), 0)
		}
		if terms > 1 {
			r.SignaledTwice++
		}
		deadline := at + h.Grace
		if kill, kills := firstOf(mine, signals.KILL); kills > 0 && terms > 0 && kill < deadline-early {
			r.EarlyKills++
		}
		if ended := c.Ended(); ended == 0 || terms > 0 && ended > deadline+time.Second {
			r.LateKills++
		}
		if recorded(c) != c.LastStatus() {
			r.LostExits++
		}
	}
	if told != nil {
		r.FirstTERM, r.LastTERM = slices.Min(told), slices.Max(told)
	}
	return nil
}

func firstOf(events []recorder.Event, sig signals.Signal) (at time.Duration, count int) {
	for _, ev := range events {
		if ev.What != recorder.Generate || ev.Signal != sig {
			continue
		}
		if count == 0 {
			at = ev.At
		}
		count++
	}
	return at, count
}

// recorded reads the exit file: -1 if there is none.
func recorded(c *testbed.Container) int {
	text, err := os.ReadFile(c.Exit)
	if err != nil {
		return -1
	}
	status, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return -1
	}
	return status
}
