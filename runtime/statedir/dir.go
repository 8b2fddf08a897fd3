package statedir

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
)

// Error says what failed on which file. Err is a unix.Errno or says it in words.
type Error struct {
	Op, Path string
	Err      error
}

func (e *Error) Error() string { return e.Op + " " + e.Path + ": " + e.Err.Error() }

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// Dir is an open state directory.
type Dir struct {
	fd, parent int
	id, path   string
}

// Open opens the state directory of a container. root is the runtime's --root,
// "" if not given. The error is runtime.ErrInvalidID or runtime.ErrNotExist, or
// an *Error if a directory on the way is not safe to use.
func Open(root, id string) (*Dir, error) {
	key, err := Key(root)
	if err != nil {
		return nil, err
	}
	dir, err := openIn(key, id)
	if err == runtime.ErrNotExist {
		if old, isOld := openOld(root, key, id); isOld {
			return old, nil
		}
	}
	return dir, err
}

// openOld opens the state directory that version 0.8 has made, if it has one for that
// root which is not found by the key.
func openOld(root, key, id string) (dir *Dir, ok bool) {
	old, err := oldKey(root)
	if err != nil || old == key || len(old) > unix.NAME_MAX {
		return nil, false
	}
	dir, err = openIn(old, id)
	return dir, err == nil
}

func openIn(key, id string) (*Dir, error) {
	parent, path, err := openKey(key, id, false)
	if err != nil {
		return nil, err
	}
	dir, err := openID(parent, path, id)
	if err != nil {
		unix.Close(parent)
		return nil, err
	}
	return dir, nil
}

// OpenPath opens a state directory by its path, BASE/KEY/ID, under the same rules
// as Open.
func OpenPath(path string) (*Dir, error) {
	slash := strings.LastIndexByte(path, '/')
	if slash <= 0 || path[0] != '/' {
		return nil, &Error{"open state directory", path, errors.New("is not an absolute path")}
	}
	above, id := path[:slash], path[slash+1:]
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	parent, err := openDir(unix.AT_FDCWD, above, above, 0o077, false)
	if err != nil {
		return nil, err
	}
	dir, err := openID(parent, above, id)
	if err != nil {
		unix.Close(parent)
		return nil, err
	}
	return dir, nil
}

// Removed gives a state directory that was removed from that path, or replaced there,
// for who still has it open. The descriptor becomes its own. Nothing can be made in it.
func Removed(fd int, path string) (*Dir, error) {
	parent, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{"open state directory", path, err}
	}
	slash := strings.LastIndexByte(path, '/')
	return &Dir{fd: fd, parent: parent, id: path[slash+1:], path: path}, nil
}

// Create makes the state directory of a container and those above it. Of
// several that do so at once one gets it; the others get runtime.ErrExist.
func Create(root, id string) (*Dir, error) {
	key, err := Key(root)
	if err != nil {
		return nil, err
	}
	if old, isOld := openOld(root, key, id); isOld {
		old.Close()
		return nil, runtime.ErrExist
	}
	parent, path, err := openKey(key, id, true)
	if err != nil {
		return nil, err
	}
	dir, err := makeID(parent, path, id)
	if err != nil {
		unix.Close(parent)
		return nil, err
	}
	return dir, nil
}

// makeID holds the lock that Remove holds: what was made is not taken away
// before it is open.
func makeID(parent int, path, id string) (*Dir, error) {
	if err := lock(parent); err != nil {
		return nil, &Error{"lock state directory", path, err}
	}
	defer unix.Flock(parent, unix.LOCK_UN)
	switch err := unix.Mkdirat(parent, id, 0o700); err {
	case nil:
		return openID(parent, path, id)
	case unix.EEXIST:
		return nil, runtime.ErrExist
	default:
		return nil, &Error{"create state directory", path + "/" + id, err}
	}
}

// openKey opens BASE/KEY.
func openKey(key, id string, create bool) (fd int, path string, err error) {
	if err := ValidateID(id); err != nil {
		return -1, "", err
	}
	base, err := Base()
	if err != nil {
		return -1, "", err
	}
	// The base may be a directory that its owner lets others list; nobody else
	// may write there.
	top, err := openDir(unix.AT_FDCWD, base, base, 0o022, create)
	if err != nil {
		return -1, "", err
	}
	defer unix.Close(top)
	path = base + "/" + key
	fd, err = openDir(top, key, path, 0o077, create)
	return fd, path, err
}

func openID(parent int, path, id string) (*Dir, error) {
	path += "/" + id
	fd, err := openDir(parent, id, path, 0o077, false)
	if err != nil {
		return nil, err
	}
	return &Dir{fd: fd, parent: parent, id: id, path: path}, nil
}

// openDir opens name in at, and makes it first if asked to. It must be a
// directory, not a link to one, belong to the caller, and grant others none of
// the rights in forbidden.
func openDir(at int, name, path string, forbidden uint32, create bool) (int, error) {
	if create {
		if err := unix.Mkdirat(at, name, 0o700); err != nil && err != unix.EEXIST {
			return -1, &Error{"create state directory", path, err}
		}
	}
	fd, err := openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	switch err {
	case nil:
	case unix.ENOENT:
		return -1, runtime.ErrNotExist
	case unix.ELOOP, unix.ENOTDIR:
		return -1, &Error{"open state directory", path, errors.New("is not a directory, or is a symbolic link")}
	default:
		return -1, &Error{"open state directory", path, err}
	}
	if err := checkOwner(fd, forbidden); err != nil {
		unix.Close(fd)
		return -1, &Error{"open state directory", path, err}
	}
	return fd, nil
}

const remedy = "have GRACERUN_STATE_DIR name a directory of your own with mode 0700"

func checkOwner(fd int, forbidden uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case int(st.Uid) != unix.Geteuid():
		return errors.New("belongs to another user: " + remedy)
	case st.Mode&forbidden != 0 && st.Mode&unix.S_ISVTX != 0:
		// chmod would be no good advice for /tmp.
		return errors.New("is there for all users (mode " + strconv.FormatUint(uint64(st.Mode&0o7777), 8) + "): " + remedy)
	case st.Mode&forbidden != 0:
		return errors.New("is open to other users (mode 0" + strconv.FormatUint(uint64(st.Mode&0o7777), 8) + "): chmod it to 0700, or " + remedy)
	}
	return nil
}

// FD is the descriptor of the directory, valid until Close.
func (d *Dir) FD() int { return d.fd }

// Path is the path of the directory, for messages.
func (d *Dir) Path() string { return d.path }

// Close gives the descriptors back.
func (d *Dir) Close() error {
	unix.Close(d.parent)
	return unix.Close(d.fd)
}

// Remove deletes the directory and the files in it. Called twice, or by several
// at once, it deletes one directory once: never one that a new container of the
// same id has made meanwhile. The caller still has to Close.
func (d *Dir) Remove() error {
	// What readdir gives while entries vanish is not defined: the directory itself
	// knows whether it is empty.
	for {
		if err := d.removeFiles(); err != nil {
			return &Error{"empty state directory", d.path, err}
		}
		switch err := d.removeDir(); err {
		case nil:
			return nil
		case unix.ENOTEMPTY, unix.EEXIST: // the same, unlink(2)
		default:
			return &Error{"remove state directory", d.path, err}
		}
	}
}

// removeDir compares and removes under the lock that Create holds, since a
// directory just made is empty and could be removed in the place of ours.
func (d *Dir) removeDir() error {
	if err := lock(d.parent); err != nil {
		return err
	}
	defer unix.Flock(d.parent, unix.LOCK_UN)
	var mine, named unix.Stat_t
	if err := unix.Fstat(d.fd, &mine); err != nil {
		return err
	}
	err := unix.Fstatat(d.parent, d.id, &named, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT || err == nil && (named.Ino != mine.Ino || named.Dev != mine.Dev) {
		return nil // already gone
	}
	if err != nil {
		return err
	}
	return unix.Unlinkat(d.parent, d.id, unix.AT_REMOVEDIR)
}

// removeFiles removes some of the files, and at least one if there is one.
func (d *Dir) removeFiles() error {
	names, err := d.names()
	for _, name := range names {
		if err := unix.Unlinkat(d.fd, name, 0); err != nil && err != unix.ENOENT {
			return err
		}
	}
	return err
}

// names gives some of the entries, and at least one if there is one.
func (d *Dir) names() ([]string, error) {
	// A descriptor of its own, for a position of its own.
	fd, err := openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		return nil, nil // removed already
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var buf [4096]byte
	n, err := unix.ReadDirent(fd, buf[:])
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	_, _, names := unix.ParseDirent(buf[:max(n, 0)], -1, nil)
	return names, nil
}

func lock(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}

// openat tries again when a signal came between, as the Go runtime's own
// preemption signals do on some file systems.
func openat(at int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
