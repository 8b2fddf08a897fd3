// Package statedir is the state directory of a container: where it is, who may
// use it, and the record of the container in it.
//
// A directory is BASE/KEY/ID. All access is relative to a descriptor of it, so
// that nothing that happens to the path afterwards leads elsewhere, and so that
// a socket in it can be reached by /proc/self/fd however long the path is.
//
// `gracerun kill` and `gracerun state` pay for every import of this package:
// it keeps away from os and fmt.
package statedir

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
)

// Base gives the directory under which all state is: $GRACERUN_STATE_DIR, else
// /run/gracerun for root, else $XDG_RUNTIME_DIR/gracerun.
func Base() (string, error) {
	if dir, ok := unix.Getenv("GRACERUN_STATE_DIR"); ok && dir != "" {
		if dir[0] != '/' {
			return "", errors.New("GRACERUN_STATE_DIR=" + dir + " is not an absolute path")
		}
		return path.Clean(dir), nil
	}
	return usualBase()
}

// usualBase is Base without GRACERUN_STATE_DIR.
func usualBase() (string, error) {
	if !OfUser() {
		return "/run/gracerun", nil
	}
	xdg, _ := unix.Getenv("XDG_RUNTIME_DIR")
	if xdg == "" || xdg[0] != '/' {
		return "", errors.New("no place for state: set XDG_RUNTIME_DIR or GRACERUN_STATE_DIR to an absolute path")
	}
	return path.Clean(xdg) + "/gracerun", nil
}

// Elsewhere gives an error if GRACERUN_STATE_DIR leads away from a container: its state
// is where it is without the variable. That is so for the containers of a manager,
// since Podman and CRI-O pass no environment on.
func Elsewhere(root, id string) error {
	usual, err := usualBase()
	if err != nil {
		return nil
	}
	if base, err := Base(); err != nil || base == usual {
		return nil
	}
	return elsewhere(usual, root, id)
}

func elsewhere(usual, root, id string) error {
	key, err := Key(root)
	if err != nil || unix.Access(usual+"/"+key+"/"+id, unix.F_OK) != nil {
		return nil
	}
	set, _ := unix.Getenv("GRACERUN_STATE_DIR")
	return errors.New("container " + id + " has its state in " + usual + ", and GRACERUN_STATE_DIR=" + set +
		" leads elsewhere: unset it, or set it for the container's manager and monitor, too (Podman and CRI-O pass none on)")
}

// OfUser reports whether the caller is an ordinary user, with no say in /run and
// with a service manager of their own, if any.
//
// Root of a user namespace that has $XDG_RUNTIME_DIR counts as one: rootless
// Podman starts monitor and runtime as such.
func OfUser() bool {
	xdg, _ := unix.Getenv("XDG_RUNTIME_DIR")
	return unix.Geteuid() != 0 || xdg != "" && !inInitialUserNamespace()
}

// inInitialUserNamespace tells by the map of user ids: only the first namespace
// has all of them (user_namespaces(7)).
func inInitialUserNamespace() bool {
	fd, err := unix.Open("/proc/self/uid_map", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return true // no user namespaces in this kernel
	}
	defer unix.Close(fd)
	var buf [128]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return true
	}
	fields := strings.Fields(string(buf[:n]))
	return len(fields) == 3 && fields[0] == "0" && fields[1] == "0" && fields[2] == "4294967295"
}

// ValidateID refuses what runc refuses as a container id (validateID in
// libcontainer/factory_linux.go, 1.1.5 and 1.5.1): all but ASCII letters,
// digits, "_", "+", "-" and ".", and the names "." and "..". The error is
// runtime.ErrInvalidID.
func ValidateID(id string) error {
	if id == "" || id == "." || id == ".." {
		return runtime.ErrInvalidID
	}
	for i := range len(id) {
		if !plain(id[i]) {
			return runtime.ErrInvalidID
		}
	}
	return nil
}

func plain(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return c == '_' || c == '+' || c == '-' || c == '.'
}
