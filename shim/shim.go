// Package shim is the command line of gracerun: that of crun and runc, whichever it
// wraps, with its own signal path.
//
// A manager runs the runtime for each signal and each look at a state, so `kill` and
// `state` cost no more than the start of this program: no import of fmt, net,
// encoding/json or os/exec, no configuration file read before it is needed, no file of
// the wrapped runtime opened. Commands that need no work afterwards become the wrapped
// runtime (execve).
package shim

import (
	"golang.org/x/sys/unix"

	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/shim/usage"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/settings"
)

// Main runs one command and gives the exit status of the program.
func Main(argv []string) int {
	if len(argv) > 3 && argv[1] == trampoline {
		return becomeListener(argv[2:])
	}
	if len(argv) > 4 && argv[1] == detach {
		return startSweeper(argv[2:])
	}
	if len(argv) > 4 && argv[1] == sweeper {
		return sweep(argv[2:])
	}
	c := parse(argv)
	if err := c.loadFaults(); err != nil {
		return c.fail(err)
	}
	if !c.understood {
		return c.become(c.argv)
	}
	if usage.Wanted(c.args) {
		if command := usage.Find(c.command); command != nil {
			return c.helpOn(command)
		}
	}
	switch c.command {
	case "kill":
		return c.kill()
	case "state":
		return c.state()
	case "create":
		return c.create()
	case "start":
		return c.start()
	case "delete":
		return c.delete()
	case "pause":
		return c.pauseOrResume(pauseDone)
	case "resume":
		return c.pauseOrResume(resumeDone)
	case "run":
		return c.run()
	case "stop":
		return c.stop()
	case "trace":
		return c.trace()
	case "events":
		return c.events()
	case "list":
		return c.list()
	case "features":
		return c.features()
	case versionCommand:
		return c.version()
	case helpCommand:
		return c.help()
	}
	c.findMaker()
	return c.become(c.argv)
}

// settings reads the configuration file, once, when something in it matters:
// `kill` and `state` of a container that is known don't need it. What is wrong in it
// is for who makes a container to mind: one that is there must be signalled, looked
// at and deleted all the same.
func (c *call) settings() *settings.Settings {
	if c.config == nil {
		c.config, c.wrong = settings.Load()
	}
	return c.config
}

// caller is who has called this program: for whom it asks.
func (c *call) caller() *lifecycle.Caller {
	if c.by == nil {
		c.by = control.CallerOf(unix.Getppid())
	}
	return c.by
}

// open opens the state directory of the container. Without one it was not made
// by way of gracerun or gracemon, and the wrapped runtime knows more.
func (c *call) open(id string) (*statedir.Dir, error) { return oci.OpenState(c.root, id) }

// program gives the runtime to wrap where no container says which one has made it.
func (c *call) program() (string, error) {
	if maker := c.maker; maker != "" {
		c.maker = ""
		if unix.Faccessat(unix.AT_FDCWD, maker, unix.X_OK, 0) == nil {
			c.wrapped = maker
		}
	}
	if c.wrapped == "" {
		program, err := oci.Chosen(func() string { return c.settings().Runtime })
		if err != nil {
			return "", err
		}
		c.wrapped = program
	}
	return c.wrapped, nil
}

// belongsTo makes the runtime that has made a container the one to be run for it,
// whatever is configured by now: another one would not know the container.
func (c *call) belongsTo(container *oci.Container) {
	if container != nil {
		c.maker = container.Program
	}
}

// findMaker looks for the runtime that has made the container of a command that
// is handed on. The flags of exec, update and the others differ from runtime to
// runtime; the first argument that names a container is taken for it.
func (c *call) findMaker() {
	for _, arg := range c.args {
		dir, err := c.open(arg)
		if err != nil {
			continue
		}
		if container, err := oci.ReadContainer(dir); err == nil {
			c.belongsTo(container)
		}
		dir.Close()
		return
	}
}
