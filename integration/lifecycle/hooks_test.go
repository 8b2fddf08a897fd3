package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

var hookCases = []lifecycleCase{
	{"hooks/order", "POSIX-platform Hooks", func(c *container) error {
		c.recordHooks()
		return first(
			c.create, c.ran("prestart", "createRuntime", "createContainer"),
			func() error { return c.run("start", c.id) }, func() error { return c.says("ready") },
			c.ranOneBeforeOther("createContainer", "startContainer"),
			c.ranOneBeforeOther("startContainer", "program"),
			// Nor does the order of startContainer and poststart show: libcontainer
			// lets init go on without waiting for it.
			c.stop, c.hasNotRun("poststop"), c.remove,
			c.ranOneBeforeOther("poststart", "poststop"),
		)
	}},
	{"hooks/poststart runs in start", "Poststart", func(c *container) error {
		c.recordHooks()
		return first(c.create, c.hasNotRun("poststart"), func() error { return c.run("start", c.id) }, c.hasRun("poststart"))
	}},
	{"hooks/several of a kind run in their order", "POSIX-platform Hooks", func(c *container) error {
		c.config.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{c.recorder("one"), c.recorder("two"), c.recorder("three")}}
		return first(c.create, c.ran("one", "two", "three"))
	}},
	{"hooks/state on standard input", "POSIX-platform Hooks", func(c *container) error {
		c.recordHooks()
		if err := c.create(); err != nil {
			return err
		}
		state, err := c.state()
		if err != nil {
			return err
		}
		return first(
			func() error { return c.run("start", c.id) }, func() error { return c.says("ready") }, c.stop, c.remove,
			c.wasTold("createRuntime", state.Pid, specs.StateCreating, specs.StateCreated),
			c.wasTold("createContainer", anyPid, specs.StateCreating, specs.StateCreated),
			c.wasTold("startContainer", anyPid, specs.StateCreated),
			c.wasTold("poststart", state.Pid, specs.StateRunning),
			c.wasTold("poststop", anyPid, specs.StateStopped),
		)
	}},
	{"hooks/a failing createRuntime fails create", "Lifecycle", func(c *container) error {
		c.recordHooks()
		c.config.Hooks.CreateRuntime = append(c.config.Hooks.CreateRuntime, failing)
		return first(func() error { return refused(c.create()) }, c.gone, c.noCgroups, c.hasNotRun("createContainer"))
	}},
	{"hooks/a failing createContainer fails create", "Lifecycle", func(c *container) error {
		c.config.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{failing}}
		return first(func() error { return refused(c.create()) }, c.gone, c.noCgroups)
	}},
	{"hooks/poststop runs after a failed create", "Lifecycle", func(c *container) error {
		c.recordHooks()
		c.config.Hooks.CreateRuntime = append(c.config.Hooks.CreateRuntime, failing)
		return first(func() error { return refused(c.create()) }, c.hasRun("poststop"))
	}},
	{"hooks/a failing startContainer fails start", "Lifecycle", func(c *container) error {
		c.recordHooks()
		c.config.Hooks.StartContainer = append(c.config.Hooks.StartContainer, failing)
		return first(c.create, func() error { return refused(c.run("start", c.id)) }, c.hasNotRun("program"))
	}},
	{"hooks/a failing poststart fails start", "Lifecycle", func(c *container) error {
		c.config.Hooks = &specs.Hooks{Poststart: []specs.Hook{failing}}
		if err := c.create(); err != nil {
			return err
		}
		state, err := c.state()
		if err != nil {
			return err
		}
		if err := refused(c.run("start", c.id)); err != nil {
			return err
		}
		_, err = ended(state.Pid)
		return err
	}},
	{"hooks/a failing poststop changes nothing", "Lifecycle", func(c *container) error {
		c.config.Hooks = &specs.Hooks{Poststop: []specs.Hook{failing, c.recorder("after")}}
		return first(c.startIdle, c.stop, c.remove, c.gone, c.hasRun("after"))
	}},
	{"hooks/timeout", "POSIX-platform Hooks", func(c *container) error {
		seconds := 1
		c.config.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{
			Path: "/bin/sh", Args: []string{"sh", "-c", "exec sleep 1000"}, Timeout: &seconds,
		}}}
		return first(func() error { return refused(c.create()) }, c.gone, c.noCgroups)
	}},
}

var failing = specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > /dev/null; exit 3"}}

// recordHooks has a hook of every kind write to a file that the host and the
// container both have, and the program, too.
func (c *container) recordHooks() {
	if err := os.MkdirAll(filepath.Join(c.bundle, "hooks"), 0o755); err != nil {
		c.t.Fatal(err)
	}
	c.config.Mounts = append(c.config.Mounts, specs.Mount{
		Destination: "/hooks", Type: "bind", Source: filepath.Join(c.bundle, "hooks"), Options: []string{"bind"},
	})
	inContainer := recorder("startContainer", "/hooks/log")
	c.config.Hooks = &specs.Hooks{
		Prestart:        []specs.Hook{c.recorder("prestart")},
		CreateRuntime:   []specs.Hook{c.recorder("createRuntime")},
		CreateContainer: []specs.Hook{c.recorder("createContainer")},
		StartContainer:  []specs.Hook{inContainer},
		Poststart:       []specs.Hook{c.recorder("poststart")},
		Poststop:        []specs.Hook{c.recorder("poststop")},
	}
	c.config.Process.Args[2] = "echo program >> /hooks/log; " + c.config.Process.Args[2]
}

func (c *container) recorder(name string) specs.Hook {
	if err := os.MkdirAll(filepath.Join(c.bundle, "hooks"), 0o755); err != nil {
		c.t.Fatal(err)
	}
	return recorder(name, c.hookLog())
}

func (c *container) hookLog() string { return filepath.Join(c.bundle, "hooks", "log") }

// recorder gives a hook that adds a line with its name and the state it was told.
func recorder(name, log string) specs.Hook {
	script := fmt.Sprintf(`state=$(tr -d '\n'); echo "%s $state" >> %s`, name, log)
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}
}

// record gives the names of the hooks that ran, in order, and what each was told.
func (c *container) record() (names []string, told map[string]string) {
	told = map[string]string{}
	text, err := os.ReadFile(c.hookLog())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, state, _ := strings.Cut(strings.TrimSpace(line), " ")
		names, told[name] = append(names, name), state
	}
	return names, told
}

func (c *container) ran(want ...string) func() error {
	return func() error {
		if names, _ := c.record(); !slices.Equal(names, want) {
			return fmt.Errorf("hooks ran: %v, not %v", names, want)
		}
		return nil
	}
}

func (c *container) hasRun(name string) func() error {
	return func() error {
		if names, _ := c.record(); !slices.Contains(names, name) {
			return fmt.Errorf("%s has not run: %v", name, names)
		}
		return nil
	}
}

func (c *container) hasNotRun(name string) func() error {
	return func() error {
		if names, _ := c.record(); slices.Contains(names, name) {
			return fmt.Errorf("%s has run: %v", name, names)
		}
		return nil
	}
}

func (c *container) ranOneBeforeOther(one, other string) func() error {
	return func() error {
		names, _ := c.record()
		i, j := slices.Index(names, one), slices.Index(names, other)
		if i < 0 || j < 0 || i > j {
			return fmt.Errorf("%s should have run before %s: %v", one, other, names)
		}
		return nil
	}
}

const anyPid = -1

func (c *container) wasTold(hook string, pid int, status ...specs.ContainerState) func() error {
	return func() error {
		_, told := c.record()
		var s specs.State
		if err := json.Unmarshal([]byte(told[hook]), &s); err != nil {
			return fmt.Errorf("%s was told %q: %w", hook, told[hook], err)
		}
		switch {
		case s.ID != c.id, s.Bundle != c.bundle, pid != anyPid && s.Pid != pid, !slices.Contains(status, s.Status):
			return fmt.Errorf("%s was told %s; want id %s, bundle %s, pid %d, status one of %v", hook, told[hook], c.id, c.bundle, pid, status)
		}
		return nil
	}
}
