// Package native is the command line of gracerun-native: runc's commands on
// runc's libcontainer.
//
// It is for hosts that have neither crun nor runc. Callers of runc must not
// notice the difference: flags, output, error texts and exit codes are those of
// runc 1.5, and the state under --root has its format. The differences: `kill`
// signals through a pidfd that it has verified, `delete` waits for the end of
// init by pidfd where runc looks every 100 ms, --preserve-fds passes on what the
// caller has passed and nothing else, and hooks run when the OCI runtime
// specification says.
//
// Checkpoint and restore are left out: they need CRIU.
package native

import (
	"errors"
	"fmt"
	"os"

	"github.com/sirupsen/logrus"
)

// program is the name in error texts and of the default state directory.
const program = "gracerun-native"

// Main runs one command and gives the exit status of the program: 0, the
// status of the container's process (`run` and `exec`), 255 if `exec` itself
// failed, or 1.
func Main(args []string) int {
	err := dispatch(args)
	var ended processExit
	if err == nil {
		return 0
	} else if errors.As(err, &ended) {
		return int(ended)
	}
	report(err)
	var coded *exitCoder
	if errors.As(err, &coded) {
		return coded.code
	}
	return 1
}

// processExit is how the commands `run` and `exec` say that all went well and
// what the container's process exited with. It is not reported as an error.
type processExit int

func (p processExit) Error() string { return fmt.Sprintf("exit status %d", int(p)) }

// exitCoder is an error for which the program exits with another code than 1.
type exitCoder struct {
	error
	code int
}

func (e *exitCoder) Unwrap() error { return e.error }

// report writes the error to the log, and to standard error as well if the log
// is elsewhere: engines read one or the other.
func report(err error) {
	logrus.Error(err)
	if logrus.StandardLogger().Out != os.Stderr {
		fmt.Fprintln(os.Stderr, err)
	}
}
