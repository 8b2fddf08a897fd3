package shim

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
)

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
