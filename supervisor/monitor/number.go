package monitor

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/setpid"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/ownsignal"
	"gracerun.io/supervisor/recovery"
)

// A successor gets the number of its predecessor where that can be had: Podman has it
// in its database, and takes a container whose monitor's number is nobody's for one that
// ends unobserved.

// reapPatience is how long a successor waits for a dead supervisor's number, which is
// free once its parent has reaped it.
const reapPatience = 250 * time.Millisecond

// noteSelf notes that this process looks after the container.
func (c *Container) noteSelf() {
	if id, err := process.Identify(unix.Getpid()); err == nil {
		c.memo.SetSupervisor(id, pidNamespace())
	}
}

// pidNamespace is the inode of this process's pid namespace, 0 if it is not known.
func pidNamespace() uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/pid", &st) != nil {
		return 0
	}
	return st.Ino
}

// numberOfDead waits until the number of a dead supervisor is free, and gives it; 0: it
// is not to be had.
func numberOfDead(dir *statedir.Dir) (pid int) {
	memo, err := recovery.OpenNotes(dir.FD())
	if err != nil {
		return 0
	}
	defer memo.Close()
	id, namespace := memo.Supervisor()
	if id.Pid == 0 || namespace == 0 || namespace != pidNamespace() || id.Boot != process.ThisBoot() {
		return 0
	}
	dead, err := process.OpenVerified(id)
	if err != nil {
		return id.Pid // reaped; somebody else may have it
	}
	defer dead.Close()
	if !dead.AwaitReaped(reapPatience) {
		return 0
	}
	return id.Pid
}

// startAs starts this program as a supervisor, with that number if it can be had;
// signals wait until it can catch them.
func startAs(pid int, args []string, attr *syscall.ProcAttr) (err error) {
	if pid > 0 {
		err = ownsignal.Held(func() error { return setpid.ForkExec(pid, selfPath, args, attr) }, caughtSignals[:]...)
		if err == nil {
			return nil
		}
	}
	_, err = startHeld(args, attr)
	return err
}
