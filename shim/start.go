package shim

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/control"
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
	reply, conn, err := c.askAndStay(dir, control.Request{Verb: control.Start, Grace: control.OwnGrace})
	if conn >= 0 {
		defer func() { conn.Close() }()
	}
	if err == nil {
		if container, err := c.container(dir, args[0]); err == nil {
			c.belongsTo(container)
		}
	}
	id := args[0]
	switch {
	case err == control.ErrNoSupervisor:
		return c.startAlone(dir, id)
	case err != nil:
		return c.fail(err)
	case reply.Answer == control.Refused && c.isStopping(conn):
		return c.fail(errStopped(id))
	case reply.Answer != control.Granted:
		return c.runStart(nil)
	}
	return c.runStart(func(status int) {
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

// isStopping tells whether a stop is the reason of a refusal.
func (c *call) isStopping(conn control.Conn) bool {
	reply, err := conn.Ask(control.Request{Verb: control.State, Grace: control.OwnGrace}, patience)
	return err == nil && reply.Answer == control.Current &&
		(reply.Stop != 0 || reply.Phase == lifecycle.Stopping.String() || reply.Phase == lifecycle.Killing.String())
}

func errStopped(id string) error {
	return errors.New("cannot start container " + id + ": it was told to stop before it was started")
}

// runStart runs the wrapped runtime's start and has its status reported.
func (c *call) runStart(report func(status int)) int {
	status, err := c.through("runtime.start", 0, func() (int, error) { return c.spawn(c.argv[1:]) })
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
	a, err := c.attend(dir, id)
	var bad *unusable
	if errors.As(err, &bad) {
		c.warn("container " + id + ": " + bad.Error() + ": it is started all the same")
	}
	if err != nil {
		return c.runStart(nil)
	}
	defer a.leave()
	lock, err := lockFile(dir, startLock, 0)
	if err == errBusy || err == errDeleted {
		a.exit()
		return c.runStart(nil) // another one is at it; the runtime lets one win
	}
	if err != nil {
		c.warn("container " + id + ": lock its state directory: " + err.Error() + ": it is started all the same")
		a.exit()
		return c.runStart(nil)
	}
	defer unix.Close(lock)
	a.step(lifecycle.Event{Kind: lifecycle.StartRequest, Request: a.self})
	granted := a.answer != nil && a.answer.Outcome == lifecycle.Granted
	stopping := a.machine.StopSignal() != 0 || a.machine.State() == lifecycle.Killing
	if granted {
		noteProgram(lock, a.container.Init.Pid)
	}
	a.exit()
	if !granted {
		if stopping && !a.hasExited() {
			return c.fail(errStopped(id))
		}
		return c.runStart(nil)
	}
	return c.runStart(func(status int) {
		if err := a.enter(); err != nil {
			if err != errDeleted && err != errSupervised { // it sees for itself
				c.warn("note that container " + id + " was started: " + err.Error())
			}
			return
		}
		a.step(lifecycle.Event{Kind: lifecycle.StartDone, Errno: errnoOfStatus(status)})
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
const startPause = 20 * lifecycle.Millisecond

// noteProgram writes down what the container's init executes before it is started.
func noteProgram(lock, pid int) {
	_ = unix.Ftruncate(lock, 0)
	if before, err := programOf(pid); err == nil {
		_, _ = unix.Pwrite(lock, []byte(before), 0)
	}
}

// programRuns tells whether init executes something else than before its start:
// there is no need to wait for the end of the start then, whose hooks may take
// their time, or wait for this very call.
func (a *alone) programRuns() bool {
	before, err := a.dir.ReadFile(startLock)
	if err != nil || len(before) == 0 {
		return false
	}
	now, err := programOf(a.container.Init.Pid)
	return err == nil && now != string(before) && !a.hasExited() // so the number was its own
}

// programOf names the file that a process executes. The file's server is not asked,
// be it FUSE or NFS: it might be in the container, or not answer.
func programOf(pid int) (string, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/exe", unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	if err != nil {
		return "", err
	}
	return strconv.FormatUint(unix.Mkdev(st.Dev_major, st.Dev_minor), 10) + " " + strconv.FormatUint(st.Ino, 10), nil
}

// startIsDead tells whether the one who was granted the start is gone.
func (a *alone) startIsDead() bool {
	return a.machine.Starting() != a.self && !isLocked(a.dir, startLock)
}
