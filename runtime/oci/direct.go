package oci

import (
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/statedir"
)

// directFile, in the state directory, says that the container may be started without
// its runtime.
const directFile = "direct"

// AllowDirectStart notes that the container may be started without its runtime, if the
// start of that would do nothing but let init through: there are no poststart hooks, and
// the runtime is the program that its name says. config is nil where it is not known.
func AllowDirectStart(dir *statedir.Dir, c *Container, config *bundle.Config) {
	if config == nil || config.Poststart || !IsPlain(c.Program) || c.Style != StyleOf(c.Program) {
		return
	}
	fd, err := unix.Openat(dir.FD(), directFile, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		unix.Close(fd)
	}
}

// DirectStartAllowed tells whether that was noted.
func DirectStartAllowed(dir *statedir.Dir) bool {
	return unix.Faccessat(dir.FD(), directFile, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// IsPlain tells whether the program is crun, runc or gracerun-native itself, and not a
// script in front of one, or another runtime.
func IsPlain(program string) bool {
	name := program[strings.LastIndexByte(program, '/')+1:]
	if StyleOf(program) != Crun && name != Native && !strings.HasPrefix(name, "runc") {
		return false
	}
	fd, err := unix.Open(program, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var magic [4]byte
	n, err := unix.Read(fd, magic[:])
	return err == nil && string(magic[:n]) == "\x7fELF"
}

// Chosen gives the runtime to wrap: the one that the environment names, else the one of
// the configuration file, else what Find finds.
func Chosen(configured func() string) (string, error) {
	chosen, _ := unix.Getenv(Variable)
	if chosen == "" {
		chosen = configured()
	}
	return Find(chosen)
}

// Maker gives the runtime that has made the container, "" if that is not known, or not
// there any more.
func (c *Container) Maker() string {
	if c == nil || unix.Faccessat(unix.AT_FDCWD, c.Program, unix.X_OK, 0) != nil {
		return ""
	}
	return c.Program
}

// Directory is where the runtime keeps a container when it is run with that --root.
func Directory(program, root, id string) (string, error) {
	root = Root(program, root)
	if root[0] != '/' {
		wd, err := unix.Getwd()
		if err != nil {
			return "", err
		}
		root = wd + "/" + root
	}
	return root + "/" + id, nil
}

// OpenState opens the state directory of a container of the runtime with that --root.
//
// All default roots of runtimes have one place. Where root names one of them, the
// container must be of just that root.
func OpenState(root, id string) (*statedir.Dir, error) {
	dir, err := statedir.Open(root, id)
	if err == runtime.ErrNotExist {
		if away := statedir.Elsewhere(root, id); away != nil {
			return nil, away
		}
	}
	if err != nil || root == "" {
		return dir, err
	}
	if root, is := statedir.IsDefault(root); is {
		if container, err := ReadContainer(dir); err == nil {
			if of, _ := statedir.IsDefault(strings.TrimSuffix(container.Dir, "/"+id)); of != root {
				dir.Close()
				return nil, runtime.ErrNotExist
			}
		}
	}
	return dir, nil
}
