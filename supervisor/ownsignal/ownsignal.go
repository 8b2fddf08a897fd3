//go:build linux && (amd64 || arm64)

// Package ownsignal reports the signals that the supervisor's process receives to its
// loop, and loses none in a re-exec.
//
// A signal that a thread has taken and not yet handled is lost with that thread when
// another thread calls execve. So all threads block the signals, if the process was
// started by Held and its program begins in package slumber, and a signalfd (Direct)
// reports them. The handlers are for signals that arrive while they are not blocked: in
// Free, and everywhere in a program that begins elsewhere.
//
// The package does not use os/signal, whose goroutine and two more threads would cost
// 80 KiB in each supervisor. Its handlers run on the signal stacks that the Go runtime
// made for its threads, and only write to an eventfd. execve(2) resets them, so that no
// child inherits them.
package ownsignal

import (
	"math/bits"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

// The handler's; it has no other way to know them. There is one disposition of a
// signal in a process, and so one Catcher.
var (
	//lint:ignore U1000 the handler writes to it
	wake  int32      // eventfd
	units [64]uint64 // of each signal, what it adds to the eventfd

	order []signals.Signal // which have a field there, from the lowest on
)

// A field of the eventfd's counter. Signals do not queue: that so many are caught
// before anybody looks does not happen.
const fieldBits = 16

// Catcher is the eventfd that becomes readable when a signal has come. Which ones
// is in the eventfd too: it outlives the program that caught them (execve(2)).
type Catcher int

// Catch has the process take these signals, at most four and all below 64,
// instead of their default action. It may be called once.
func Catch(sigs ...signals.Signal) (Catcher, error) { return Resume(-1, sigs...) }

// Resume is Catch with the descriptor of the Catcher that a former program of
// this process had for the same signals; -1: there was none.
func Resume(fd int, sigs ...signals.Signal) (Catcher, error) {
	if fd < 0 {
		var err error
		if fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return -1, err
		}
	}
	wake, order = int32(fd), sigs
	for i, s := range sigs {
		units[s] = 1 << (i * fieldBits)
		if err := handle(s); err != nil {
			return -1, err
		}
	}
	return Catcher(fd), nil
}

// Direct makes a signalfd, which is readable when one of the signals has come that are
// blocked.
func Direct() (fd int, err error) {
	mask := Mask(order...)
	return unix.Signalfd(-1, &mask, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
}

// TakeDirect gives the signals that have come to the signalfd since the last call.
func TakeDirect(fd int) (set Set) {
	for {
		var info unix.SignalfdSiginfo
		n, err := unix.Read(fd, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info)))
		if err == unix.EINTR {
			continue
		}
		if n != int(unsafe.Sizeof(info)) {
			return set
		}
		set |= 1 << (info.Signo & 63)
	}
}

// Free calls do, which starts a program, with the signals of Catch not blocked: that
// program inherits it. What comes meanwhile the handlers take.
func Free(do func() error) error { return with(unix.SIG_UNBLOCK, order, do) }

// Here has the calling goroutine's thread, which it keeps from then on, take the signals
// of Catch: for a program that has no use for another thread, nor for Direct.
func Here() error {
	runtime.LockOSThread()
	mask := Mask(order...)
	return unix.PthreadSigmask(unix.SIG_UNBLOCK, &mask, nil)
}

// Held calls do with these signals blocked. A program that do starts, or has this
// process execute, begins with them blocked: what comes meanwhile waits until it
// calls Catch. A Go program unblocks them before that, and dies of them, unless it
// begins in package slumber.
func Held(do func() error, sigs ...signals.Signal) error { return with(unix.SIG_BLOCK, sigs, do) }

// with calls do on a thread with another mask.
func with(how int, sigs []signals.Signal, do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	mask, before := Mask(sigs...), unix.Sigset_t{}
	if err := unix.PthreadSigmask(how, &mask, &before); err != nil {
		return err
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	return do()
}

// Mask is the set of these signals.
func Mask(sigs ...signals.Signal) (mask unix.Sigset_t) {
	for _, s := range sigs {
		mask.Val[0] |= 1 << (s - 1)
	}
	return mask
}

// Unit is what has to be added to the eventfd for a signal that somebody else has
// caught.
func Unit(s signals.Signal) uint64 { return units[s] }

// FD is the descriptor to wait for.
func (c Catcher) FD() int { return int(c) }

// Take gives the signals that came since the last call, as Set.
func (c Catcher) Take() Set {
	var count uint64 // an eventfd has the byte order of the machine
	if _, err := unix.Read(int(c), (*[8]byte)(unsafe.Pointer(&count))[:]); err != nil {
		return 0
	}
	set := Set(0)
	for i, s := range order {
		if count>>(i*fieldBits)&(1<<fieldBits-1) != 0 {
			set |= 1 << s
		}
	}
	return set
}

// Set is a set of signals below 64.
type Set uint64

// Has reports whether s is in the set.
func (s Set) Has(sig signals.Signal) bool { return s&(1<<sig) != 0 }

// Next gives the smallest signal of the set and the rest, 0 if it is empty.
func (s Set) Next() (signals.Signal, Set) {
	if s == 0 {
		return 0, 0
	}
	return signals.Signal(bits.TrailingZeros64(uint64(s))), s & (s - 1)
}

// sigaction is the kernel's own struct (rt_sigaction(2)), which has the members
// in another order than that of libc.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
	saRestorer = 0x04000000 // amd64 needs one, arm64 has its own in the vDSO
)

func handle(s signals.Signal) error {
	// No other signal interrupts the handler: the Go runtime's own would switch
	// stacks beneath it.
	act := sigaction{handler: handlerPC(), flags: saOnStack | saRestart | restorerFlag, restorer: restorerPC(), mask: ^uint64(0)}
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&act)), 0, unsafe.Sizeof(act.mask), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// In assembly, for they are called by the kernel.
func handlerPC() uintptr
func restorerPC() uintptr
