package shim

import (
	"errors"
	"time"

	"gracerun.io/runtime"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

// delete is `delete [--force] ID`. Whether a container may be deleted the wrapped
// runtime decides; the supervisor is asked first, since it may have to end the
// container, or still be saving its last output. The state directory goes last:
// until then another `delete --force` can do it all again.
func (c *call) delete() int {
	var force bool
	args, ok := c.scan([]flag{{name: "force", short: "f", on: &force}})
	if !ok || len(args) != 1 {
		return c.become(c.argv)
	}
	if force {
		c.faults = nil // nothing is to keep it from what is insisted on
	}
	dir, err := c.open(args[0])
	if err == runtime.ErrNotExist {
		return c.hand("runtime.delete", 0, c.argv[1:])
	}
	if err != nil {
		return c.fail(err)
	}
	container, err := c.container(dir, args[0])
	if err == nil {
		c.belongsTo(container)
	}
	err = c.askForDelete(dir, force)
	var b *beside
	if errors.As(err, &b) {
		c.warn("delete container " + args[0] + ": " + b.Error() + ": it is deleted without it")
		err = nil // what is to be deleted, and what not, the runtime decides
		if force {
			_, err = c.askBeside(dir, args[0], b, lifecycle.Event{Kind: lifecycle.StopRequest, By: c.caller()})
		}
	}
	switch {
	case err == control.ErrNoSupervisor:
		lock, err := c.beginDelete(dir, args[0], force)
		if err == errDeleted {
			dir.Close()
			return c.delete() // another one was faster
		}
		if err != nil {
			return c.fail(errors.New("delete container " + args[0] + ": " + err.Error()))
		}
		defer closeLock(lock)
	case err != nil && !force, errors.As(err, new(*undying)):
		return c.fail(errors.New("delete container " + args[0] + ": " + err.Error()))
	case err != nil:
		c.warn("delete container " + args[0] + " without its supervisor: " + err.Error())
	default:
		c.warnIfNotRecorded(dir, args[0])
	}
	status, err := c.through("runtime.delete", 0, func() (int, error) { return c.spawnDelete(container, force) })
	if err != nil {
		return c.fail(errors.New("delete container " + args[0] + ": " + err.Error()))
	}
	if status == 0 || !c.isKnown(dir, args[0]) {
		c.forget(dir, args[0])
	}
	return status
}

// askForDelete asks the supervisor for leave to delete. A start that is under way has
// to end before: for the runtime the container might be a created one still, which is
// deleted as a stopped one is.
func (c *call) askForDelete(dir *statedir.Dir, force bool) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(pause) {
		reply, conn, err := c.askAndStay(dir, control.Request{Verb: control.Delete, Force: force, Grace: control.OwnGrace, By: c.caller()})
		if err != nil {
			return err
		}
		starting := false
		if reply.Answer == control.Refused {
			state, err := currentState(conn)
			starting = err == nil && state.Status == "created"
		}
		conn.Close()
		switch {
		case !starting:
			return nil
		case time.Now().After(deadline):
			return hasNotEnded("its start")
		}
	}
}

// warnIfNotRecorded says what the supervisor of a container that may be deleted has not
// been able to do yet.
func (c *call) warnIfNotRecorded(dir *statedir.Dir, id string) {
	conn, err := connect(dir)
	if err != nil {
		return
	}
	defer conn.Close()
	state, err := conn.Ask(control.Request{Verb: control.State, Grace: control.OwnGrace}, prompt)
	if err == nil && state.Phase == lifecycle.Draining.String() {
		c.warn("container " + id + " is deleted, but its exit file cannot be written: its supervisor goes on trying")
	}
}

// beginDelete takes the lock under which there is one delete at a time, after any
// create, and after any start unless it is forced (see askForDelete). Hooks of all of them may
// call gracerun: nobody is waited for without end. It is -1 where there cannot be one.
func (c *call) beginDelete(dir *statedir.Dir, id string, force bool) (lock int, err error) {
	lock, err = lockFile(dir, deleteLock, patience)
	switch err {
	case nil:
	case errBusy:
		return -1, hasNotEnded("another delete of it")
	case errDeleted:
		return -1, err
	default: // no room, or read-only: all the more reason to delete what the runtime has
		c.warn("container " + id + ": lock its state directory: " + err.Error() + ": it is deleted all the same")
	}
	if err = lockWithin(dir.FD(), patience); err == nil {
		journal.Unlock(dir.FD())
		if err = c.awaitStart(dir, force); err == nil {
			return lock, nil
		}
	}
	closeLock(lock)
	if err == errBusy {
		err = hasNotEnded("its create")
	}
	return -1, err
}

// awaitStart waits for the end of a start that is under way. One that comes later finds
// the delete.
func (c *call) awaitStart(dir *statedir.Dir, force bool) error {
	for deadline := time.Now().Add(patience); !force && isLocked(dir, startLock); time.Sleep(pause) {
		if time.Now().After(deadline) {
			return hasNotEnded("its start")
		}
	}
	return nil
}

// hasNotEnded says why nobody waits any longer.
func hasNotEnded(what string) error {
	return errors.New(what + " has not ended for " + patience.String() + ": does one of its hooks hang, or wait for this call?")
}

// forget removes what there is of a container that the runtime has deleted. Nobody
// is to step its machine, or to begin to wait, while that goes away.
func (c *call) forget(dir *statedir.Dir, id string) {
	err := journal.Lock(dir.FD())
	if err == nil && !isRemoved(dir) { // else it was done for us, and the id may be another container's
		c.removeScope(scopeOf(dir))
		err = c.retire(dir)
	}
	if err != nil {
		c.warn("remove what is left of container " + id + ": " + err.Error())
	}
}

// retire removes the state directory of a container that is gone, and keeps its
// journal. What the configuration file has wrong is no matter here.
func (c *call) retire(dir *statedir.Dir) error {
	warning, err := history.Retire(dir, c.settings().History)
	if warning != nil {
		c.warn(warning.Error())
	}
	return err
}

// isKnown tells whether the wrapped runtime knows the container. When it does
// not, a delete fails, and what gracerun has of it goes all the same.
func (c *call) isKnown(dir *statedir.Dir, id string) bool {
	if container, err := oci.ReadContainer(dir); err == nil {
		return container.Known()
	}
	program, err := c.program()
	if err != nil {
		return true
	}
	where, err := c.runtimeDir(program, id)
	return err != nil || oci.Has(where)
}

// The two ways of pauseOrResume.
const (
	pauseDone  = control.PauseDone
	resumeDone = control.ResumeDone
)

// pauseOrResume runs the wrapped runtime's pause or resume, and tells the
// supervisor. Where there is none, whoever steps the machine next asks the cgroup.
func (c *call) pauseOrResume(done control.Verb) int {
	args, ok := c.scan(nil)
	if !ok || len(args) != 1 {
		return c.become(c.argv)
	}
	dir, err := c.open(args[0])
	if err != nil {
		return c.become(c.argv)
	}
	if container, err := c.container(dir, args[0]); err == nil {
		c.belongsTo(container)
	}
	conn, err := c.dial(dir)
	if err != nil {
		return c.become(c.argv)
	}
	defer conn.Close()
	status, err := c.spawn(c.argv[1:])
	if err != nil {
		return c.fail(err)
	}
	if status == 0 {
		if _, err := conn.Ask(control.Request{Verb: done, Grace: control.OwnGrace}, time.Second); err != nil {
			c.warn("tell the supervisor of container " + args[0] + " that it was paused or resumed: " + err.Error())
		}
	}
	return status
}
