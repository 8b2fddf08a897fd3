//go:build linux && (amd64 || arm64)

// Package slumber replaces a process by one that only waits, in 12 KiB, and
// that executes the former program again as soon as there is something to do.
//
// It stays the same process: its number, its children, its descriptors, its
// cgroup are what they were. Its program is an ELF file that is made here, of one
// page: what the kernel needs to know, what the program needs to know, and the
// machine code in sleeper_*.s.
package slumber

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bed says how a process sleeps. No descriptor may be close-on-exec.
type Bed struct {
	Epoll   int // what to wait for
	Self    int // the program to be executed again
	Signals int // a signalfd (signalfd(2)), non-blocking, that Epoll has too

	// What the signals are turned into, since a new program cannot have them
	// pending: each adds its unit to this eventfd.
	Caught int
	Units  [32]uint64

	Name string // of the process meanwhile, up to 15 bytes (PR_SET_NAME(2const))
}

// Sleep has the process sleep until its epoll instance reports something, and
// then execute its program, with these arguments and this environment.
//
// It returns only if that cannot be done. The error is a unix.Errno.
func (b *Bed) Sleep(args, env []string) error {
	fd, err := memory()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, b.program()); err != nil {
		return err
	}
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	// To a Go program a PIPE that it is sent does nothing, and CRI-O has systemd send
	// one to each monitor when the node is shut down. What is ignored stays so.
	ignore, before := sigaction{handler: sigIgn}, sigaction{}
	if err := setAction(unix.SIGPIPE, &ignore, &before); err != nil {
		return err
	}
	var empty byte
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	_ = setAction(unix.SIGPIPE, &before, &ignore)
	return errno
}

// sigaction is as long as the kernel's (rt_sigaction(2)), and has its first member.
type sigaction struct {
	handler uintptr
	others  [3]uint64
}

const sigIgn = 1

func setAction(s unix.Signal, to, before *sigaction) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(before)), 8, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// memory gives a file in memory that can be executed.
func memory() (fd int, err error) {
	fd, err = unix.MemfdCreate("gracemon", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 all of them could
		fd, err = unix.MemfdCreate("gracemon", unix.MFD_CLOEXEC)
	}
	return fd, err
}

// head is the beginning of the file, as elf(5) has it, and the settings.
type head struct {
	ident    [16]byte
	kind     uint16
	machine  uint16
	version  uint32
	entry    uint64
	segments uint64 // where their table is
	sections uint64
	flags    uint32
	size     uint16
	segSize  uint16
	segCount uint16
	secSize  uint16
	secCount uint16
	secNames uint16
	text     segment
	stack    segment
	epoll    int32
	self     int32
	signals  int32
	caught   int32
	name     [16]byte // ends with a NUL, which is also the empty path
	units    [32]uint64
}

type segment struct {
	kind, flags                             uint32
	offset, address, physical, inFile, size uint64
	align                                   uint64
}

// The address at which the file is mapped; sleeper_*.s counts on it, and on the
// offsets.
const base = 0x400000

// Compiles only if they are right.
var _ = [1]byte{}[unsafe.Offsetof(head{}.epoll)-0xb0]

func (b *Bed) program() []byte {
	code := code()
	h := head{
		ident:   [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, // 64 bits, little-endian, version 1
		kind:    2,                                      // ET_EXEC
		machine: machine, version: 1,
		entry:    base + uint64(unsafe.Sizeof(head{})),
		segments: uint64(unsafe.Offsetof(head{}.text)),
		size:     uint16(unsafe.Offsetof(head{}.text)), segSize: uint16(unsafe.Sizeof(segment{})), segCount: 2,
		epoll: int32(b.Epoll), self: int32(b.Self), signals: int32(b.Signals), caught: int32(b.Caught),
		units: b.Units,
	}
	copy(h.name[:15], b.Name)
	length := uint64(unsafe.Sizeof(h)) + uint64(len(code))
	const load, gnuStack, read, write, execute = 1, 0x6474e551, 4, 2, 1
	h.text = segment{kind: load, flags: read | execute, address: base, physical: base, inFile: length, size: length, align: 0x10000}
	h.stack = segment{kind: gnuStack, flags: read | write}
	file := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h))...)
	return append(file, code...)
}

// code is the machine code from its beginning up to where it says it ends.
func code() []byte {
	all := unsafe.Slice((*byte)(asleep()), 512)
	n := 0
	for string(all[n:n+8]) != "\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8" {
		n++
	}
	return all[:n]
}

// asleep is where the machine code is. In assembly, for it is copied.
func asleep() unsafe.Pointer
