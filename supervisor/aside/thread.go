//go:build amd64 || arm64

package aside

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// thread makes calls of the kernel, one at a time, while the loop goes on. The Go
// runtime does not know of it: it has no goroutine and no stack that it would write
// to, all signals are blocked in it, and it does nothing but the calls. So nobody
// has to look for one that lasts, and to hand one over is a write to an eventfd.
type thread struct{ *request }

// request is what the thread reads and writes; the assembler knows it too.
type request struct {
	begin, end int64 // eventfds: there is a call to make; it was made
	one        uint64
	//lint:ignore U1000 the assembler has the kernel write to it
	count  uint64 // read from begin
	nr     uintptr
	args   [3]uintptr
	result int64 // as the kernel gives it: the negative of an errno
	next   *request
}

// requests are all that there are: a thread that is not known to the Go runtime does
// not keep its own from being taken for garbage.
var requests atomic.Pointer[request]

// startThread makes the thread.
func startThread() (t thread, err error) {
	r := &request{one: 1}
	begin, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return t, err
	}
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(begin)
		return t, err
	}
	r.begin, r.end = int64(begin), int64(end)
	for r.next = requests.Load(); !requests.CompareAndSwap(r.next, r); r.next = requests.Load() {
	}
	runtime.LockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err = unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err == nil {
		const flags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD
		if n := clone(flags, r); n < 0 {
			err = unix.Errno(-n)
		}
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	}
	runtime.UnlockOSThread()
	if err != nil {
		unix.Close(begin)
		unix.Close(end)
		return t, err
	}
	return thread{r}, nil
}

// clone makes a thread that serves the request for ever.
func clone(flags uintptr, r *request) int64

// call has the thread make a call.
func (t thread) call(nr, a, b, c uintptr) {
	t.nr, t.args = nr, [3]uintptr{a, b, c}
	atomic.StoreInt64(&t.result, 0)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(t.begin), uintptr(unsafe.Pointer(&t.one)), unsafe.Sizeof(t.one))
}

// take reports whether the call has come back, and takes note of that.
func (t thread) take() bool {
	var count uint64
	_, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(t.end), uintptr(unsafe.Pointer(&count)), unsafe.Sizeof(count))
	return errno == 0
}

// wait waits for the call so long at most.
func (t thread) wait(most time.Duration) bool {
	if t.take() {
		return true
	}
	fds := [1]unix.PollFd{{Fd: int32(t.end), Events: unix.POLLIN}}
	for give := time.Now().Add(most); most > 0; most = time.Until(give) {
		timeout := unix.NsecToTimespec(int64(most))
		_, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), 1, uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
		if errno != unix.EINTR {
			break
		}
	}
	return t.take()
}

// got is the result of the call.
func (t thread) got() (n int, errno unix.Errno) {
	if r := atomic.LoadInt64(&t.result); r < 0 {
		return 0, unix.Errno(-r)
	} else {
		return int(r), 0
	}
}
