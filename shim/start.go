package shim

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/runtime/startup"
	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

// start is `start ID`. The machine is asked for leave: a container that was told
// to stop is not started any more. Where the machine says no for a reason that the
// wrapped runtime knows as well, that one says so.
func (c *call) start() int {
	args, ok := c.scan(nil)
	if !ok || len(args) != 1 {
		return c.become(c.argv)
	}
	dir, err := c.open(args[0])
	if err == runtime.ErrNotExist {
		return c.hand("runtime.start", 0, c.argv[1:])
	}
	if err != nil {
		return c.fail(err)
	}
	reply, conn, err := c.askForStart(dir)
	if conn >= 0 {
		defer func() { conn.Close() }()
	}
	var k known
	if err == nil {
		if k, err = c.find(dir, args[0]); err == nil {
			c.belongsTo(k.Container)
			defer k.close()
		}
		err = nil
	}
	id := args[0]
	switch {
	case err == control.ErrNoSupervisor:
		return c.startAlone(dir, id)
	case err != nil:
		return c.fail(errors.New("start container " + id + ": " + err.Error()))
	case reply.Answer == control.Refused && c.isStopping(conn):
		return c.fail(errStopped(id))
	case reply.Answer != control.Granted:
		return c.runStart()
	}
	do := func() (int, error) { return c.startOrSpawn(dir, k) }
	return c.reportStart(do, func(status int) {
		request := control.Request{Verb: control.StartDone, Status: uint8(status), Grace: control.OwnGrace}
		_, err := conn.Ask(request, patience)
		if err == control.ErrHungUp {
			_, err = c.ask(dir, request) // its successor waits for it
		}
		if err != nil && err != control.ErrNoSupervisor {
			// It finds out for itself: this process ends.
			c.warn("tell the supervisor of container " + id + " that it was started: " + err.Error())
		}
	})
}

// askForStart asks the supervisor for leave to start. A create that is under way has
// to end before: what the runtime has made by then nobody looks after yet.
func (c *call) askForStart(dir *statedir.Dir) (reply control.Reply, conn control.Conn, err error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(pause) {
		reply, conn, err = c.askAndStay(dir, control.Request{Verb: control.Start, Grace: control.OwnGrace, By: c.caller()})
		if err != nil || reply.Answer != control.Refused {
			return reply, conn, err
		}
		if state, err := currentState(conn); err != nil || state.Status != "creating" || state.Stop != 0 {
			return reply, conn, nil
		}
		conn.Close()
		if time.Now().After(deadline) {
			return reply, -1, hasNotEnded("its create")
		}
	}
}

func currentState(conn control.Conn) (control.Reply, error) {
	return conn.Ask(control.Request{Verb: control.State, Grace: control.OwnGrace}, patience)
}

// isStopping tells whether a stop is the reason of a refusal.
func (c *call) isStopping(conn control.Conn) bool {
	reply, err := currentState(conn)
	return err == nil && reply.Answer == control.Current &&
		(reply.Stop != 0 || reply.Phase == lifecycle.Stopping.String() || reply.Phase == lifecycle.Killing.String())
}

func errStopped(id string) error {
	return errors.New("cannot start container " + id + ": it was told to stop before it was started")
}

// startOrSpawn starts the container, directly or by the wrapped runtime.
func (c *call) startOrSpawn(dir *statedir.Dir, k known) (status int, err error) {
	if startDirectly(dir, k) {
		return 0, nil
	}
	return c.spawn(c.argv[1:])
}

// runStart runs the wrapped runtime's start.
func (c *call) runStart() int {
	return c.reportStart(func() (int, error) { return c.spawn(c.argv[1:]) }, nil)
}

// reportStart does what starts the container and has its status reported.
func (c *call) reportStart(do func() (int, error), report func(status int)) int {
	status, err := c.through("runtime.start", 0, do)
	if err != nil && status == 0 {
		status = 1
	}
	if report != nil {
		report(status)
	}
	if err != nil {
		return c.fail(err)
	}
	return status
}

func (c *call) startAlone(dir *statedir.Dir, id string) int {
	a, err := c.attend(dir, id, nil)
	if err == errUnknown {
		// A create that is under way has to end before: nobody would hear of the start.
		switch lockWithin(dir.FD(), patience) {
		case nil:
			journal.Unlock(dir.FD())
			a, err = c.attend(dir, id, nil)
		case errBusy:
			return c.fail(errors.New("start container " + id + ": " + hasNotEnded("its create").Error()))
		}
	}
	var bad *unusable
	if errors.As(err, &bad) {
		c.warn("container " + id + ": " + bad.Error() + ": it is started all the same")
	}
	if err != nil {
		return c.runStart()
	}
	defer a.leave()
	lock, err := lockFile(dir, startLock, 0)
	if err == errBusy || err == errDeleted {
		a.exit()
		return c.runStart() // another one is at it; the runtime lets one win
	}
	if err != nil {
		c.warn("container " + id + ": lock its state directory: " + err.Error() + ": it is started all the same")
		a.exit()
		return c.runStart()
	}
	defer unix.Close(lock)
	if isLocked(dir, deleteLock) {
		a.exit()
		return c.fail(errors.New("start container " + id + ": it is being deleted"))
	}
	a.step(lifecycle.Event{Kind: lifecycle.StartRequest, Request: a.self, By: c.caller()})
	granted := a.answer != nil && a.answer.Outcome == lifecycle.Granted
	stopping := a.machine.StopSignal() != 0 || a.machine.State() == lifecycle.Killing
	a.exit()
	if !granted {
		if stopping && !a.hasExited() {
			return c.fail(errStopped(id))
		}
		return c.runStart()
	}
	do := func() (int, error) { return c.startOrSpawn(dir, known{Container: a.container, init: a.pidfd}) }
	return c.reportStart(do, func(status int) {
		if err := a.enter(); err != nil {
			if err != errDeleted && err != errSupervised { // it sees for itself
				c.warn("note that container " + id + " was started: " + err.Error())
			}
			return
		}
		// One that is about to run its program is under way until then, for whoever
		// steps the machine next.
		if a.machine.Starting() == a.self && a.progress() != startup.UnderWay {
			a.step(lifecycle.Event{Kind: lifecycle.StartDone, Errno: errnoOfStatus(status)})
		}
		a.exit()
	})
}

func errnoOfStatus(status int) int32 {
	if status == 0 {
		return 0
	}
	return int32(unix.EIO)
}

// startPause is how often somebody whose signal waits for the start looks whether the
// container's program runs.
const startPause = 5 * lifecycle.Millisecond

// lookForStart tells the machine of a start that is over, or that the runtime itself
// was asked for. For the machine it is under way until the container's program runs.
func (a *alone) lookForStart() {
	starting := a.machine.Starting()
	if a.machine.Started() || !a.machine.Created() || starting == a.self && starting != 0 || a.hasExited() {
		return
	}
	switch a.progress() {
	case startup.Runs:
		a.step(lifecycle.Event{Kind: lifecycle.StartDone})
	case startup.UnderWay:
		if starting == 0 {
			a.step(lifecycle.Event{Kind: lifecycle.StartRequest, Request: freeRequest(a.machine, a.self)})
		}
	case startup.Waits:
		if starting != 0 && a.startIsDead() {
			a.step(lifecycle.Event{Kind: lifecycle.Abandoned, Request: starting})
		}
	}
}

// progress tells how far the start has come.
func (a *alone) progress() startup.Progress {
	sig := a.machine.StopSignal()
	if sig == 0 {
		sig = a.journal.Config().StopSignal
	}
	s := startup.Container{Dir: a.container.Dir, Init: a.pidfd, Pid: a.container.Init.Pid, Signal: sig}
	return s.Look()
}

// startIsDead tells whether the one who was granted the start is gone.
func (a *alone) startIsDead() bool {
	if a.beside != nil {
		return a.beside.starterIsDead(a.machine.Starting())
	}
	return a.machine.Starting() != a.self && !isLocked(a.dir, startLock)
}
