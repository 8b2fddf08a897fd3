package debian

import (
	"bufio"
	"bytes"
	_ "embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// boot is what PID 1 of a system does first; enter, what every other program does.
var (
	//go:embed boot
	boot string
	//go:embed enter
	enter string
)

// System is a tree that is in use. All its processes end with it, and it ends with
// the process that has started it.
type System struct {
	dir    string    // for what it writes
	cgroup string    // the one that it takes for the root
	first  *exec.Cmd // the parent of its PID 1
	pid    int       // its PID 1, seen from here
}

// Start starts a system on the tree. What it writes lies in memory. shared is a
// directory of this machine that it sees as /shared.
func (t *Tree) Start(shared string) (*System, error) {
	s := &System{}
	if err := s.start(t.dir, shared); err != nil {
		s.Close()
		return nil, fmt.Errorf("start a system of %s: %w", t.Release, err)
	}
	return s, nil
}

func (s *System) start(tree, shared string) (err error) {
	if s.dir, err = os.MkdirTemp("", "gracerun-debian-"); err != nil {
		return err
	}
	root, err := cgroup2()
	if err != nil {
		return err
	}
	s.cgroup = filepath.Join(root, filepath.Base(s.dir))
	if err := os.MkdirAll(filepath.Join(s.cgroup, "init"), 0o755); err != nil {
		return err
	}
	s.first = exec.Command("sh", "-c", boot, "boot", tree, s.dir, shared, s.cgroup)
	s.first.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	s.first.Stderr = &said
	out, err := s.first.StdoutPipe()
	if err != nil {
		return err
	}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// The kernel takes the thread for the parent (prctl(2), PR_SET_PDEATHSIG): it
		// stays for as long as the program.
		runtime.LockOSThread()
		if err := s.first.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = s.first.Wait()
		close(ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	first := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadString('\n')
		first <- text
	}()
	select {
	case text := <-first:
		if text != "ready\n" {
			<-ended
			return fmt.Errorf("it has ended, and said %q", said.String())
		}
	case <-time.After(time.Minute):
		return fmt.Errorf("it is not ready after a minute")
	}
	// A cgroup whose controllers are handed on has no processes of its own.
	if err := os.WriteFile(s.cgroup+"/init/cgroup.procs", []byte(strconv.Itoa(s.first.Process.Pid)), 0); err != nil {
		return err
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", s.first.Process.Pid))
	if err != nil {
		return err
	}
	s.pid, err = strconv.Atoi(strings.TrimSpace(string(children)))
	return err
}

// Command gives a call of a program in the system, with the environment of a login.
func (s *System) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target=" + strconv.Itoa(s.pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup",
		"--wdns=/root", "sh", "-c", enter, "enter", name}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive"}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Path is the path by which a file of the system can be opened from here.
func (s *System) Path(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", s.pid), name)
}

// Close ends all of its processes.
func (s *System) Close() {
	switch {
	case s.pid > 0:
		if fd, err := unix.PidfdOpen(s.pid, 0); err == nil {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
			unix.Close(fd)
		}
	case s.first != nil && s.first.Process != nil:
		_ = s.first.Process.Kill()
	}
	if s.cgroup != "" {
		removeCgroup(s.cgroup)
	}
	_ = os.Remove(s.dir)
}

// cgroup2 gives where the unified hierarchy is mounted.
func cgroup2() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("%w: no cgroup2 is mounted", ErrMissing)
}

// removeCgroup removes a cgroup with those below it, once their processes are gone.
func removeCgroup(top string) {
	var below []string
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			below = append(below, path)
		}
		return nil
	})
	slices.Reverse(below)
	for _, dir := range below {
		for end := time.Now().Add(5 * time.Second); os.Remove(dir) != nil && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	}
}
