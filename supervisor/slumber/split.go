//go:build slumber

package slumber

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A supervisor's foreground starts its daemon by a fork before there is a Go runtime,
// which cannot fork any more once it runs: to start the program a second time instead
// would take as long again. All that is written here runs on the kernel's stack,
// without a goroutine: nothing may allocate, panic, or call what is not nosplit.

// split is called by the entry with the stack that the kernel has made: the number of
// arguments, arguments, environment and auxiliary vector. It gives the stack that the
// Go runtime is to begin with.
//
// What is not called by a manager begins as it is: there is no start pipe in its
// environment, or a gracemon has started it for a purpose of its own, or it is to stay
// the caller's child. Else it waits for the start pipe, as the
// foreground does, since the caller may put this process into a cgroup before it
// writes there, and forks. The child gets two variables more, in front of the others, and
// becomes a Go program; the parent ends as the child tells it to.
//
//go:nosplit
//go:norace
func split(sp uintptr) uintptr {
	argc := word(sp, 0)
	for i := uintptr(1); i <= argc; i++ {
		if begins(word(sp, i), syncOption) {
			return sp
		}
	}
	var start uintptr
	n := argc + 2
	for ; word(sp, n) != 0; n++ {
		switch entry := word(sp, n); {
		case begins(entry, startPipe):
			start = entry + uintptr(len(startPipe))
		case begins(entry, ownVariables), begins(entry, processors):
			return sp
		}
	}
	pipe := decimal(start)
	if pipe <= 0 { // conmon does not wait for its standard input
		return sp
	}
	var buffer [32]uint64
	at := uintptr(unsafe.Pointer(&buffer))
	for {
		_, _, err := syscall.RawSyscall6(unix.SYS_READ, uintptr(pipe), at, unsafe.Sizeof(buffer), 0, 0, 0)
		if err == 0 {
			break
		}
		if err != unix.EINTR {
			return sp // the foreground says what is wrong with it
		}
	}
	// From here on the start pipe was read: what fails ends this process.
	mask, before := uint64(1<<(unix.SIGTERM-1)|1<<(unix.SIGINT-1)|1<<(unix.SIGQUIT-1)|1<<(unix.SIGCHLD-1)), uint64(0)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_BLOCK, uintptr(unsafe.Pointer(&mask)), uintptr(unsafe.Pointer(&before)), 8, 0, 0)
	var ends [2]int32
	_, _, err := syscall.RawSyscall6(unix.SYS_PIPE2, uintptr(unsafe.Pointer(&ends)), unix.O_CLOEXEC, 0, 0, 0, 0)
	pid := uintptr(0)
	if err == 0 {
		pid, _, err = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	}
	if err != 0 {
		exit(1)
	}
	if pid != 0 {
		syscall.RawSyscall6(unix.SYS_CLOSE, uintptr(ends[1]), 0, 0, 0, 0, 0)
		syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&before)), 0, 8, 0, 0)
		exit(told(uintptr(ends[0]), pid, at))
	}
	syscall.RawSyscall6(unix.SYS_CLOSE, uintptr(ends[0]), 0, 0, 0, 0, 0)
	return withVariables(sp, n, uintptr(ends[1]))
}

// told gives the status that the child tells its parent to end with; that of its own
// end, if it ends without a word.
//
//go:nosplit
//go:norace
func told(from, pid, buffer uintptr) uintptr {
	for {
		got, _, err := syscall.RawSyscall6(unix.SYS_READ, from, buffer, 1, 0, 0, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err == 0 && got == 1:
			return uintptr(*(*uint8)(pointer(buffer)))
		}
		break
	}
	for {
		_, _, err := syscall.RawSyscall6(unix.SYS_WAIT4, pid, buffer, 0, 0, 0, 0)
		if err == unix.EINTR {
			continue
		}
		status := *(*uint32)(pointer(buffer))
		if err == 0 && status&0x7f == 0 && status != 0 {
			return uintptr(status >> 8 & 0xff)
		}
		return 1
	}
}

// withVariables makes a copy of the stack below it, with two variables in front of the
// environment, which begins behind so many words less its length: end is the index of
// the 0 at its end.
//
//go:nosplit
//go:norace
func withVariables(sp, end, pipe uintptr) uintptr {
	const (
		far  = 4096 // this function's own frame and its callers' are nearer
		room = 64   // for the texts
	)
	words := end + 1
	for word(sp, words) != 0 { // the auxiliary vector, in pairs
		words += 2
	}
	words += 2
	texts := (sp - far - room) &^ 15
	to := (texts - (words+2)*8) &^ 15
	argc := word(sp, 0)
	first := argc + 2 // of the environment
	for i := uintptr(0); i < first; i++ {
		set(to, i, word(sp, i))
	}
	set(to, first, texts)
	set(to, first+1, texts+uintptr(len(processors)+2))
	for i := first; i < words; i++ {
		set(to, i+2, word(sp, i))
	}
	at := put(texts, processors)
	at = put(at, "1\x00")
	at = put(at, ForkedVariable)
	at = put(at, "=")
	for unit := uintptr(100000); unit > 0; unit /= 10 {
		*(*uint8)(pointer(at)) = '0' + uint8(pipe/unit%10)
		at++
	}
	*(*uint8)(pointer(at)) = 0
	return to
}

const (
	syncOption = "--sync"
	startPipe  = "_OCI_STARTPIPE="
	processors = "GOMAXPROCS="

	ownVariables = "_GRACEMON_" // of those that gracemon starts for itself
)

// begin is where the entry finds split.
//
//lint:ignore U1000 entry_*.s calls it
var begin = split

//go:nosplit
//go:norace
func word(at, i uintptr) uintptr { return *(*uintptr)(pointer(at + 8*i)) }

//go:nosplit
//go:norace
func set(at, i, value uintptr) { *(*uintptr)(pointer(at + 8*i)) = value }

//go:nosplit
//go:norace
func put(at uintptr, text string) uintptr {
	data := uintptr(unsafe.Pointer(unsafe.StringData(text)))
	for i := uintptr(0); i < uintptr(len(text)); i++ {
		*(*uint8)(pointer(at + i)) = *(*uint8)(pointer(data + i))
	}
	return at + uintptr(len(text))
}

// begins tells whether the text at that address, which a 0 ends, begins with a prefix.
//
//go:nosplit
//go:norace
func begins(at uintptr, prefix string) bool {
	if at == 0 {
		return false
	}
	data := uintptr(unsafe.Pointer(unsafe.StringData(prefix)))
	for i := uintptr(0); i < uintptr(len(prefix)); i++ {
		if *(*uint8)(pointer(at + i)) != *(*uint8)(pointer(data + i)) {
			return false
		}
	}
	return true
}

// decimal reads a number that a 0 ends, -1 if it is none.
//
//go:nosplit
//go:norace
func decimal(at uintptr) int {
	if at == 0 || *(*uint8)(pointer(at)) == 0 {
		return -1
	}
	n := 0
	for ; *(*uint8)(pointer(at)) != 0; at++ {
		digit := int(*(*uint8)(pointer(at))) - '0'
		if digit < 0 || digit > 9 || n > 9999 {
			return -1
		}
		n = 10*n + digit
	}
	return n
}

// pointer makes one of an address that is no Go memory.
//
//go:nosplit
//go:norace
func pointer(at uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&at)) }

//go:nosplit
//go:norace
func exit(status uintptr) {
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, status, 0, 0, 0, 0, 0)
	}
}
