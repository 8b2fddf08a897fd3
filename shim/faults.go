package shim

import (
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/faults"
	"gracerun.io/signals"
)

// loadFaults takes the fault plan, if the environment has one.
func (c *call) loadFaults() error {
	plan, ok := unix.Getenv(faults.Variable)
	if !ok || plan == "" {
		return nil
	}
	rules, err := faults.Parse(plan)
	if err != nil {
		return err
	}
	c.faults = faults.New(rules)
	c.faults.Say = func(what string) { c.warn("fault plan strikes: " + what) }
	return nil
}

// through does what a call of the wrapped runtime is made by, with the faults
// that are planned for it. do gives the runtime's exit status.
func (c *call) through(at faults.Point, sig signals.Signal, do func() (int, error)) (int, error) {
	if c.faults == nil {
		return do()
	}
	fault := c.faults.Before(at, sig)
	if fault.Do == faults.Drop {
		return 0, nil
	}
	if err := suffer(fault); err != nil {
		return 1, err
	}
	status, err := do()
	if fault.Do == faults.Duplicate && err == nil {
		status, err = do()
	}
	if e := suffer(c.faults.After(at, sig)); e != nil {
		return 1, e
	}
	return status, err
}

// suffer lets the fault happen; the error is the one it injects.
func suffer(fault faults.Fault) error {
	switch fault.Do {
	case faults.Delay:
		time.Sleep(fault.Delay)
	case faults.Error:
		return fault.Errno
	case faults.Crash:
		_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
	case faults.Freeze:
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
	case faults.Hang:
		for {
			_, _ = unix.Poll(nil, -1)
		}
	}
	return nil
}

// hand gives the whole command to the wrapped runtime, which has a fault point.
func (c *call) hand(at faults.Point, sig signals.Signal, args []string) int {
	if c.faults == nil {
		return c.become(append(c.argv[:1:1], args...))
	}
	status, err := c.through(at, sig, func() (int, error) { return c.spawn(args) })
	if err != nil {
		return c.fail(err)
	}
	return status
}
