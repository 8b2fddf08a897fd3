package shim

import (
	"errors"
	"strconv"

	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
)

// kill is `kill [--all] [--force] ID [SIGNAL]`. --force is gracerun's own: it
// passes where the policy would hold the signal.
func (c *call) kill() int {
	var all, force bool
	args, ok := c.scan([]flag{{name: "all", short: "a", on: &all}, {name: "force", on: &force}})
	if !ok || len(args) < 1 || len(args) > 2 {
		return c.become(c.argv)
	}
	if force {
		c.faults = nil // nothing is to keep it from what is insisted on
	}
	id, text := args[0], "SIGTERM"
	if len(args) == 2 && args[1] != "" {
		text = args[1]
	}
	dir, err := c.open(id)
	if err == runtime.ErrNotExist {
		return c.killByRuntime(id, text, all)
	}
	if err != nil {
		return c.fail(err)
	}
	sig, err := signals.ParseKill(text)
	if err != nil {
		return c.fail(err)
	}
	if sig == signals.Probe {
		return c.probe(dir, id, all)
	}
	ev := lifecycle.Event{Kind: lifecycle.SignalRequest, Signal: sig, All: all, Force: force, By: c.caller()}
	reply, err := c.request(dir, id, ev, sig.String()+" is sent without it")
	var bad *unusable
	if errors.As(err, &bad) {
		c.warn("container " + id + ": " + bad.Error() + ": the runtime sends the signal, whatever the policy is")
		err = errUnknown
	}
	switch {
	case err == errUnknown || err == nil && reply.Answer == control.NotRunning && all:
		// Without a pid namespace of its own a container can have processes left.
		return c.killByRuntime(id, strconv.Itoa(int(sig)), all)
	case err != nil:
		return c.fail(err)
	}
	switch reply.Answer {
	case control.Delivered, control.Joined, control.Ended:
		return 0
	case control.NotRunning:
		if sig == signals.KILL && c.killLeft(dir, id) {
			return 0
		}
		return c.fail(runtime.ErrNotRunning)
	case control.NotFound:
		return c.fail(runtime.ErrNotExist)
	}
	return c.fail(errors.New("kill container " + id + " with " + sig.String() + ": " + explain(reply)))
}

// killLeft kills what has outlived the init of a container that has no pid namespace
// of its own. It reports whether there was something to kill.
func (c *call) killLeft(dir *statedir.Dir, id string) bool {
	container, err := c.find(dir, id)
	if err != nil {
		return false
	}
	defer container.close()
	if exited, err := container.hasExited(); err != nil || !exited || container.Init.IsOfAnotherBoot() {
		return false // the cgroup of that name is another's now
	}
	killed, err := container.Cgroup.KillLeft()
	if err != nil {
		c.warn("container " + id + ": kill what has outlived its init: " + err.Error())
	}
	return killed > 0
}

// killByRuntime has the wrapped runtime send the signal.
func (c *call) killByRuntime(id, sig string, all bool) int {
	args := append(c.globals[:len(c.globals):len(c.globals)], "kill")
	if all {
		args = append(args, "--all")
	}
	number, _ := signals.ParseKill(sig)
	if number == signals.KILL {
		c.faults = nil // there is no grace period that it would break
	}
	return c.hand("runtime.kill", number, append(args, id, sig))
}

// probe is `kill ID 0`: is it running?
func (c *call) probe(dir *statedir.Dir, id string, all bool) int {
	container, err := c.container(dir, id)
	if err != nil {
		return c.killByRuntime(id, "0", all)
	}
	pidfd, err := process.OpenVerified(container.Init)
	if err == nil {
		var exited bool
		if exited, err = pidfd.Exited(); err == nil && !exited {
			return 0
		}
	}
	if err != nil && !errors.Is(err, process.ErrGone) && !errors.Is(err, process.ErrReused) {
		return c.fail(err)
	}
	if all {
		return c.killByRuntime(id, "0", all)
	}
	return c.fail(runtime.ErrNotRunning)
}
