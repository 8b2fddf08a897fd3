package shim

import (
	"bytes"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/recovery"
)

// charge says who is in charge of a container: who steps its machine, sends its
// signals and records its end.
type charge uint8

const (
	// unsupervised: nobody, since conmon or containerd's shim runs it. Each call of
	// gracerun is, for as long as it has the lock of the state directory: see alone.
	unsupervised charge = iota
	// supervised: a supervisor that lives, whether it answers or not: see beside.
	supervised
	// orphaned: its supervisor has died, and another one can go on: see supervisorIsDead.
	orphaned
	// ended: its supervisor has come to its end, or left nothing to go on with. Its exit
	// is no business of gracerun's.
	ended
)

// inCharge tells who is in charge of the container with that state directory.
func inCharge(dir *statedir.Dir) charge {
	conn, err := connect(dir)
	if err == nil {
		conn.Close()
	}
	switch {
	case err != control.ErrNoSupervisor:
		return supervised
	case recovery.Exists(dir.FD()):
		return orphaned
	case unix.Faccessat(dir.FD(), control.Name, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil:
		return ended
	}
	return unsupervised
}

// request makes a request of whoever is in charge of the container. done is what is
// said to be done where that is a supervisor that does not answer.
func (c *call) request(dir *statedir.Dir, id string, ev lifecycle.Event, done string) (control.Reply, error) {
	reply, err := c.ask(dir, requestOf(ev))
	var b *beside
	switch {
	case err == control.ErrNoSupervisor:
		return c.askAlone(dir, id, ev)
	case errors.As(err, &b):
		c.warn("container " + id + ": " + b.Error() + ": " + done)
		return c.askBeside(dir, id, b, ev)
	}
	return reply, err
}

// isCreatedBySupervisor tells whether a supervisor has made the directory and
// this very call is its create: it is among our ancestors. It is told that the
// directory is ours to remove, at delete.
func (c *call) isCreatedBySupervisor(dir *statedir.Dir) bool {
	conn, err := connect(dir)
	if err != nil {
		return false
	}
	defer conn.Close()
	pid, err := conn.Supervisor()
	if err != nil || pid != 0 && !isAncestor(pid) {
		return false
	}
	reply, err := conn.Ask(control.Request{Verb: control.State, Grace: control.OwnGrace}, patience)
	if err != nil || reply.Answer != control.Current || reply.Status != "creating" {
		return false
	}
	reply, err = conn.Ask(control.Request{Verb: control.Keep, Grace: control.OwnGrace}, patience)
	return err == nil && reply.Answer == control.Done
}

// isAncestor looks up the line of parents; a wrapper script or two may stand
// between a supervisor and its runtime.
func isAncestor(pid int) bool {
	for parent, steps := unix.Getppid(), 0; parent > 1 && steps < 8; steps++ {
		if parent == pid {
			return true
		}
		text, err := readFile("/proc/" + strconv.Itoa(parent) + "/stat")
		if err != nil {
			return false
		}
		if parent, err = parentOf(text); err != nil {
			return false
		}
	}
	return false
}

// parentOf reads the number of the parent from /proc/PID/stat: the second field
// after the name, which ends at the last parenthesis (proc(5)).
func parentOf(stat []byte) (int, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, errors.New("not in the format of /proc/PID/stat")
	}
	return strconv.Atoi(string(fields[1]))
}
