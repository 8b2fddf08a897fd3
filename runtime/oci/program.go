// Package oci knows the wrapped runtime: its program, the place and content of its
// state files, and the output of its `state` command.
//
// It knows crun (1.8 to 1.29), runc (1.1 to 1.5) and all runtimes built on
// libcontainer, such as gracerun-native. For any other runtime it reads no files and
// runs the runtime's commands instead.
//
// `gracerun kill` and `gracerun state` pay for every import of this package: it
// keeps away from os, fmt and encoding/json.
package oci

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/bundle"
)

// Variable is the environment variable that says which runtime is wrapped: a
// path, or a name to be found in $PATH.
const Variable = "GRACERUN_RUNTIME"

// Native is the name of gracerun's own runtime.
const Native = "gracerun-native"

// Style says whose ways a runtime has: its flags, its files, its error texts.
type Style uint8

// The styles. A runtime that is not known by its name counts as Runc: those who
// parse what a runtime prints expect that.
const (
	Runc Style = iota
	Crun
)

// StyleOf tells by the name of the program. krun is crun by another name.
func StyleOf(program string) Style {
	name := program[strings.LastIndexByte(program, '/')+1:]
	if strings.HasPrefix(name, "crun") || strings.HasPrefix(name, "krun") {
		return Crun
	}
	return Runc
}

// RulesOf tells how the runtime reads a config.json. What wraps one reads it as Go
// does: where that matters the runtime itself is asked.
func RulesOf(program string) bundle.Rules {
	if StyleOf(program) == Crun {
		return bundle.Crun
	}
	return bundle.Go
}

// ErrNoRuntime: nothing can be wrapped.
var ErrNoRuntime = errors.New("no OCI runtime to wrap: install crun, runc or " + Native +
	", or name one with " + Variable + " or in the configuration file")

// Find gives the path of the runtime to wrap: the one that chosen names, if it
// is not empty, else crun, runc or gracerun-native from $PATH, else a
// gracerun-native beside the program that calls. Errors name what was chosen.
func Find(chosen string) (string, error) {
	if chosen != "" {
		program := lookUp(chosen)
		if program == "" {
			return "", errors.New("OCI runtime " + chosen + " is not there or not executable")
		}
		if isSelf(program) {
			return "", errors.New("OCI runtime " + chosen + " is gracerun itself: it needs another one to wrap")
		}
		return program, nil
	}
	for _, name := range [...]string{"crun", "runc", Native} {
		// A gracerun that was installed as crun or runc is none to wrap.
		if program := lookUp(name); program != "" && !isSelf(program) {
			return program, nil
		}
	}
	if program := besides(Native); program != "" {
		return program, nil
	}
	return "", ErrNoRuntime
}

const self = "/proc/self/exe"

// besides gives the path of a program in this program's own directory, "" if
// there is none.
func besides(name string) string {
	var buf [unix.PathMax]byte
	n, err := unix.Readlink(self, buf[:])
	if err != nil {
		return ""
	}
	own := string(buf[:n])
	program := own[:strings.LastIndexByte(own, '/')+1] + name
	if !executable(program) {
		return ""
	}
	return program
}

// defaultPath is for a caller with no $PATH at all.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func lookUp(name string) string {
	if strings.IndexByte(name, '/') >= 0 {
		if !executable(name) {
			return ""
		}
		return name
	}
	path, _ := unix.Getenv("PATH")
	if path == "" {
		path = defaultPath
	}
	for dir := range strings.SplitSeq(path, ":") {
		// An entry that is not absolute would depend on the current directory,
		// which is a bundle.
		if program := dir + "/" + name; strings.HasPrefix(dir, "/") && executable(program) {
			return program
		}
	}
	return ""
}

func executable(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG &&
		unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, 0) == nil
}

func isSelf(program string) bool {
	var a, b unix.Stat_t
	return unix.Stat(program, &a) == nil && unix.Stat(self, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// Root gives the directory in which the runtime keeps its containers when it is
// run with that --root, "" for none.
func Root(program, root string) string {
	if root != "" {
		return root
	}
	name := program[strings.LastIndexByte(program, '/')+1:]
	xdg, _ := unix.Getenv("XDG_RUNTIME_DIR")
	if StyleOf(program) == Crun {
		name = "crun" // libcrun's get_run_directory: for root as well
	} else if !minds(xdg) {
		xdg = ""
	}
	if xdg == "" {
		return "/run/" + name
	}
	return xdg + "/" + name
}

// minds tells whether runc takes $XDG_RUNTIME_DIR into account
// (rootless_linux.go, shouldHonorXDGRuntimeDir).
func minds(xdg string) bool {
	if xdg == "" || unix.Geteuid() != 0 {
		return xdg != ""
	}
	user, isSet := unix.Getenv("USER")
	return inUserNamespace() && (!isSet || user != "root")
}

func inUserNamespace() bool {
	fd, err := unix.Open("/proc/self/uid_map", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var buf [128]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return false
	}
	fields := strings.Fields(string(buf[:n]))
	return len(fields) != 3 || fields[0] != "0" || fields[1] != "0" || fields[2] != "4294967295"
}
