package shim

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/recovery"
)

// supervisorIsDead is called when a state directory has no live supervisor. Where
// there was one, it has died, and somebody is to go on before anything else is
// done to the container: gracemon is called to see to that, which of several
// calls one does and the others wait for. It reports whether to look again.
func (c *call) supervisorIsDead(dir *statedir.Dir) bool {
	if !recovery.Exists(dir.FD()) {
		return false
	}
	origin, err := recovery.ReadOrigin(dir)
	if errors.Is(err, unix.ENOENT) {
		return false // it has come to its end in the meantime
	}
	if err != nil {
		c.warn("recover the supervisor of a container: " + err.Error())
		return false
	}
	null, err := open("/dev/null", unix.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer unix.Close(null)
	// What it says is the caller's business only if it could not do it. A pipe
	// would be held open by the supervisor that it leaves.
	said, err := unix.MemfdCreate("gracemon --recover", unix.MFD_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(said)
	argv := []string{origin.Program, "--recover", dir.Path()}
	attr := &syscall.ProcAttr{Env: syscall.Environ(), Files: []uintptr{uintptr(null), uintptr(null), uintptr(said)}}
	pid, err := syscall.ForkExec(origin.Program, argv, attr)
	if err != nil {
		c.warn("recover the supervisor of a container: run " + origin.Program + ": " + err.Error())
		return false
	}
	status, ended := waitWithin(pid, patience)
	switch {
	case !ended: // it goes on, or hangs as the one before it
		c.warn("recover the supervisor of a container: its successor has not taken its place for " + patience.String())
		return false
	case status == 0:
		return true
	}
	if !recovery.Exists(dir.FD()) {
		return true // it has come to its end in the meantime
	}
	var text [4096]byte
	n, _ := unix.Pread(said, text[:], 0)
	c.warn("recover the supervisor of a container: " + strings.TrimSpace(string(text[:max(n, 0)])))
	return false
}
