package loop

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/hostclock"
	"gracerun.io/supervisor/lifecycle"
)

// Now gives the present instant (hostclock.Now).
func Now() lifecycle.Instant { return hostclock.Now() }

// wait blocks until a descriptor is ready or the next timer is due.
//
// epoll_pwait2(2) (Linux 5.11) takes nanoseconds. epoll_wait(2) takes
// milliseconds, rounded up here: never early.
func (l *Loop) wait(ready []unix.EpollEvent) (int, error) {
	var timeout *unix.Timespec
	if len(l.deferred) > 0 {
		timeout = &unix.Timespec{}
	} else if t := l.next(); t != nil {
		left := unix.NsecToTimespec(int64(max(0, t.at-Now())))
		timeout = &left
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(l.epoll), uintptr(unsafe.Pointer(&ready[0])),
		uintptr(len(ready)), uintptr(unsafe.Pointer(timeout)), 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.ENOSYS:
		return unix.EpollWait(l.epoll, ready, milliseconds(timeout))
	}
	return 0, errno
}

func milliseconds(timeout *unix.Timespec) int {
	if timeout == nil {
		return -1
	}
	const longest = 1 << 30 // twelve days; waking up once in between does no harm
	return int(min((timeout.Nano()+999_999)/1_000_000, longest))
}
