package testbed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gracerun.io/signals"
)

// Foreign says where a container is that somebody else makes: a real CRI-O.
type Foreign struct {
	Namespace string // of mounts, in which the runtime is to be called; "": this one
	Root      string // of the runtime's state
	Runtime   string // as the manager calls it
	State     string // where gracemon and gracerun keep theirs, as reached from here
	Cgroups   string // a pattern of the containers' cgroups beneath a hierarchy, for that of one ID to be added
}

// Foreign gives a container of the stack that is made elsewhere, in dir; nothing
// runs yet. Whoever makes it says so by Adopt.
func (s *Stack) Foreign(dir string, o Options, f Foreign) (*Container, error) {
	if s.Missing != "" {
		return nil, errors.New(s.Missing)
	}
	own := *s
	own.namespace = f.Namespace
	c := &Container{Options: o, stack: &own, foreign: &f, Init: -1, monitor: -1, dir: dir, Data: filepath.Join(dir, "data")}
	c.bundle, c.root, c.runtime, c.called, c.env = dir, f.Root, f.Runtime, f.Runtime, append(os.Environ(), o.Env...)
	if err := os.MkdirAll(c.Data, 0o777); err != nil {
		return nil, err
	}
	return c, os.WriteFile(filepath.Join(c.Data, "workload"), []byte(prelude+o.Workload), 0o755)
}

// Adopt takes a container that has been made.
func (c *Container) Adopt(id, bundle, log, exit string, pid int) error {
	c.ID, c.bundle, c.Log, c.Exit = id, bundle, log, exit
	c.Monitor()
	return c.meetInit(pid)
}

// Before writes the scripts that make calls of a program go wrong into dir, under
// the program's own name, and gives the path: of the program itself without any.
func (t *Trouble) Before(dir, program string) (string, error) {
	if t == nil {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return t.wrap(dir, filepath.Base(program), program)
}

// Release ends init, if it lives, and gives the descriptors back; whoever made the
// container removes it.
func (c *Container) Release() error {
	if c.monitor >= 0 {
		_ = c.monitor.Send(signals.CONT) // a scene may have stopped it
		c.monitor.Close()
	}
	if c.Init < 0 {
		return nil
	}
	_ = c.Init.Send(signals.KILL)
	if ended, err := c.Init.Wait(Patience); err == nil && !ended {
		return fmt.Errorf("%s: init, pid %d, does not end", c.ID, c.Pid)
	}
	<-c.ended // its pidfd is in use until then
	status := c.LastStatus()
	c.status = &status
	return c.Init.Close()
}
