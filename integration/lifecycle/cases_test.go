package lifecycle

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A lifecycleCase checks one thing that the OCI runtime specification says
// (runtime.md and config.md of version 1.3.0; the sections are named). Its error
// says how the runtime deviates.
type lifecycleCase struct {
	name    string
	section string
	check   func(c *container) error
}

var cases = []lifecycleCase{
	{"state/created", "State", func(c *container) error {
		return first(c.create, func() error { return c.checkState(specs.StateCreated) })
	}},
	{"state/running", "State", func(c *container) error {
		return first(c.startIdle, func() error { return c.checkState(specs.StateRunning) })
	}},
	{"state/stopped after its process exited", "State", func(c *container) error {
		return first(c.startIdle, c.stop, func() error { return c.checkState(specs.StateStopped) })
	}},
	{"state/stopped without any kill", "State", func(c *container) error {
		c.config.Process.Args = []string{"/bin/true"}
		if err := c.create(); err != nil {
			return err
		}
		state, err := c.state()
		if err != nil {
			return err
		}
		if err := c.run("start", c.id); err != nil {
			return err
		}
		if status, err := ended(state.Pid); err != nil || status.ExitStatus() != 0 {
			return fmt.Errorf("wait status %#x, error %v", status, err)
		}
		return c.hasStatus(specs.StateStopped)
	}},
	{"state/without annotations", "State", func(c *container) error {
		c.config.Annotations = nil
		if err := c.create(); err != nil {
			return err
		}
		state, err := c.state()
		if err == nil && len(state.Annotations) > 0 {
			err = fmt.Errorf("annotations from nowhere: %v", state.Annotations)
		}
		return err
	}},
	{"state/bundle is absolute", "State", func(c *container) error {
		c.writeConfig()
		if err := c.createAs(c.id); err != nil { // the current directory is the bundle
			return err
		}
		state, err := c.state()
		if err == nil && state.Bundle != c.bundle {
			err = fmt.Errorf("bundle is %q, not %q", state.Bundle, c.bundle)
		}
		return err
	}},
	{"state/asking changes nothing", "Query State", func(c *container) error {
		if err := c.startIdle(); err != nil {
			return err
		}
		before, err := c.ask("state", c.id)
		if err != nil {
			return err
		}
		after, err := c.ask("state", c.id)
		if err == nil && string(before) != string(after) {
			err = fmt.Errorf("two answers differ:\n%s\n%s", before, after)
		}
		return err
	}},
	{"state/no id", "Query State", func(c *container) error { return refused(c.run("state")) }},
	{"state/no such container", "Query State", func(c *container) error { return refused(c.run("state", c.id)) }},

	{"create/does not run the program", "Create", func(c *container) error {
		c.config.Process.Args = []string{"/bin/echo", "ran"}
		return first(c.create, func() error { return c.hasStatus(specs.StateCreated) }, c.silent,
			func() error { return c.run("start", c.id) }, func() error { return c.says("ran") })
	}},
	{"create/no id", "Create", func(c *container) error {
		c.writeConfig()
		return refused(c.run("create", "--bundle", c.bundle))
	}},
	{"create/no bundle", "Create", func(c *container) error {
		return first(func() error { return refused(c.createAs(c.id, "--bundle", filepath.Join(c.bundle, "none"))) }, c.gone)
	}},
	{"create/no config.json", "Create", func(c *container) error {
		return first(func() error { return refused(c.createAs(c.id, "--bundle", c.bundle)) }, c.gone)
	}},
	{"create/malformed config.json", "Create", func(c *container) error {
		c.writeBundleFile("config.json", `{"ociVersion": "1.0.2", "process": {`)
		return first(func() error { return refused(c.createAs(c.id, "--bundle", c.bundle)) }, c.gone, c.noCgroups)
	}},
	{"create/id is taken", "Create", func(c *container) error {
		if err := c.startIdle(); err != nil {
			return err
		}
		before, err := c.state()
		if err != nil {
			return err
		}
		if err := refused(c.createAs(c.id, "--bundle", c.bundle)); err != nil {
			return err
		}
		after, err := c.state()
		if err == nil && (after.Pid != before.Pid || after.Status != before.Status) {
			err = fmt.Errorf("the first container was pid %d, %s, and is pid %d, %s now", before.Pid, before.Status, after.Pid, after.Status)
		}
		return err
	}},
	{"create/ids that are paths", "Create", func(c *container) error {
		c.writeConfig()
		for _, id := range []string{".", "..", "../x", "a/b", ""} {
			if err := refused(c.createAs(id, "--bundle", c.bundle)); err != nil {
				return fmt.Errorf("id %q: %w", id, err)
			}
		}
		return nil
	}},
	{"create/later changes of config.json have no effect", "Create", func(c *container) error {
		c.config.Process.Args = []string{"/bin/echo", "first"}
		if err := c.create(); err != nil {
			return err
		}
		c.config.Process.Args = []string{"/bin/echo", "second"}
		c.writeConfig()
		return first(func() error { return c.run("start", c.id) }, func() error { return c.says("first") })
	}},
	{"create/no root file system", "Create", func(c *container) error {
		c.config.Root.Path = "none"
		return first(func() error { return refused(c.create()) }, c.gone, c.noCgroups)
	}},
	{"create/a mount that cannot be made", "Create", func(c *container) error {
		c.config.Mounts = append(c.config.Mounts, specs.Mount{
			Destination: "/mnt", Type: "bind", Source: filepath.Join(c.bundle, "none"), Options: []string{"bind"},
		})
		return first(func() error { return refused(c.create()) }, c.gone, c.noCgroups)
	}},
	{"create/no process", "Create", func(c *container) error {
		c.config.Process = nil
		return first(c.create, func() error { return refused(c.run("start", c.id)) })
	}},
	{"create or start/program not found", "Start", func(c *container) error {
		c.config.Process.Args = []string{"/no/such/program"}
		if err := c.create(); err != nil {
			return first(func() error { return refused(err) }, c.gone, c.noCgroups)
		}
		return first(func() error { return refused(c.run("start", c.id)) }, c.silent)
	}},

	{"start/runs the program", "Start", func(c *container) error {
		return first(c.startIdle, func() error { return c.hasStatus(specs.StateRunning) })
	}},
	{"start/no id", "Start", func(c *container) error { return refused(c.run("start")) }},
	{"start/no such container", "Start", func(c *container) error { return refused(c.run("start", c.id)) }},
	{"start/running container", "Start", func(c *container) error {
		return first(c.startIdle, func() error { return refused(c.run("start", c.id)) },
			func() error { return c.hasStatus(specs.StateRunning) }, c.answers)
	}},
	{"start/stopped container", "Start", func(c *container) error {
		return first(c.startIdle, c.stop, func() error { return refused(c.run("start", c.id)) },
			func() error { return c.hasStatus(specs.StateStopped) })
	}},
	{"start/killed before it was started", "Start", func(c *container) error {
		return first(c.create, c.stop, func() error { return refused(c.run("start", c.id)) }, c.silent)
	}},

	{"kill/runs the handler", "Kill", func(c *container) error {
		if err := c.startIdle(); err != nil {
			return err
		}
		state, err := c.state()
		if err != nil {
			return err
		}
		if err := first(func() error { return c.run("kill", c.id, "TERM") }, func() error { return c.says("TERM") }); err != nil {
			return err
		}
		if status, err := ended(state.Pid); err != nil || status.ExitStatus() != 7 {
			return fmt.Errorf("wait status %#x, error %v; the handler ends with 7", status, err)
		}
		return c.hasStatus(specs.StateStopped)
	}},
	{"kill/every way to write a signal", "Kill", func(c *container) error {
		if err := c.startIdle(); err != nil {
			return err
		}
		for _, sig := range []string{"USR1", "SIGUSR1", "10"} {
			if err := first(func() error { return c.run("kill", c.id, sig) }, func() error { return c.says("USR1") }); err != nil {
				return fmt.Errorf("signal %s: %w", sig, err)
			}
		}
		return nil
	}},
	{"kill/KILL", "Kill", func(c *container) error {
		if err := c.startIdle(); err != nil {
			return err
		}
		state, err := c.state()
		if err != nil {
			return err
		}
		if err := c.run("kill", c.id, "KILL"); err != nil {
			return err
		}
		if status, err := ended(state.Pid); err != nil || status.Signal() != unix.SIGKILL {
			return fmt.Errorf("wait status %#x, error %v", status, err)
		}
		return c.hasStatus(specs.StateStopped)
	}},
	{"kill/created container", "Kill", func(c *container) error {
		return first(c.create, c.stop, func() error { return c.hasStatus(specs.StateStopped) })
	}},
	{"kill/stopped container", "Kill", func(c *container) error {
		return first(c.startIdle, c.stop, func() error { return refused(c.run("kill", c.id, "TERM")) },
			func() error { return refused(c.run("kill", c.id, "KILL")) },
			func() error { return c.hasStatus(specs.StateStopped) })
	}},
	{"kill/no id", "Kill", func(c *container) error { return refused(c.run("kill")) }},
	{"kill/no such container", "Kill", func(c *container) error { return refused(c.run("kill", c.id, "TERM")) }},
	{"kill/no such signal", "Kill", func(c *container) error {
		return first(c.startIdle, func() error { return refused(c.run("kill", c.id, "NONE")) }, c.answers)
	}},

	{"delete/stopped container", "Delete", func(c *container) error {
		return first(c.startIdle, c.stop, c.remove, c.gone, c.noCgroups, c.noState)
	}},
	{"delete/frees the id", "Delete", func(c *container) error {
		return first(c.startIdle, c.stop, c.remove, c.startIdle)
	}},
	{"delete/twice", "Delete", func(c *container) error {
		return first(c.startIdle, c.stop, c.remove, func() error { return refused(c.remove()) })
	}},
	{"delete/leaves the bundle", "Delete", func(c *container) error {
		if err := first(c.startIdle, c.stop, c.remove); err != nil {
			return err
		}
		_, err := os.Stat(filepath.Join(c.bundle, "rootfs", "etc"))
		return err
	}},
	{"delete/no id", "Delete", func(c *container) error { return refused(c.run("delete")) }},
	{"delete/no such container", "Delete", func(c *container) error { return refused(c.remove()) }},
	{"delete/running container", "Delete", func(c *container) error {
		return first(c.startIdle, func() error { return refused(c.remove()) },
			func() error { return c.hasStatus(specs.StateRunning) }, c.answers)
	}},
	{"delete/created container", "Delete", func(c *container) error {
		return first(c.create, func() error { return refused(c.remove()) },
			func() error { return c.hasStatus(specs.StateCreated) })
	}},
	// Not in the specification: how every caller gets rid of a container.
	{"delete --force/running container", "Delete", func(c *container) error {
		if err := c.startIdle(); err != nil {
			return err
		}
		state, err := c.state()
		if err != nil {
			return err
		}
		if err := c.run("delete", "--force", c.id); err != nil {
			return err
		}
		if status, err := ended(state.Pid); err != nil || status.Signal() != unix.SIGKILL {
			return fmt.Errorf("wait status %#x, error %v", status, err)
		}
		return first(c.gone, c.noCgroups, c.noState)
	}},
	{"delete --force/no such container", "Delete", func(c *container) error { return c.run("delete", "--force", c.id) }},
}

// checkState checks each property of the state.
func (c *container) checkState(status specs.ContainerState) error {
	s, err := c.state()
	if err != nil {
		return err
	}
	var wrong []error
	expect := func(property string, got, want any) {
		if got != want {
			wrong = append(wrong, fmt.Errorf("%s is %v, not %v", property, got, want))
		}
	}
	expect("status", s.Status, status)
	expect("id", s.ID, c.id)
	expect("bundle", s.Bundle, c.bundle)
	expect("major version of ociVersion", strings.SplitN(s.Version, ".", 2)[0], "1")
	if !maps.Equal(s.Annotations, c.config.Annotations) {
		wrong = append(wrong, fmt.Errorf("annotations are %v, not %v", s.Annotations, c.config.Annotations))
	}
	if status != specs.StateStopped {
		wrong = append(wrong, c.checkPid(s.Pid))
	}
	return errors.Join(wrong...)
}

// checkPid looks whether that really is the container's process: it is PID 1 of
// a pid namespace and its root is the container's.
func (c *container) checkPid(pid int) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if numbers, found := strings.CutPrefix(line, "NSpid:"); found {
			if fields := strings.Fields(numbers); len(fields) != 2 || fields[1] != "1" {
				return fmt.Errorf("process %d is not the first of the container: NSpid is %v", pid, fields)
			}
		}
	}
	var root, rootfs unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/root/hooks", pid), &root); err != nil {
		return err
	}
	if err := unix.Stat(filepath.Join(c.bundle, "rootfs", "hooks"), &rootfs); err != nil {
		return err
	}
	if root.Ino != rootfs.Ino {
		return fmt.Errorf("process %d has another root file system", pid)
	}
	return nil
}

// answers is an error unless the idle program still does.
func (c *container) answers() error {
	return first(func() error { return c.run("kill", c.id, "USR1") }, func() error { return c.says("USR1") })
}

func (c *container) remove() error { return c.run("delete", c.id) }

func (c *container) noCgroups() error {
	if left := cgroupsOf(c.id); len(left) > 0 {
		return fmt.Errorf("cgroups are left: %v", left)
	}
	return nil
}

// noState is an error if anything with the container's name is left in the state
// directory.
func (c *container) noState() error {
	entries, err := os.ReadDir(c.root)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == c.id }) {
		return fmt.Errorf("state of %s is left", c.id)
	}
	return nil
}
