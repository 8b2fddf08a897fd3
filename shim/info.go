package shim

import (
	"errors"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/version"
	"gracerun.io/runtime"
	"gracerun.io/runtime/oci"
	"gracerun.io/shim/usage"
)

// version prints the wrapped runtime's version as it prints it, and ours in a
// line of its own at the end. Podman and CRI-O show the text; Docker
// (daemon/info_unix.go) and containerd (go-runc) look for "NAME version VERSION"
// and "commit: ": our line has neither, so that they find the wrapped one's.
func (c *call) version() int {
	return c.followedBy("gracerun: " + version.Version + "\n")
}

// help prints the help of gracerun, or of one command. It needs no wrapped
// runtime, but for a command that is only the wrapped runtime's.
func (c *call) help() int {
	if len(c.args) == 0 {
		write(1, []byte(usage.Overview()))
		return 0
	}
	command := usage.Find(c.args[0])
	if command == nil {
		return c.become(c.argv)
	}
	return c.helpOn(command)
}

// helpOn prints the help of one command.
func (c *call) helpOn(command *usage.Command) int {
	write(1, []byte(command.Help()))
	return 0
}

// misused reports a wrong command line of a command that the wrapped runtime does
// not have.
func (c *call) misused() int {
	text := c.command + ": "
	if c.problem != "" {
		text += c.problem + ": "
	}
	return c.fail(errors.New(text + "usage: " + usage.Find(c.command).Line()))
}

// followedBy runs the wrapped runtime and, if that went well, says more.
func (c *call) followedBy(text string) int {
	status, err := c.spawn(c.argv[1:])
	if err != nil {
		return c.fail(err)
	}
	if status == 0 {
		write(1, []byte(text))
	}
	return status
}

// The annotations that gracerun adds to features.
const (
	versionAnnotation = "io.gracerun.version"
	runtimeAnnotation = "io.gracerun.runtime" // path of the wrapped runtime
	stopAnnotation    = "io.gracerun.stop"    // there is a stop command, and what it is about
)

// features prints the wrapped runtime's features with annotations of ours. One
// that has no such command says so itself.
func (c *call) features() int {
	program, err := c.program()
	if err != nil {
		return c.fail(err)
	}
	text, status, err := c.output(c.argv[1:])
	if err != nil {
		return c.fail(err)
	}
	if status == 0 {
		with, err := oci.AddAnnotations(text, runtime.Annotations{
			{Key: versionAnnotation, Value: version.Version},
			{Key: runtimeAnnotation, Value: program},
			{Key: stopAnnotation, Value: "true"},
		})
		if err == nil {
			text = with
		} // else it is not JSON, such as a help text
	}
	write(1, text)
	return status
}

// output runs the wrapped runtime and gives what it prints.
func (c *call) output(args []string) (text []byte, status int, err error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, 0, err
	}
	pid, err := c.launch(args, []uintptr{0, uintptr(pipe[1]), 2})
	unix.Close(pipe[1])
	if err != nil {
		unix.Close(pipe[0])
		return nil, 0, err
	}
	text, err = readAll(pipe[0])
	unix.Close(pipe[0])
	return text, wait(pid), err
}

var errTooLarge = errors.New("is larger than 16 MiB")
