package monitor

import (
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/slumber"
)

// forked is the way to the process that the caller has started, where this one was forked
// by it before there was a Go runtime (package slumber): the foreground's work is done
// here, and that one waits for the status to end with. -1: there is none, or it was told.
type forked int

// ofForeground finds it.
func ofForeground() forked {
	text, ok := unix.Getenv(slumber.ForkedVariable)
	if !ok {
		return -1
	}
	fd, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return forked(fd)
}

// tell tells it the status, once. It is an error if it is not there any more: who has
// killed it means what it was to start.
func (f *forked) tell(status int) error {
	if *f < 0 {
		return nil
	}
	_, err := unix.Write(int(*f), []byte{byte(status)})
	unix.Close(int(*f))
	*f = -1
	return err
}
