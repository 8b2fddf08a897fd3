// Package hostclock is the clock of the journals: the host's CLOCK_MONOTONIC, in
// whichever time namespace a process is (time_namespaces(7)). So a reader in another
// namespace, such as a container's, gets the same instants.
package hostclock

import (
	"bytes"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
)

// Now gives the present instant, which stands still in suspend and does not follow the
// wall clock (invariant I10).
func Now() lifecycle.Instant {
	var ts unix.Timespec
	// It cannot fail: every Linux has this clock.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return lifecycle.Instant(ts.Nano()) - lifecycle.Instant(offset())
}

// offset is how much the clock of this process is ahead of the machine's. It stays for
// the life of a program: a process changes its time namespace only by executing one.
//
// The file has the offsets that children will see. Who has made a time namespace for
// its children, and executes no program, is the only one for whom they are not its own.
var offset = sync.OnceValue(func() lifecycle.Duration {
	fd, err := unix.Open("/proc/self/timens_offsets", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0 // no time namespaces (before Linux 5.6), or no /proc
	}
	defer unix.Close(fd)
	var buf [256]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0
	}
	ahead, _ := parse(buf[:n])
	return ahead
})

// parse reads "monotonic SECONDS NANOSECONDS" among the lines; seconds can be negative.
func parse(text []byte) (ahead lifecycle.Duration, ok bool) {
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) != 3 || string(fields[0]) != "monotonic" {
			continue
		}
		seconds, err1 := strconv.ParseInt(string(fields[1]), 10, 64)
		nanoseconds, err2 := strconv.ParseInt(string(fields[2]), 10, 64)
		const limit = int64(lifecycle.Never) / int64(lifecycle.Second)
		if err1 != nil || err2 != nil || seconds >= limit || seconds <= -limit || nanoseconds < 0 || nanoseconds >= int64(lifecycle.Second) {
			return 0, false
		}
		return lifecycle.Duration(seconds)*lifecycle.Second + lifecycle.Duration(nanoseconds), true
	}
	return 0, false
}
