package logs

import (
	"errors"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

var (
	errAllowlist = errors.New("Parent directory not in allowlist")                     //lint:ignore ST1005 conmon's words
	errSymlink   = errors.New("Log path is a symbolic link")                           //lint:ignore ST1005 conmon's words
	errPath      = errors.New("Invalid log path for rotation")                         //lint:ignore ST1005 conmon's words
	errLocked    = errors.New("Log file locked by another process, skipping rotation") //lint:ignore ST1005 conmon's words
)

// replaceFull gives a file that has reached --log-size-max a successor. If that
// fails the file grows on for a while: output is not lost for a directory that
// cannot be written.
func (k *file) replaceFull() {
	if err := k.replace(); err != nil {
		k.l.options.Warn("Failed to replace full log file " + k.path + ": " + explain(err) + ": it grows beyond its limit")
		k.oversize = loop.Now().After(lastPause)
	}
}

func (k *file) isOversize() bool { return k.oversize != 0 && loop.Now() < k.oversize }

// reopen is the reopen of the ctl FIFO. What is in a file that nobody has moved
// away stays in it (conmon drops it, but for --log-rotate): a successor that finds
// the log moved has begun a new one before the reopen comes that was to begin it.
func (k *file) reopen() {
	if k.isBusy() {
		k.reopens = true
		return
	}
	ended := k.line.Do(func() {
		if !k.l.options.Rotate && k.inPlace() {
			k.line.Call(k.announce)
			return
		}
		if err := k.replace(); err != nil {
			k.l.options.Warn("Failed to reopen log file " + k.path + ": " + explain(err))
			if !k.inPlace() {
				k.failed(err) // what would be written to it, nobody would find
			}
		}
	})
	if !ended {
		k.leftBehind()
	}
}

// replace goes on with a new, empty file under the path.
func (k *file) replace() error {
	if k.fd >= 0 && !k.regular {
		return nil
	}
	var err error
	switch {
	case !k.inPlace():
		// Somebody has moved it away, as the kubelet does. (conmon with
		// --log-rotate goes on writing to the one that was moved.)
		err = k.reach()
	case k.l.options.Rotate:
		err = k.rotate()
	default:
		err = k.drop()
	}
	k.rotated = k.rotated || err == nil
	return err
}

// inPlace reports whether the path names the file that is written.
func (k *file) inPlace() bool {
	if k.fd < 0 {
		return false
	}
	var err error
	k.line.Call(func() { err = unix.Fstatat(unix.AT_FDCWD, k.path, &k.stat, 0) })
	return err == nil && k.stat.Ino == k.ino && k.stat.Dev == k.dev
}

// announce has whoever watches the log's directory for the reopened log see it, as
// CRI-O does until it answers the kubelet: to allocate beyond the end of a file
// counts as a change of it.
func (k *file) announce() {
	const block = 4096
	if k.regular && unix.Fstat(k.fd, &k.stat) == nil {
		_ = unix.Fallocate(k.fd, unix.FALLOC_FL_KEEP_SIZE, k.stat.Size, block)
	}
}

// drop puts an empty file in the place of the log, as conmon does without
// --log-rotate: its content is gone, but for whoever has it open.
func (k *file) drop() error {
	fd := -1
	var err error
	k.line.Call(func() {
		temp := k.path + ".tmp"
		if fd, err = openLog(temp, unix.O_TRUNC); err != nil {
			return
		}
		if err = unix.Rename(temp, k.path); err != nil {
			unix.Close(fd)
		}
	})
	if err != nil {
		return err
	}
	return k.use(fd)
}

// rotate makes the log PATH.1, what was that PATH.2, and so on.
//
// Killed in between, a successor finds each file under one name or the next. The
// shift goes only up to the first number that is free, so that done again it
// does not push one more file out.
func (k *file) rotate() error {
	fd := -1
	var err error
	k.line.Call(func() { fd, err = k.shiftFiles() })
	if err != nil {
		return err
	}
	return k.use(fd)
}

// shiftFiles gives the new file.
func (k *file) shiftFiles() (int, error) {
	dir, base, err := k.openParent()
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	if err := unix.Fstatat(dir, base, &k.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return -1, err
	}
	if k.stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		return -1, errSymlink
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET}
	if unix.FcntlFlock(uintptr(k.fd), unix.F_SETLK, &lock) != nil {
		return -1, errLocked
	}
	temp := base + ".new"
	unix.Unlinkat(dir, temp, 0) // of a predecessor that was killed
	const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, temp, flags, 0o640)
	if err == nil {
		k.shift(dir, base)
		if err = unix.Renameat(dir, base, dir, base+".1"); err == nil {
			err = unix.Renameat(dir, temp, dir, base)
		}
	}
	if err != nil {
		lock.Type = unix.F_UNLCK
		unix.FcntlFlock(uintptr(k.fd), unix.F_SETLK, &lock)
		if fd >= 0 {
			unix.Close(fd)
			unix.Unlinkat(dir, temp, 0)
		}
		return -1, err
	}
	return fd, nil
}

// shift makes room for PATH.1. The oldest beyond --log-max-files is overwritten.
func (k *file) shift(dir int, base string) {
	name := func(n int) string { return base + "." + strconv.Itoa(n) }
	free := 1
	for free < k.l.options.MaxFiles && unix.Fstatat(dir, name(free), &k.stat, unix.AT_SYMLINK_NOFOLLOW) == nil {
		free++
	}
	for n := free; n > 1; n-- {
		if err := unix.Renameat(dir, name(n-1), dir, name(n)); err != nil {
			k.l.options.Warn("Failed to shift backup file " + k.path + "." + strconv.Itoa(n-1) + ": " + explain(err))
		}
	}
}

// openParent opens the directory of the log, under conmon's rules for paths that
// are rotated.
func (k *file) openParent() (dir int, base string, err error) {
	if len(k.path) >= unix.PathMax || strings.Contains(k.path, "../") || strings.Contains(k.path, "/..") {
		return -1, "", errPath
	}
	parent, base := split(k.path)
	dir, err = unix.Open(parent, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return dir, base, err
}

func split(path string) (dir, base string) {
	slash := strings.LastIndexByte(path, '/')
	switch slash {
	case -1:
		return ".", path
	case 0:
		return "/", path[1:]
	}
	return path[:slash], path[slash+1:]
}

// mayCreate holds a log that does not exist yet against --log-allowlist-dir. The
// manual of conmon says that logs can be created only there; its code looks only
// when it rotates a log that somebody has moved away.
func (k *file) mayCreate() error {
	if len(k.l.options.AllowDirs) == 0 || unix.Fstatat(unix.AT_FDCWD, k.path, &k.stat, 0) == nil {
		return nil
	}
	parent, _ := split(k.path)
	parent, err := realPath(parent)
	if err != nil {
		return err
	}
	for _, allowed := range k.l.options.AllowDirs {
		if allowed == "" {
			continue
		}
		real, err := realPath(allowed)
		if err != nil {
			k.l.options.Warn("Invalid allowlist directory")
			continue
		}
		if rest, ok := strings.CutPrefix(parent, real); ok && (rest == "" || rest[0] == '/' || real == "/") {
			return nil
		}
	}
	return errAllowlist
}

// realPath is the path of a directory without links in it.
func realPath(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var buf [unix.PathMax]byte
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// openByInode finds a log file that was moved within its directory, as those who
// rotate logs do; -1 if it is not there.
func openByInode(path string, dev, ino uint64) int {
	parent, _ := split(path)
	dir, err := unix.Open(parent, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	defer unix.Close(dir)
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(dir, buf)
		if err != nil || n <= 0 {
			return -1
		}
		for rest := buf[:n]; len(rest) > 0; {
			entry := (*unix.Dirent)(unsafe.Pointer(&rest[0]))
			name := rest[unsafe.Offsetof(entry.Name):entry.Reclen]
			if entry.Ino == ino {
				if fd := openSame(dir, unix.ByteSliceToString(name), dev, ino); fd >= 0 {
					return fd
				}
			}
			rest = rest[entry.Reclen:]
		}
	}
}

func openSame(dir int, name string, dev, ino uint64) int {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Dev != dev || st.Ino != ino {
		unix.Close(fd)
		return -1
	}
	return fd
}
