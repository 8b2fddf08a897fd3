package shim

import (
	"time"

	"gracerun.io/runtime"
	"gracerun.io/supervisor/control"
)

// state is `state ID`. It prints what the wrapped runtime would print.
func (c *call) state() int {
	args, ok := c.scan(nil)
	if !ok || len(args) != 1 {
		return c.become(c.argv)
	}
	dir, err := c.open(args[0])
	if err == runtime.ErrNotExist {
		return c.stateByRuntime()
	}
	if err != nil {
		return c.fail(err)
	}
	// While a supervisor's create is under way the runtime's files may have a container
	// already that the supervisor knows nothing of yet.
	container, err := c.find(dir, args[0])
	if err != nil || !container.Known() {
		c.belongsTo(container.Container)
		return c.stateByRuntime() // it has the right words, or knows more
	}
	status, pid := "", container.Init.Pid
	conn, err := c.dial(dir)
	if err == nil {
		// A supervisor that hangs must not keep its container from being looked at.
		reply, err := conn.Ask(control.Request{Verb: control.State, Grace: control.OwnGrace}, stateTimeout)
		conn.Close()
		if err == nil && reply.Answer == control.Current {
			status, pid = reply.Status, reply.Pid
		}
	}
	if status == "" {
		if status, err = look(container); err != nil {
			return c.fail(err)
		}
	}
	write(1, container.State(status, pid))
	return 0
}

const stateTimeout = time.Second

func (c *call) stateByRuntime() int { return c.hand("runtime.state", 0, c.argv[1:]) }

// look finds out the status of a container without asking its supervisor.
func look(container known) (status string, err error) {
	exited, err := container.hasExited()
	if err != nil {
		return "", err
	}
	return container.Look(!exited)
}
