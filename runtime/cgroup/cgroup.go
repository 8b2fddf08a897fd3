// Package cgroup does what the signal path needs of a container's cgroup: it tells
// whether the cgroup is frozen or empty, thaws it, and signals its processes.
//
// It works on cgroup v2 and on the freezer hierarchy of v1. It keeps away from os
// and fmt: `gracerun kill`, `gracerun state` and the resident supervisor pay for
// every import.
package cgroup

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroup is where a container's processes are. The zero value stands for a
// container without a cgroup of its own (crun --cgroup-manager=disabled,
// rootless without delegation): it is never frozen, and none of its processes
// can be told from others.
type Cgroup struct {
	// Dir is the directory, as an absolute path below /sys/fs/cgroup.
	Dir string
	// V1 says that Dir is in the freezer hierarchy of cgroup v1.
	V1 bool
}

// Error says which file could not be used. Err is a unix.Errno.
type Error struct {
	Op, Path string
	Err      error
}

func (e *Error) Error() string { return e.Op + " " + e.Path + ": " + e.Err.Error() }

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// Mount is where cgroups are mounted, as systemd and the runtimes have it.
const Mount = "/sys/fs/cgroup"

// Unified reports whether Mount itself is a cgroup2 mount, and not a directory of
// version 1 hierarchies.
func Unified() bool {
	var fs unix.Statfs_t
	return unix.Statfs(Mount, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// At gives the cgroup that a runtime calls by that path, relative to the root of
// a hierarchy: the zero value for "".
func At(path string) Cgroup {
	path = "/" + strings.Trim(path, "/")
	switch {
	case path == "/":
		return Cgroup{}
	case Unified():
		return Cgroup{Dir: Mount + path}
	}
	return Cgroup{Dir: Mount + "/freezer" + path, V1: true}
}

// Frozen reports whether the container is frozen, or will be as soon as the
// kernel gets to it. One whose cgroup is gone is not.
func (c Cgroup) Frozen() (bool, error) {
	f, err := c.OpenFreezer()
	if err != nil {
		return false, err
	}
	defer f.Close()
	return f.Frozen()
}

// Freezer is the file of a cgroup that tells whether it is frozen, kept open by
// who asks often: asking takes no memory. The zero value stands for no cgroup.
type Freezer struct {
	fd int // 0: none, or gone
	v1 bool
}

// OpenFreezer opens it. The cgroup may be removed all the same.
func (c Cgroup) OpenFreezer() (Freezer, error) {
	if c.Dir == "" {
		return Freezer{}, nil
	}
	path := c.Dir + "/cgroup.freeze"
	if c.V1 {
		path = c.Dir + "/freezer.state"
	}
	fd, err := open(path, unix.O_RDONLY)
	if isGone(err) {
		return Freezer{}, nil
	}
	if err != nil {
		return Freezer{}, &Error{"open", path, err}
	}
	return Freezer{fd, c.V1}, nil
}

// Frozen is Cgroup.Frozen.
func (f *Freezer) Frozen() (bool, error) {
	if f.fd == 0 {
		return false, nil
	}
	var buf [16]byte
	n, err := unix.Pread(f.fd, buf[:], 0)
	for err == unix.EINTR {
		n, err = unix.Pread(f.fd, buf[:], 0)
	}
	switch {
	case err == unix.ENODEV:
		f.Close()
		return false, nil
	case err == unix.EOPNOTSUPP:
		return false, nil
	case err != nil:
		return false, &Error{"read", "the freezer", err}
	case f.v1:
		return n >= 4 && string(buf[:4]) == "FROZ" || n >= 4 && string(buf[:4]) == "FREE", nil
	}
	return n > 0 && buf[0] == '1', nil
}

// Close gives the descriptor back.
func (f *Freezer) Close() {
	if f.fd != 0 {
		unix.Close(f.fd)
		f.fd = 0
	}
}

// Thaw thaws the container's own cgroup. One above it that is frozen keeps the
// container frozen; that is not ours to undo.
func (c Cgroup) Thaw() error {
	if c.Dir == "" {
		return nil
	}
	if c.V1 {
		return c.write("freezer.state", "THAWED")
	}
	return c.write("cgroup.freeze", "0")
}

// read gives the text of a file of the cgroup, "" if the cgroup is gone or, being
// threaded, has no such file of its own.
func (c Cgroup) read(name string) (string, error) {
	path := c.Dir + "/" + name
	data, err := readFile(path)
	if isGone(err) || err == unix.EOPNOTSUPP {
		return "", nil
	}
	if err != nil {
		return "", &Error{"read", path, err}
	}
	return strings.TrimSpace(string(data)), nil
}

func (c Cgroup) write(name, text string) error {
	path := c.Dir + "/" + name
	fd, err := open(path, unix.O_WRONLY)
	if err == nil {
		for err = unix.EINTR; err == unix.EINTR; {
			_, err = unix.Write(fd, []byte(text))
		}
		unix.Close(fd)
	}
	if err != nil {
		return &Error{"write", path, err}
	}
	return nil
}

// isGone: the cgroup is not there any more, or ceased to be while its file was open.
func isGone(err error) bool { return err == unix.ENOENT || err == unix.ENODEV }

func readFile(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	data := make([]byte, 0, 512)
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return data, nil
		}
		if data = data[:len(data)+n]; len(data) == cap(data) {
			data = append(data, make([]byte, len(data))...)[:len(data)]
		}
	}
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
