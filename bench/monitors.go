package bench

import "path/filepath"

const (
	monitorSection = "A monitor's work"
	exitWork       = "init exits until the exit file is there"
)

// monitorsAtWork measures what a manager waits for: a container created, an
// exit told, a program executed.
func (l *lab) monitorsAtWork() error {
	monitors, runtime := l.monitors(), l.underneath()
	l.progress("create, exit and exec by a monitor: %d monitors over %s", len(monitors), runtime)
	interleave(l, "exit by a monitor", l.rounds(40), monitors, func(m *Program) error { return l.exit(m, runtime) })

	targets := map[string]*container{}
	serial := 0
	interleave(l, "exec by a monitor", l.rounds(25), monitors, func(m *Program) (err error) {
		c := targets[m.Name]
		if c == nil {
			if c, err = l.running(m, runtime, nil, "serve"); err != nil {
				return err
			}
			targets[m.Name] = c
		}
		serial++
		wall, err := c.execUnder(m, serial, "nothing")
		if err != nil {
			return err
		}
		l.report.add(monitorSection, "exec until its exit file is there", m.Name, Wall, milliseconds(wall))
		return nil
	})
	for _, c := range targets {
		c.end()
	}
	return nil
}

// exit measures how long it takes to create a container, and from its last
// breath until the exit file.
func (l *lab) exit(m, runtime *Program) error {
	c, err := l.prepare(runtime, nil, "exit")
	if err != nil {
		return err
	}
	defer c.end()
	wall, err := c.createUnder(m, filepath.Join(c.bundle, "log"))
	if err != nil {
		return err
	}
	if _, err := c.call("start", c.id); err != nil {
		return err
	}
	exited, err := watch(l.exits, c.id)
	if err != nil {
		return err
	}
	if _, err := c.open(); err != nil {
		return err
	}
	last, err := c.await("exit")
	if err != nil {
		return err
	}
	told, err := exited.wait()
	if err != nil {
		return err
	}
	l.report.add(monitorSection, "create until init's pid is told", m.Name, Wall, milliseconds(wall))
	l.report.add(monitorSection, exitWork, m.Name, Latency, milliseconds(told-last))
	return nil
}
