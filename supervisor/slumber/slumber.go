//go:build linux && (amd64 || arm64)

// Package slumber lets a process sleep in 12 KiB, and wake at the first event.
//
// The process stays the same: pid, children, descriptors, cgroup and program. To sleep
// it re-execs its program, with a word in front of the environment. The program begins
// in entry_*.s, before the Go runtime: with that word it stays there and waits for the
// same descriptors and signals; then it re-execs itself without the word.
//
// No signal is lost. TERM, INT, QUIT and CHLD stay blocked from before one program
// until the next one has its handlers: the entry hides them from the Go runtime, which
// would unblock them before there is a handler, and die.
//
// The program must be built with Tag and LinkerFlags. A program without them stays
// awake.
package slumber

import (
	"errors"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

// Tag (go build -tags) builds this package's entry into the program, and LinkerFlags
// (-ldflags) have the program begin there. The entry refers to a table of the Go
// runtime that is not for others: the linker has to be told not to mind.
const (
	Tag         = "slumber"
	LinkerFlags = "-checklinkname=0 -E=gracerun.io/supervisor/slumber.entry"
)

// ErrEntry: the program was built without Tag and LinkerFlags.
var ErrEntry = errors.New("this program was not built with -tags " + Tag + " -ldflags '" + LinkerFlags + "'")

// Variable is the word in front of the environment.
const Variable = "_GRACEMON_ASLEEP"

// ForkedVariable is in the environment of a process that was forked by another one, where
// the program began, to be the daemon whose foreground that is: with the number of the
// descriptor on which that waits for one byte, the status to end with.
const ForkedVariable = "_GRACEMON_FORKED"

// Variable and the path of the program, as entry_*.s have them.
const (
	variable1 = 0x4f4d45434152475f // _GRACEMO
	variable2 = 0x5045454c53415f4e // N_ASLEEP
	path1     = 0x65732f636f72702f // /proc/se
	path2     = 0x00006578652f666c // lf/exe
)

// Where the flags of a signal are in the runtime's table of them (runtime/signal_unix.go):
// each entry is an int32 and a string.
const (
	//lint:ignore U1000 entry_*.s has it
	entrySize = 24
	//lint:ignore U1000 entry_*.s has it
	flagsOfINT = entrySize * 2
	//lint:ignore U1000 entry_*.s has it
	flagsOfQUIT = entrySize * 3
	//lint:ignore U1000 entry_*.s has it
	flagsOfTERM = entrySize * 15
	//lint:ignore U1000 entry_*.s has it
	flagsOfCHLD = entrySize * 17
)

// fields says which field of Caught belongs to which signal, in two bits for each.
const fields = 0<<(2*signals.TERM) | 1<<(2*signals.INT) | 2<<(2*signals.QUIT) | 3<<(2*signals.CHLD)

// Unit is the amount by which TERM, INT, QUIT or CHLD increases the eventfd Caught.
func Unit(sig signals.Signal) uint64 { return 1 << (16 * (uint64(fields) >> (2 * sig) & 3)) }

// Bed is what a sleeping process needs. No descriptor may be close-on-exec.
type Bed struct {
	Epoll int // what to wait for

	// A signalfd (signalfd(2)), non-blocking, which whoever sleeps adds to Epoll. It is
	// not there before: a new program can have other tables of signals (execve(2) unshares
	// them while a thread of the old one is still ending), and the kernel has the epoll
	// instance wait at those of the process that has added it.
	Signals int

	// What the signals are turned into, since a new program cannot have them
	// pending: each adds its Unit to this eventfd.
	Caught int
}

// Sleep has the process sleep until its epoll instance reports something, and
// then execute its program, with these arguments and this environment.
//
// It returns only if that cannot be done. The error is ErrEntry or a unix.Errno.
func (b *Bed) Sleep(args, env []string) error {
	if entry, err := begun(); err != nil {
		return err
	} else if entry != uint64(entryPC()) {
		return ErrEntry
	}
	word := Variable + "=" + strconv.Itoa(b.Epoll) + "/" + strconv.Itoa(b.Signals) + "/" + strconv.Itoa(b.Caught)
	// What is ignored stays so.
	ignore := sigaction{handler: sigIgn}
	var before [len(harmless)]sigaction
	for i, s := range harmless {
		if err := setAction(s, &ignore, &before[i]); err != nil {
			return err
		}
	}
	err := syscall.Exec("/proc/self/exe", args, append([]string{word}, env...))
	for i, s := range harmless {
		_ = setAction(s, &before[i], nil)
	}
	return err
}

// harmless are signals that do nothing to a Go program that has not asked for them,
// and would end another. CRI-O has systemd send a PIPE to each monitor when the node is
// shut down.
var harmless = [...]unix.Signal{
	unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM, unix.SIGPROF, unix.SIGIO, unix.SIGPWR,
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

// begun returns the address at which the kernel started this program (getauxval(3), AT_ENTRY).
func begun() (entry uint64, err error) {
	const atEntry = 9
	fd, err := unix.Open("/proc/self/auxv", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var pairs [64][2]uint64
	n, err := unix.Read(fd, unsafe.Slice((*byte)(unsafe.Pointer(&pairs)), unsafe.Sizeof(pairs)))
	if err != nil {
		return 0, err
	}
	for _, pair := range pairs[:max(n, 0)/16] {
		if pair[0] == atEntry {
			return pair[1], nil
		}
	}
	return 0, ErrEntry
}
