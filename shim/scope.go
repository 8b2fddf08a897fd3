package shim

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/scope"
	"gracerun.io/runtime/statedir"
)

// ScopePolicy says what becomes of a container whose systemd scope is not as its
// annotations ask.
type ScopePolicy uint8

const (
	// WarnOfScope creates it and says so in a warning. It is the default: the
	// container does its work until the host is shut down; to refuse it would
	// make of a flaw at shutdown an outage now.
	WarnOfScope ScopePolicy = iota

	// RequireScope fails its create and leaves nothing of it.
	RequireScope

	// IgnoreScope does not touch nor look at scopes at all.
	IgnoreScope
)

func parseScopePolicy(text string) (ScopePolicy, error) {
	for p, name := range []string{"warn", "require", "ignore"} {
		if text == name {
			return ScopePolicy(p), nil
		}
	}
	return 0, errors.New("unknown policy " + strconv.Quote(text) + ": want warn, require or ignore")
}

// prepareScope sees to it that the scope that is about to be made will be as the
// annotations ask; nil means that nothing is asked.
//
// Its monitor is to be stopped after it: of monitors only gracemon is made for
// that, whose exit command survives it.
func (c *call) prepareScope(dir *statedir.Dir, id, program string, config *bundle.Config, supervised bool) *scope.Scope {
	if !c.systemd {
		return nil
	}
	if settings, err := c.settings(); err != nil || settings.Scope == IgnoreScope {
		return nil
	}
	monitor := ""
	if supervised {
		monitor = monitorScope()
	}
	unit := scope.Of(id, config.CgroupsPath, oci.StyleOf(program) == oci.Crun, config.Annotations, monitor, getenv)
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

// verifyScope looks whether the scope that was made is as asked. If it is not and
// that is required, the container is deleted again, and false given.
func (c *call) verifyScope(id string, unit *scope.Scope) bool {
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
	settings, broken := c.settings()
	if broken != nil || settings.Scope != RequireScope {
		c.warn("container " + id + ": " + err.Error() + "; at shutdown it may be killed inside its grace period")
		return true
	}
	c.fail(errors.New("create container " + id + ": " + err.Error() + " (systemd.scope = \"require\" in " + ConfigPath + ")"))
	if _, err := c.spawn(append(append([]string(nil), c.globals...), "delete", "--force", id)); err != nil {
		c.warn("delete container " + id + ": " + err.Error())
	}
	return false
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
