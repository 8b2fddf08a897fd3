package testbed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals/process"
	"gracerun.io/timeline"
)

// manager is who calls the runtime as CRI-O: this process. Everybody else is a
// process of their own.
const manager = "CRI-O"

// CRIO stops a container as CRI-O does (internal/oci/runtime_oci.go,
// StopContainer and StopLoopForContainer; container.go, Living and
// WaitOnStopTimeout; main of summer 2026), with its weaknesses: they are what is
// on show.
type CRIO struct {
	Container *Container
	// OpLock is held by each operation on the container.
	OpLock sync.Mutex
	// Paused is CRI-O's own idea of it; a pause past CRI-O leaves it false.
	Paused bool

	mu       sync.Mutex
	timedOut bool
	sawEnd   time.Duration
	stopping bool
	killing  bool
	timeouts chan time.Duration
	over     chan struct{}
	cancel   context.CancelFunc
}

// What CRI-O waits for, and how long.
const (
	watchPeriod     = 100 * time.Millisecond // between looks whether init lives
	firstKillPause  = 20 * time.Millisecond  // it doubles
	killPauseJitter = 1.25
)

// NewCRIO gives a manager of the container that has not stopped it yet.
func NewCRIO(c *Container) *CRIO {
	return &CRIO{Container: c, timeouts: make(chan time.Duration, 10), over: make(chan struct{})}
}

// Stop stops the container within the timeout and returns when it has ended, or
// the manager was interrupted. Calls that come later can shorten the timeout.
func (m *CRIO) Stop(timeout time.Duration) {
	if m.living() != nil {
		m.ended()
		return
	}
	m.mu.Lock()
	if !m.stopping {
		m.stopping = true
		var ctx context.Context
		ctx, m.cancel = context.WithCancel(context.Background())
		go m.loop(ctx)
	}
	if !m.killing {
		select {
		case m.timeouts <- timeout:
		default:
		}
	}
	m.mu.Unlock()
	<-m.over
}

// Interrupt ends the stop in progress, as SIGINT or the end of CRI-O does.
func (m *CRIO) Interrupt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Container.Note(timeline.Caller, timeline.Breach, "CRI-O is interrupted")
	if m.cancel != nil {
		m.cancel()
	}
}

// Abort ends the stop in progress because nobody looks any more.
func (m *CRIO) Abort() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		m.cancel()
	}
}

// SaidTimedOut reports whether CRI-O has written that the stop signal timed out.
func (m *CRIO) SaidTimedOut() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.timedOut
}

func (m *CRIO) loop(ctx context.Context) {
	c := m.Container
	m.OpLock.Lock()
	defer func() {
		m.OpLock.Unlock()
		close(m.over)
	}()
	if m.Paused {
		_, _ = c.Call(ctx, manager, "resume", c.ID) // the error is logged, and that is all
	}
	if _, err := c.Call(ctx, manager, "kill", c.ID, "15"); err != nil && m.living() != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(watchPeriod)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if m.living() != nil {
					close(done)
					return
				}
			}
		}
	}()
	target := time.Now().AddDate(1, 0, 0)
	for {
		select {
		case timeout := <-m.timeouts:
			if at := time.Now().Add(timeout); at.Before(target) {
				target = at
			}
		case <-time.After(time.Until(target)):
			m.kill(ctx)
			return
		case <-done:
			m.ended()
			return
		case <-ctx.Done():
			return
		}
	}
}

// kill repeats SIGKILL until the container is gone.
func (m *CRIO) kill(ctx context.Context) {
	c := m.Container
	c.Note(timeline.Caller, timeline.Breach, "CRI-O: stop signal timed out. Killing...")
	m.mu.Lock()
	m.killing, m.timedOut = true, true
	m.mu.Unlock()
	for pause := firstKillPause; ; pause *= 2 {
		_, _ = c.Call(ctx, manager, "kill", c.ID, "KILL")
		if m.living() != nil {
			m.ended()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause + time.Duration(rand.Float64()*killPauseJitter*float64(pause))):
		}
	}
}

// ended notes that the stop is over for CRI-O.
func (m *CRIO) ended() {
	m.Container.Note(timeline.Caller, timeline.Note, "CRI-O: sees that the container has ended")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sawEnd = Now()
}

// SawEnd gives when CRI-O took the container for ended, 0 if it has not.
func (m *CRIO) SawEnd() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sawEnd
}

// living is an error if init is not there, is another process, or a zombie.
func (m *CRIO) living() error {
	c := m.Container
	if err := unix.Kill(c.Pid, 0); err != nil {
		return err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Pid))
	if err != nil {
		return err
	}
	stat, err := process.ParseStat(text)
	switch {
	case err != nil:
		return err
	case stat.StartTime != c.startTime:
		return fmt.Errorf("pid %d is another process", c.Pid)
	case stat.State == process.Zombie || stat.State == process.Dead:
		return errors.New("init is a zombie")
	}
	return nil
}
