//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

// Status is how a process ended. The zero value says that nobody knows: it must
// not be read as exit code 0.
type Status struct {
	Known      bool
	Code       int            // exit code, if Signal is 0
	Signal     signals.Signal // what killed it, or 0 if it exited by itself
	CoreDumped bool
}

// Reap collects the exit status of a child by waitid(2), without blocking. The
// error is ErrRunning before the child has exited, ErrNotChild for a process
// that is not a child of the caller or that was reaped before.
func (p Pidfd) Reap() (Status, error) { return p.waitid(0) }

// Peek is Reap, but leaves the child to be reaped: what it tells can be written
// down before the kernel forgets it.
func (p Pidfd) Peek() (Status, error) { return p.waitid(unix.WNOWAIT) }

func (p Pidfd) waitid(options int) (Status, error) {
	var info childInfo
	for {
		err := unix.Waitid(unix.P_PIDFD, int(p), (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|options, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECHILD:
			return Status{}, &Error{Op: "waitid", Err: ErrNotChild}
		case err != nil:
			return Status{}, failed("waitid", err)
		case info.pid == 0:
			return Status{}, &Error{Op: "waitid", Err: ErrRunning}
		}
		return info.exitStatus(), nil
	}
}

// childInfo is siginfo_t as waitid(2) fills it on a 64-bit system.
type childInfo struct {
	_      int32 // si_signo
	_      int32 // si_errno
	code   int32
	_      int32 // alignment of the union
	pid    int32
	_      uint32 // si_uid
	status int32
	_      [100]byte
}

// Compiles only if childInfo is as large as what the kernel writes.
const (
	_ = unsafe.Sizeof(childInfo{}) - unsafe.Sizeof(unix.Siginfo{})
	_ = unsafe.Sizeof(unix.Siginfo{}) - unsafe.Sizeof(childInfo{})
)

const (
	cldExited = 1 // CLD_EXITED; CLD_KILLED is 2
	cldDumped = 3
)

func (c *childInfo) exitStatus() Status {
	if c.code == cldExited {
		return Status{Known: true, Code: int(c.status)}
	}
	return Status{Known: true, Signal: signals.Signal(c.status), CoreDumped: c.code == cldDumped}
}

// ExitInfo asks the kernel how the process ended, which it tells of any process,
// child or not, once it was reaped: the pidfd must have been opened before that.
// The error is ErrRunning or ErrNotReaped while it is too early, and
// ErrUnsupported before Linux 6.15.
func (p Pidfd) ExitInfo() (Status, error) {
	const op = "ioctl PIDFD_GET_INFO"
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	switch errno {
	case 0:
	case unix.ENOTTY, unix.EINVAL, unix.ESRCH:
		// Before Linux 6.13 there is no such call; 6.13 and 6.14 know it, but say
		// ESRCH of a process that was reaped.
		return Status{}, &Error{Op: op, Err: ErrUnsupported}
	default:
		return Status{}, failed(op, errno)
	}
	if info.mask&pidfdInfoExit != 0 {
		return waitStatus(unix.WaitStatus(info.exitCode)), nil
	}
	exited, err := p.Exited()
	switch {
	case err != nil:
		return Status{}, err
	case exited:
		return Status{}, &Error{Op: op, Err: ErrNotReaped}
	}
	return Status{}, &Error{Op: op, Err: ErrRunning}
}

// ZombieStatus reads how a process ended that was not reaped yet: field 52 of
// /proc/PID/stat, which the kernel shows to who might trace the process, and 0 to
// others (proc(5)). pid must be the number that the pidfd was opened with. The
// error is ErrGone once it was reaped, ErrRunning before it exited, or
// ErrUnsupported if 0 cannot be told from a refusal.
func (p Pidfd) ZombieStatus(pid int) (Status, error) {
	text, readErr := readFile(procPath(pid, "stat"))
	permitted := mayTrace(pid)
	if reaped, err := p.reaped(); err != nil {
		return Status{}, err
	} else if reaped {
		return Status{}, &Error{Op: procPath(pid, "stat"), Err: ErrGone}
	}
	if readErr != nil {
		return Status{}, readErr
	}
	const state, exitCode = 0, 52 - 3 // proc(5) counts from 1, this list begins at 3
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= exitCode {
		return Status{}, &Error{Op: procPath(pid, "stat"), Err: errStat}
	}
	if State(fields[state][0]) != Zombie {
		return Status{}, &Error{Op: procPath(pid, "stat"), Err: ErrRunning}
	}
	code, err := strconv.ParseInt(string(fields[exitCode]), 10, 32)
	switch {
	case err != nil:
		return Status{}, &Error{Op: procPath(pid, "stat"), Err: errStat}
	case code == 0 && !permitted:
		return Status{}, &Error{Op: procPath(pid, "stat"), Err: ErrUnsupported}
	}
	return waitStatus(unix.WaitStatus(code)), nil
}

// mayTrace asks by the namespace link of a zombie, which is not there any more:
// ENOENT to who may look, EACCES to who may not (ptrace(2), "Ptrace access mode
// checking").
func mayTrace(pid int) bool {
	var buf [1]byte
	_, err := unix.Readlink(procPath(pid, "ns/pid"), buf[:])
	return err != unix.EACCES && err != unix.EPERM
}

// pidfdInfo is the first published struct pidfd_info of linux/pidfd.h. The
// kernel takes the size from the request's number and fills no more.
type pidfdInfo struct {
	mask     uint64
	_        uint64     // cgroupid
	_        [11]uint32 // pid, tgid, ppid, and four pairs of uid and gid
	exitCode int32      // as wait(2) encodes it
}

const (
	pidfdInfoExit = 1 << 3 // PIDFD_INFO_EXIT

	// pidfdGetInfo is PIDFD_GET_INFO: _IOWR(0xFF, 11, struct pidfd_info).
	pidfdGetInfo = 3<<30 | unsafe.Sizeof(pidfdInfo{})<<16 | 0xFF<<8 | 11
)

func waitStatus(w unix.WaitStatus) Status {
	if w.Signaled() {
		return Status{Known: true, Signal: signals.Signal(w.Signal()), CoreDumped: w.CoreDump()}
	}
	return Status{Known: true, Code: w.ExitStatus()}
}
