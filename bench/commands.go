package bench

import (
	"fmt"
	"path/filepath"
)

// What the commands of a runtime cost as whole processes, and the life of a
// container as the sum of them.

const commandSection = "Commands of a runtime"

// A caller is a runtime and under which monitor its container runs.
type caller struct {
	runtime, monitor *Program
	nothing          []string // instead of both: a program that does nothing
}

func (c caller) String() string {
	switch {
	case c.nothing != nil:
		return "limit: " + filepath.Base(c.nothing[0]) + ", which does nothing"
	case c.monitor == nil:
		return c.runtime.Name
	}
	return c.runtime.Name + ", under " + c.monitor.Name
}

// callers gives each runtime without a monitor, and ours with our monitor too:
// then another process answers.
func (l *lab) callers() (all []caller) {
	for _, r := range l.runtimes() {
		all = append(all, caller{runtime: r})
	}
	for _, r := range present(l.overCrun, l.overRunc) {
		if l.gracemon.Missing == "" {
			all = append(all, caller{runtime: r, monitor: l.gracemon})
		}
	}
	return all
}

func (l *lab) commands() error {
	callers := l.callers()
	l.progress("life of a container: %d runtimes", len(callers))
	interleave(l, "life of a container", l.rounds(25), callers, l.life)

	l.progress("state, kill and exec: %d runtimes", len(callers))
	callers = append(callers, caller{nothing: []string{l.workload, "nothing"}}, caller{nothing: []string{"/bin/true"}})
	targets := map[string]*container{}
	interleave(l, "state, kill, exec", l.rounds(100), callers, func(s caller) (err error) {
		if s.nothing != nil {
			used, err := l.spawner.run(nil, s.nothing)
			if err != nil {
				return err
			}
			for _, work := range []string{"state", "kill"} {
				l.addCost(work, s, used)
			}
			return nil
		}
		c := targets[s.String()]
		if c == nil {
			if c, err = l.running(s.monitor, s.runtime, nil, "serve"); err != nil {
				return err
			}
			targets[s.String()] = c
		}
		return l.ask(s, c)
	})
	for _, c := range targets {
		c.end()
	}
	return nil
}

// life measures create, start and delete, and with the kill and what lies
// between them a whole life.
func (l *lab) life(s caller) error {
	c, err := l.prepare(s.runtime, nil, "serve")
	if err != nil {
		return err
	}
	var total cost
	measure := func(work string, call func() (cost, error)) error {
		used, err := call()
		if err != nil {
			return fmt.Errorf("%s: %w", work, err)
		}
		l.addCost(work, s, used)
		total.cpu += used.cpu
		total.peak = max(total.peak, used.peak)
		return nil
	}
	begin := now()
	err = func() error {
		if s.monitor == nil {
			if err := measure("create", c.create); err != nil {
				return err
			}
		} else if _, err := c.createUnder(s.monitor, c.bundle+"/log"); err != nil {
			return err
		}
		if err := measure("start", func() (cost, error) { return c.call("start", c.id) }); err != nil {
			return err
		}
		if _, err := c.await("ready"); err != nil {
			return err
		}
		if _, err := c.call("kill", c.id, "KILL"); err != nil {
			return err
		}
		if err := c.awaitExit(); err != nil {
			return err
		}
		if s.monitor != nil {
			if _, err := c.awaitExitFile(); err != nil {
				return err
			}
		}
		return measure("delete", func() (cost, error) { return c.call("delete", c.id) })
	}()
	if err != nil {
		c.end()
		return err
	}
	if s.monitor == nil {
		total.wall = now() - begin
		l.addCost("create to delete", s, total)
	}
	c.reapMonitor()
	c.forget()
	return nil
}

// ask measures what can be asked of a container that runs.
func (l *lab) ask(s caller, c *container) error {
	used, err := c.call("state", c.id)
	if err != nil {
		return err
	}
	l.addCost("state", s, used)
	if used, err = c.call("kill", c.id, "USR1"); err != nil {
		return err
	}
	if _, err := c.await("signal 10"); err != nil {
		return err
	}
	l.addCost("kill", s, used)
	if c.serves++; c.serves%4 != 0 {
		return nil // starting a container's process takes long: less often
	}
	if used, err = c.call("exec", c.id, "/workload", "nothing"); err != nil {
		return err
	}
	l.addCost("exec", s, used)
	return nil
}

func (l *lab) addCost(work string, s caller, used cost) {
	l.report.add(commandSection, work, s.String(), Wall, milliseconds(used.wall))
	l.report.add(commandSection, work, s.String(), CPU, milliseconds(used.cpu))
	l.report.add(commandSection, work, s.String(), Peak, float64(used.peak)/1024)
}
