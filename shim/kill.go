package shim

import (
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

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
	reply, err := c.ask(dir, control.Request{Verb: control.Signal, Signal: sig, All: all, Force: force, Grace: control.OwnGrace, By: c.caller()})
	ev := lifecycle.Event{Kind: lifecycle.SignalRequest, Signal: sig, All: all, Force: force, By: c.caller()}
	var b *beside
	switch {
	case err == control.ErrNoSupervisor:
		reply, err = c.askAlone(dir, id, ev)
	case errors.As(err, &b):
		c.warn("container " + id + ": " + b.Error() + ": " + sig.String() + " is sent without it")
		reply, err = c.askBeside(dir, id, b, ev)
	}
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

// patience is how long a supervisor that answers may take for what it does at once.
const patience = 10 * time.Second

// ask makes a request of the container's supervisor. The error is
// control.ErrNoSupervisor if there is none or it has died before it replied, and a
// *beside if it lives and does not answer.
func (c *call) ask(dir *statedir.Dir, request control.Request) (control.Reply, error) {
	reply, conn, err := c.askAndStay(dir, request)
	if conn >= 0 {
		conn.Close()
	}
	return reply, err
}

// askAndStay is ask, and gives the connection for what else there is to say; -1
// if it is of no use. If the supervisor dies, or is found dead, its successor is
// asked: what was done already is not done again.
func (c *call) askAndStay(dir *statedir.Dir, request control.Request) (control.Reply, control.Conn, error) {
	for range maxDeaths {
		conn, err := c.dial(dir)
		if err == control.ErrTimeout {
			b := &beside{why: "with many callers before this one"}
			if canTakeOver(request) {
				_, err = c.takeOver(-1, dir, b)
				return control.Reply{}, -1, err
			}
			return control.Reply{}, -1, b
		}
		if err != nil {
			return control.Reply{}, -1, err
		}
		reply, err := c.askOn(conn, dir, request)
		if err == nil {
			return reply, conn, nil
		}
		conn.Close()
		if err != control.ErrNoSupervisor {
			return reply, -1, err
		}
		request.Again = true
	}
	return control.Reply{}, -1, control.ErrNoSupervisor
}

// connect connects to the supervisor that listens in the directory. The error is
// control.ErrNoSupervisor if there is none.
func connect(dir *statedir.Dir) (control.Conn, error) { return control.DialAt(dir.FD(), dir.Path()) }

// maxDeaths is how many supervisors may die of a request.
const maxDeaths = 8

// dial connects to the supervisor. One that is dead gets a successor first.
func (c *call) dial(dir *statedir.Dir) (control.Conn, error) {
	for range maxDeaths {
		conn, err := connect(dir)
		if err != control.ErrNoSupervisor || !c.supervisorIsDead(dir) {
			return conn, err
		}
	}
	return -1, control.ErrNoSupervisor
}

// askOn makes the request on a connection. While there is no reply it looks again and
// again whether the supervisor answers at all, and whether what it does will ever be
// done.
func (c *call) askOn(conn control.Conn, dir *statedir.Dir, request control.Request) (control.Reply, error) {
	asked := now()
	var killing, ending span
	quiet := mayBeHeld(request)
	reply, err := conn.Ask(request, prompt)
	for ; err == control.ErrTimeout; reply, err = conn.Await(prompt) {
		state, b := c.lookAt(conn, dir)
		if quiet && state.Phase == lifecycle.Stopping.String() && now() >= asked.After(lifecycle.Duration(silence)) {
			quiet = false
			c.sayHeld(idOf(dir), state.Left)
		}
		switch {
		case b == errDying:
			return reply, control.ErrNoSupervisor
		case b != nil && canTakeOver(request):
			return c.takeOver(conn, dir, b)
		case b != nil:
			conn.Withdraw()
			return reply, b
		case killing.isTooLong(state.Phase == lifecycle.Killing.String()):
			return reply, &undying{state.Pid}
		case ending.isTooLong(state.Phase == lifecycle.Draining.String()) && waits(request):
			// Its log and its exit file are the supervisor's business, which goes on.
			return c.withoutRecord(request, state), nil
		case !waits(request) && now() >= asked.After(lifecycle.Duration(patience)):
			return reply, errors.New("its supervisor has not done that for " + patience.String() + "; what became of the request is not known")
		}
	}
	if err == control.ErrHungUp {
		err = control.ErrNoSupervisor // it died
	}
	return reply, err
}

// lookAt asks a supervisor that has not replied on the connection what it does, on
// another one. With errDying it is as good as dead, and has no successor yet; another
// *beside says that it lives and does not answer. One that only has no processor is
// given time.
func (c *call) lookAt(conn control.Conn, dir *statedir.Dir) (state control.Reply, b *beside) {
	for begun := now(); ; {
		if probe, err := connect(dir); err == nil {
			state, err = probe.Ask(control.Request{Verb: control.State, Grace: control.OwnGrace}, prompt)
			probe.Close()
			if err == nil {
				return state, nil
			}
		} else if err == control.ErrNoSupervisor {
			return state, nil // the connection will end, too
		}
		pid, _ := conn.Supervisor()
		dying, condition, err := process.Dying(pid)
		switch {
		case err != nil: // not seen from here, or gone just now
			return state, &beside{pid: pid}
		case dying && c.supervisorIsDead(dir):
			return state, errDying
		case condition == running && now() < begun.After(lifecycle.Duration(patience)):
			continue
		}
		return state, &beside{pid: pid, why: describe(dying, condition)}
	}
}

// errDying stands for a supervisor that was killed and cannot end, and has a
// successor.
var errDying = &beside{why: "killed"}

const running = process.State('R')

// describe says why a process does not answer.
func describe(dying bool, state process.State) string {
	switch {
	case dying:
		return "killed and not ended yet"
	case state == process.Stopped, state == process.TraceeStop:
		return "stopped"
	case state == process.DiskSleep:
		return "in uninterruptible sleep"
	}
	return ""
}

// withoutRecord is the reply for a container that has ended, whose log and exit file
// the supervisor has not been able to complete for so long.
func (c *call) withoutRecord(request control.Request, state control.Reply) control.Reply {
	c.warn("the container has ended, but its supervisor has not been able to complete its log or to write its exit file for " +
		patience.String() + ": it goes on trying")
	r := control.Reply{Answer: control.Ended, Exit: state.Exit}
	switch request.Verb {
	case control.Delete:
		r.Answer = control.Granted
	case control.Signal:
		r.Answer = control.NotRunning
	}
	return r
}

// canTakeOver: the request can be seen to without the supervisor.
func canTakeOver(r control.Request) bool {
	return r.Verb == control.Signal || r.Verb == control.Stop || r.Verb == control.Delete && r.Force
}

// waits: the request can be one that is answered at the end of a grace period.
func waits(r control.Request) bool {
	return r.Verb == control.Stop || r.Verb == control.Delete || r.Verb == control.Signal && r.Signal == signals.KILL
}

// explain says in words what a reply means that is no success.
func explain(r control.Reply) string {
	switch {
	case r.Answer == control.Failed && r.Text != "":
		return r.Text
	case r.Answer == control.Failed:
		return unix.Errno(r.Errno).Error()
	case r.Text != "":
		return r.Answer.String() + ": " + r.Text
	}
	return r.Answer.String()
}
