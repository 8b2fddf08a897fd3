//go:build linux

// Package program finds the gracemon that a process executes or starts: the file at
// the path of its own program, so that a package update takes effect; else its own
// program, even if that file was removed or may not be executed any more.
package program

import (
	"errors"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals/process"
)

const self = "/proc/self/exe"

// Path is where this process's program was installed. fallback is given if that is
// not known, since it runs from memory (see Program.Start).
func Path(fallback string) string {
	var buf [unix.PathMax]byte
	n, err := unix.Readlink(self, buf[:])
	path := strings.TrimSuffix(string(buf[:max(n, 0)]), " (deleted)")
	if err != nil || strings.HasPrefix(path, memory) {
		return fallback
	}
	return path
}

const (
	memory     = "/memfd:" // how the kernel calls a file of memfd_create(2)
	memoryName = "gracemon"
)

// ErrOther is the error for a program that does not say that it is gracemon.
var ErrOther = errors.New("is not gracemon: it does not say so when it is asked for its --version")

// How long a program may take to say its version: a thousand times of what it takes.
const patience = 2 * time.Second

// proof is in what gracemon says when it is asked for its version.
const proof = "\ncommit: gracemon "

// Check reports why the file at that path is not to be executed as gracemon, nil if
// it is: it is the program of this process, or says that it is gracemon. That takes
// some milliseconds, and two seconds at most.
func Check(path string) error {
	var own, its unix.Stat_t
	if err := unix.Stat(path, &its); err != nil {
		return err
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return err
	}
	if unix.Stat(self, &own) == nil && own.Dev == its.Dev && own.Ino == its.Ino {
		return nil
	}
	said, err := version(path)
	if err == nil && !strings.Contains(said, proof) {
		err = ErrOther
	}
	return err
}

// version has a program say its version.
func version(path string) (said string, err error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return "", err
	}
	defer unix.Close(pipe[0])
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(pipe[1])
		return "", err
	}
	pidfd := -1
	pid, err := syscall.ForkExec(path, []string{path, "--version"}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []uintptr{uintptr(null), uintptr(pipe[1]), uintptr(null)},
		Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	unix.Close(pipe[1])
	unix.Close(null)
	if err != nil {
		return "", err
	}
	child := process.Pidfd(pidfd)
	defer child.Close()
	late := time.Now().Add(patience)
	var buf [1024]byte
	n := 0
	for n < len(buf) {
		left := time.Until(late)
		if left <= 0 {
			break
		}
		fds := []unix.PollFd{{Fd: int32(pipe[0]), Events: unix.POLLIN}}
		if ready, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil || ready == 0 {
			continue
		}
		got, err := unix.Read(pipe[0], buf[n:])
		if got <= 0 && err != unix.EINTR {
			break
		}
		n += max(got, 0)
	}
	// It has said enough, whatever it does besides, and whatever it has started.
	_ = unix.Kill(-pid, unix.SIGKILL)
	if exited, err := child.Wait(max(time.Until(late), patience/10)); err == nil && exited {
		_, _ = child.Reap()
	}
	return string(buf[:n]), nil
}

// Program starts gracemons for a long time, during which anything may happen to the
// file.
type Program struct {
	path string
	own  int // this process's program, open for reading; -1: it is not readable
	copy int // of it, in memory; -1: none was needed

	checked unix.Stat_t // the last file that was asked
	answer  error
}

// New is for a program that was installed there.
func New(path string) *Program {
	p := &Program{path: path, own: -1, copy: -1}
	if fd, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		p.own = fd
	}
	return p
}

// Path is where the program was installed.
func (p *Program) Path() string { return p.path }

// Start starts what is installed; if that is not gracemon, or cannot be executed, this
// process's program; and if that cannot be executed either, as after a chmod or on
// a file system that is mounted noexec now, a copy of it in memory. why tells what
// was wrong with the first of them.
func (p *Program) Start(argv []string, attr *syscall.ProcAttr) (pid int, why, err error) {
	if why = p.check(); why == nil {
		if pid, why = syscall.ForkExec(p.path, argv, attr); why == nil {
			return pid, nil, nil
		}
	}
	if pid, err = syscall.ForkExec(self, argv, attr); err == nil {
		return pid, why, nil
	}
	if p.copy < 0 {
		if p.copy, err = copyInMemory(p.own); err != nil {
			return 0, why, err
		}
	}
	pid, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(p.copy), argv, attr)
	return pid, why, err
}

// check asks each file once.
func (p *Program) check() error {
	var st unix.Stat_t
	if err := unix.Stat(p.path, &st); err != nil {
		return err
	}
	was := &p.checked
	if st.Dev != was.Dev || st.Ino != was.Ino || st.Size != was.Size || st.Mtim != was.Mtim || st.Ctim != was.Ctim {
		p.checked, p.answer = st, Check(p.path)
	}
	return p.answer
}

// copyInMemory copies a program into a file that is executable wherever it came from.
func copyInMemory(from int) (fd int, err error) {
	if from < 0 {
		return -1, unix.EACCES
	}
	fd, err = unix.MemfdCreate(memoryName, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate(memoryName, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return -1, err
	}
	for at := int64(0); ; {
		n, err := unix.Sendfile(fd, from, &at, 1<<20)
		switch {
		case err == unix.EINTR:
		case err != nil:
			unix.Close(fd)
			return -1, err
		case n == 0:
			return fd, nil
		}
	}
}
