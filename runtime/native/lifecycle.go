package native

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

func startCommand(*flag.FlagSet) action {
	return func(g *globals, args []string) error {
		container, status, err := loadWithStatus(g, args[0])
		switch {
		case err != nil:
			return err
		case status == libcontainer.Stopped:
			return errors.New("cannot start a container that has stopped")
		case status == libcontainer.Running:
			return errors.New("cannot start an already running container")
		case status != libcontainer.Created:
			return fmt.Errorf("cannot start a container in the %s state", status)
		}
		notify := newNotifyProxy(g, args[0])
		if err := notify.listen(); err != nil {
			return err
		}
		if err := container.Exec(); err != nil {
			return err
		}
		if err := runPoststart(g, container); err != nil {
			return errors.Join(err, killAndDestroy(container))
		}
		state, err := container.State()
		if err != nil {
			return err
		}
		return notify.relay(state.InitProcessPid, state.InitProcessPid)
	}
}

func killCommand(flags *flag.FlagSet) action {
	all := flags.Bool("all", false, "obsolete: KILL reaches all processes anyway")
	alias(flags, "all", "a")
	return func(g *globals, args []string) error {
		container, err := load(g, args[0])
		if err != nil {
			return err
		}
		sig := signals.TERM
		if len(args) > 1 && args[1] != "" {
			if sig, err = signals.ParseKill(args[1]); err != nil {
				return err
			}
		}
		err = signalInit(container, sig)
		if *all && errors.Is(err, libcontainer.ErrNotRunning) {
			return nil // containerd kills what is left of a container this way
		}
		return err
	}
}

// signalInit sends the signal to the container's init process. The error is
// libcontainer.ErrNotRunning if it has ended.
func signalInit(container *libcontainer.Container, sig signals.Signal) error {
	config := container.Config()
	if sig == signals.KILL && !config.Namespaces.IsPrivate(configs.NEWPID) {
		// The other processes would live on: libcontainer kills the whole cgroup.
		return container.Signal(unix.SIGKILL)
	}
	init, err := openInit(container)
	if err != nil {
		return err
	}
	defer init.Close()
	if err := init.Send(sig); err != nil {
		return fmt.Errorf("unable to signal init: %w", err)
	}
	if sig == signals.KILL {
		thaw(container)
	}
	return nil
}

// openInit gives a pidfd of the init process. libcontainer looks whether the
// number is still that of init and then signals the number; here the pidfd is
// opened first, so that what was looked at is what is signalled.
func openInit(container *libcontainer.Container) (process.Pidfd, error) {
	state, err := container.State()
	if err != nil {
		return -1, err
	}
	init, err := process.OpenVerified(process.Identity{
		Pid:       state.InitProcessPid,
		StartTime: state.InitProcessStartTime,
	})
	if errors.Is(err, process.ErrGone) || errors.Is(err, process.ErrReused) {
		return -1, libcontainer.ErrNotRunning
	} else if err != nil {
		return -1, err
	}
	exited, err := init.Exited()
	if exited && err == nil {
		err = libcontainer.ErrNotRunning
	}
	if err != nil {
		init.Close()
		return -1, err
	}
	return init, nil
}

// thaw lets a killed container die: on cgroup v1 a frozen process does not even
// take KILL.
func thaw(container *libcontainer.Container) {
	if status, err := container.Status(); err == nil && status == libcontainer.Paused {
		if err := container.Resume(); err != nil {
			logrus.Warn("thaw the container so that it can die: " + err.Error())
		}
	}
}

func deleteCommand(flags *flag.FlagSet) action {
	force := flags.Bool("force", false, "kill the container if it is still running")
	alias(flags, "force", "f")
	return func(g *globals, args []string) error {
		container, status, err := loadWithStatus(g, args[0])
		switch {
		case errors.Is(err, libcontainer.ErrNotExist):
			return removeRemains(g, args[0], *force)
		case err != nil:
			return err
		// Also of a stopped container something may be left to kill, if it has
		// no pid namespace of its own.
		case *force || status == libcontainer.Created:
			return killAndDestroy(container)
		case status == libcontainer.Stopped:
			return destroy(container)
		}
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", args[0], status)
	}
}

// removeRemains removes what a create leaves that was killed before it had
// written the state: a directory. load has found the id to be a valid one.
func removeRemains(g *globals, id string, force bool) error {
	directory := filepath.Join(g.root, id)
	if err := os.RemoveAll(directory); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", directory, err)
	}
	if force {
		return nil
	}
	return libcontainer.ErrNotExist
}

// killTimeout is how long a killed init process may take to end before `delete`
// gives up: the ten seconds that runc waits.
const killTimeout = 10 * time.Second

func killAndDestroy(container *libcontainer.Container) error {
	init, err := openInit(container)
	switch {
	case err == nil:
		defer init.Close()
	case !errors.Is(err, libcontainer.ErrNotRunning):
		return err
	}
	// An error is of no interest as long as the container ends.
	killed := container.Signal(unix.SIGKILL)
	if err == nil {
		exited, err := init.Wait(killTimeout)
		if err != nil {
			return err
		}
		if !exited {
			return errors.Join(errors.New("container init still running"), killed)
		}
	}
	return destroy(container)
}

func pauseCommand(*flag.FlagSet) action {
	return func(g *globals, args []string) error {
		container, err := load(g, args[0])
		if err != nil {
			return err
		}
		return hintAtCgroups("pause", container.Pause())
	}
}

func resumeCommand(*flag.FlagSet) action {
	return func(g *globals, args []string) error {
		container, err := load(g, args[0])
		if err != nil {
			return err
		}
		return hintAtCgroups("resume", container.Resume())
	}
}

// hintAtCgroups tells an ordinary user why an operation was not permitted.
func hintAtCgroups(operation string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		logrus.Warn(program + " " + operation + " failure might be caused by lack of full access to cgroups")
	}
	return err
}

func noCRIU(*flag.FlagSet) action {
	return func(*globals, []string) error {
		return errors.New(program + " is built without checkpoint and restore, which need CRIU: use runc or crun for this container")
	}
}
