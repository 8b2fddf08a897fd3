//go:build linux

// Package setpid starts a program as a process with a given pid: that of the process
// that it replaces, for managers that know it by its pid.
//
// The kernel (clone3(2), set_tid, Linux 5.5) requires CAP_CHECKPOINT_RESTORE (5.9) or
// CAP_SYS_ADMIN in the user namespace that owns the pid namespace.
package setpid

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrTaken: there is a process, or a zombie, of that number; or a process group or
// session has it.
var ErrTaken = errors.New("the process number is taken")

// cloneArgs is struct clone_args of the kernel, as of Linux 5.5.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize uint64
}

// most is how many descriptors a program can be given.
const most = 32

// ForkExec is syscall.ForkExec for a child of that number, in the caller's pid
// namespace. Of attr only Dir, Env and Files are heeded; the child begins a session.
// The error is ErrTaken, or a unix.Errno: EPERM and ENOSYS where it cannot be had at all.
func ForkExec(pid int, path string, argv []string, attr *syscall.ProcAttr) error {
	if len(attr.Files) > most {
		return unix.EINVAL
	}
	var c child
	var err error
	if c.path, err = syscall.BytePtrFromString(path); err != nil {
		return err
	}
	if c.argv, err = syscall.SlicePtrFromStrings(argv); err != nil {
		return err
	}
	if c.env, err = syscall.SlicePtrFromStrings(attr.Env); err != nil {
		return err
	}
	if attr.Dir != "" {
		if c.dir, err = syscall.BytePtrFromString(attr.Dir); err != nil {
			return err
		}
	}
	c.count = copy(c.files[:], attr.Files)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	c.report = uintptr(pipe[1])
	c.tid = int32(pid)
	c.args = cloneArgs{exitSignal: uint64(unix.SIGCHLD), setTIDSize: 1}

	// The child runs Go code on a copy of this stack, with no other thread and no
	// scheduler: it must not be interrupted, and must not ask the runtime for anything.
	runtime.LockOSThread()
	all := unix.Sigset_t{}
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	err = unix.PthreadSigmask(unix.SIG_SETMASK, &all, &c.mask)
	if err == nil {
		syscall.ForkLock.Lock()
		if errno := fork(&c); errno != 0 {
			err = errno
		}
		syscall.ForkLock.Unlock()
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, &c.mask, nil)
	}
	runtime.UnlockOSThread()
	runtime.KeepAlive(&c)
	unix.Close(pipe[1])
	defer unix.Close(pipe[0])
	if err == unix.EEXIST {
		return ErrTaken
	}
	if err != nil {
		return err
	}
	var failed [4]byte
	for {
		n, err := unix.Read(pipe[0], failed[:])
		if err == unix.EINTR {
			continue
		}
		if n != len(failed) {
			return nil // closed by the execve
		}
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return unix.Errno(uint32(failed[0]) | uint32(failed[1])<<8 | uint32(failed[2])<<16)
	}
}

// child is all that the child needs, made before it is.
type child struct {
	args      cloneArgs
	tid       int32
	path, dir *byte
	argv, env []*byte
	files     [most]uintptr
	moved     [most]uintptr
	count     int
	report    uintptr // the writing end of a pipe: the errno, if it fails
	mask      unix.Sigset_t
	failed    [4]byte
}

// fork returns in the parent only.
//
//go:noinline
//go:norace
//go:nocheckptr
//go:nosplit
func fork(c *child) syscall.Errno {
	c.args.setTID = uint64(uintptr(unsafe.Pointer(&c.tid))) // here, where no stack moves
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&c.args)), unsafe.Sizeof(c.args), 0)
	if errno != 0 || pid != 0 {
		return errno
	}
	errno = c.become()
	c.failed = [4]byte{byte(errno), byte(errno >> 8), byte(errno >> 16)}
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, c.report, uintptr(unsafe.Pointer(&c.failed)), unsafe.Sizeof(c.failed))
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// become executes the program. It returns if that fails.
//
//go:noinline
//go:norace
//go:nocheckptr
//go:nosplit
func (c *child) become() (errno syscall.Errno) {
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0); errno != 0 {
		return errno
	}
	// Out of the way first: one may have the number that another is to get.
	for i := 0; i < c.count; i++ {
		if c.moved[i], _, errno = syscall.RawSyscall(unix.SYS_FCNTL, c.files[i], unix.F_DUPFD_CLOEXEC, most); errno != 0 {
			return errno
		}
	}
	if c.report < most {
		if c.report, _, errno = syscall.RawSyscall(unix.SYS_FCNTL, c.report, unix.F_DUPFD_CLOEXEC, most); errno != 0 {
			return errno
		}
	}
	for i := 0; i < c.count; i++ {
		if _, _, errno = syscall.RawSyscall(unix.SYS_DUP3, c.moved[i], uintptr(i), 0); errno != 0 {
			return errno
		}
	}
	if c.dir != nil {
		if _, _, errno = syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(c.dir)), 0, 0); errno != 0 {
			return errno
		}
	}
	if _, _, errno = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.mask)), 0, 8, 0, 0); errno != 0 {
		return errno
	}
	_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)),
		uintptr(unsafe.Pointer(unsafe.SliceData(c.argv))), uintptr(unsafe.Pointer(unsafe.SliceData(c.env))))
	return errno
}
