package check

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tryClone3 asks clone3(2) for a child with that number, which is taken: no process
// comes of it.
func tryClone3(tid *int32) unix.Errno {
	// struct clone_args, as of Linux 5.5.
	args := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize uint64
	}{exitSignal: uint64(unix.SIGCHLD), setTID: uint64(uintptr(unsafe.Pointer(tid))), setTIDSize: 1}
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	runtime.KeepAlive(tid)
	return errno
}
