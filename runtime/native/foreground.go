package native

import (
	"os"
	"strconv"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// signalChannels are the signals that this program gets while it waits for a
// process in the foreground.
type signalChannels struct{ child, others chan os.Signal }

// wait passes signals on to the process until it has ended and gives its exit
// status, 128 and the signal's number if it was killed by one.
func wait(process *libcontainer.Process, pid int, incoming signalChannels, streams *streams) (status int) {
	streams.resize()
	for {
		select {
		case <-incoming.child:
			if status, ended := reap(pid); ended {
				// Its status is known, but what belongs to it is still to be freed.
				_, _ = process.Wait()
				return status
			}
		case sig := <-incoming.others:
			if sig == unix.SIGWINCH {
				streams.resize()
			} else if err := process.Signal(sig); err != nil {
				logrus.Error("pass " + sig.String() + " on to process " + strconv.Itoa(pid) + ": " + err.Error())
			}
		}
	}
}

// reap collects all children that have ended. Besides the process that is waited
// for these are orphans of the container, if this program is their subreaper.
func reap(wanted int) (status int, ended bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
		case err != nil || pid <= 0:
			return status, ended
		case pid == wanted:
			status, ended = utils.ExitStatus(ws), true
		}
	}
}
