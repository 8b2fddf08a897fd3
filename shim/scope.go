package shim

import (
	"errors"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/scope"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/settings"
)

// prepareScope sees to it that the scope that is about to be made will be as the
// annotations ask; nil means that nothing is asked.
//
// Its monitor is to be stopped after it: of monitors only gracemon is made for
// that, whose exit command survives it.
func (c *call) prepareScope(dir *statedir.Dir, id, program string, config *bundle.Config, supervised bool) *scope.Scope {
	if !c.systemd {
		return nil
	}
	if c.settings().Scope == settings.IgnoreScope {
		return nil
	}
	monitor := ""
	if supervised {
		monitor = monitorScope()
	}
	unit := scopeFor(id, program, config, monitor)
	if unit == nil {
		return nil
	}
	if err := dir.WriteFile(scopeFile, []byte(unit.Unit)); err != nil {
		c.warn("container " + id + ": " + err.Error())
		return nil // what is not noted down would not be removed
	}
	if err := unit.Prepare(); err != nil {
		// Perhaps the runtime does without: it is looked at afterwards.
		c.warn("container " + id + ": " + err.Error())
	}
	return unit
}

// monitorScope gives the scope of the monitor that has started this call, "" if
// there is none.
func monitorScope() string {
	cgroups, err := readFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	return scope.Monitor(string(cgroups))
}

// scopeFor gives the scope that the runtime will make, nil if nothing is asked of it.
// monitor is that of the monitor, "" if there is none.
func scopeFor(id, program string, config *bundle.Config, monitor string) *scope.Scope {
	return scope.Of(id, config.CgroupsPath, oci.StyleOf(program) == oci.Crun, config.Annotations, monitor, getenv)
}

// verifyScope looks whether the scope that was made is as asked. It gives false if it
// is not and that is required: the container is to end.
func (c *call) verifyScope(id, program string, unit *scope.Scope) bool {
	if unit == nil {
		return true
	}
	repaired, err := unit.Verify()
	if err == nil {
		if repaired != "" {
			c.warn("container " + id + ": set right of " + unit.Unit + ": " + repaired)
		}
		return true
	}
	if c.command == "run" && c.hasEnded(program, id) {
		return true // and its scope is gone with it
	}
	if c.settings().Scope != settings.RequireScope {
		c.warn("container " + id + ": " + err.Error() + "; at shutdown it may be killed inside its grace period")
		return true
	}
	c.fail(errors.New(c.command + " container " + id + ": " + err.Error() + " (systemd.scope = \"require\" in " + settings.Path() + ")"))
	return false
}

// hasEnded tells whether the runtime's container has ended, or is deleted.
func (c *call) hasEnded(program, id string) bool {
	where, err := c.runtimeDir(program, id)
	if err != nil {
		return false
	}
	status, err := oci.ReadStatus(where)
	if err != nil {
		return errors.Is(err, unix.ENOENT)
	}
	p, err := process.OpenVerified(process.Identity{Pid: status.Pid, StartTime: status.StartTime})
	if err != nil {
		return errors.Is(err, process.ErrGone) || errors.Is(err, process.ErrReused)
	}
	defer p.Close()
	exited, err := p.Exited()
	return err == nil && exited
}

// scopeFile, in the state directory, has the name of the unit for which there may
// be a drop-in.
const scopeFile = "scope"

// scopeOf gives the scope that prepareScope has seen to; nil if there is none.
func scopeOf(dir *statedir.Dir) *scope.Scope {
	unit, err := dir.ReadFile(scopeFile)
	if err != nil {
		return nil
	}
	return scope.Named(string(unit), getenv)
}

// removeScope takes away what prepareScope has left.
func (c *call) removeScope(unit *scope.Scope) {
	if unit == nil {
		return
	}
	if err := unit.Remove(); err != nil {
		c.warn(err.Error())
	}
}

func getenv(name string) string {
	v, _ := unix.Getenv(name)
	return v
}
