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
	reply, err := c.ask(dir, control.Request{Verb: control.Signal, Signal: sig, All: all, Force: force, Grace: control.OwnGrace})
	if err == control.ErrNoSupervisor {
		reply, err = c.askAlone(dir, id, lifecycle.Event{Kind: lifecycle.SignalRequest, Signal: sig, All: all, Force: force})
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
		return c.fail(runtime.ErrNotRunning)
	case control.NotFound:
		return c.fail(runtime.ErrNotExist)
	}
	return c.fail(errors.New("kill container " + id + " with " + sig.String() + ": " + explain(reply)))
}

// killByRuntime has the wrapped runtime send the signal.
func (c *call) killByRuntime(id, sig string, all bool) int {
	args := append(c.globals[:len(c.globals):len(c.globals)], "kill")
	if all {
		args = append(args, "--all")
	}
	number, _ := signals.ParseKill(sig)
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

// patience is how long a supervisor may take for what it does at once. Every
// slice of that length a caller who waits for the end of a stop looks whether the
// supervisor still answers.
const patience = 10 * time.Second

// ask makes a request of the container's supervisor. The error is
// control.ErrNoSupervisor if there is none or it has died before it replied.
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

func (c *call) askOn(conn control.Conn, dir *statedir.Dir, request control.Request) (control.Reply, error) {
	reply, err := conn.Ask(request, patience)
	for err == control.ErrTimeout && waits(request) && c.answers(dir) {
		reply, err = conn.Await(patience)
	}
	if err == control.ErrTimeout {
		err = errors.New("the supervisor of the container does not answer; what became of the request is not known")
	}
	if err == control.ErrHungUp {
		err = control.ErrNoSupervisor // it died
	}
	return reply, err
}

// waits: the request can be one that is answered at the end of a grace period.
func waits(r control.Request) bool {
	return r.Verb == control.Stop || r.Verb == control.Delete || r.Verb == control.Signal && r.Signal == signals.KILL
}

// answers tells whether the supervisor answers another question.
func (c *call) answers(dir *statedir.Dir) bool {
	conn, err := connect(dir)
	if err != nil {
		return false
	}
	defer conn.Close()
	_, err = conn.Ask(control.Request{Verb: control.State, Grace: control.OwnGrace}, patience)
	return err == nil
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
