package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// createUnder has a monitor create the container, as Podman calls it, and gives
// how long it took until the monitor told init's pid.
func (c *container) createUnder(monitor *Program, log string) (wall int64, err error) {
	c.monitor = monitor
	wall, err = c.callMonitor(monitor, "monitor.pid", c.lab.exits,
		"-b", c.bundle, "-p", c.pidFile(), "-n", c.id, "-u", c.id, "--full-attach",
		"-l", "k8s-file:"+log, "--log-level", "error")
	if err != nil {
		return 0, err
	}
	if c.monitorPid, err = readPid(filepath.Join(c.bundle, "monitor.pid")); err != nil {
		return 0, err
	}
	return wall, c.learnPid()
}

// execUnder has a monitor execute a program of the workload's in the container,
// and gives how long it took until the exit file was there.
func (c *container) execUnder(monitor *Program, serial int, mode string) (wall int64, err error) {
	session := fmt.Sprintf("%s-exec%d", c.id, serial)
	process, err := json.Marshal(map[string]any{"cwd": "/", "args": []string{"/workload", mode}, "user": map[string]int{"uid": 0, "gid": 0}})
	if err != nil {
		return 0, err
	}
	file := filepath.Join(c.bundle, session)
	if err := os.WriteFile(file, process, 0o600); err != nil {
		return 0, err
	}
	// The exit file of an exec is named after the container, too.
	exits := filepath.Join(c.bundle, "exits")
	if err := os.MkdirAll(exits, 0o700); err != nil {
		return 0, err
	}
	exited, err := watch(exits, c.id)
	if err != nil {
		return 0, err
	}
	begin := now()
	_, err = c.callMonitor(monitor, session+".pid", exits,
		"-b", c.bundle, "-p", filepath.Join(c.bundle, session+".init"), "-n", c.id, "-u", session,
		"-l", "none", "--log-level", "error", "-e", "--exec-process-spec", file)
	if err != nil {
		return 0, err
	}
	end, err := exited.wait()
	if err != nil {
		return 0, fmt.Errorf("exec: %w%s", err, c.complaints())
	}
	if pid, err := readPid(filepath.Join(c.bundle, session+".pid")); err == nil {
		syscall.Wait4(pid, nil, 0, nil)
	}
	return end - begin, nil
}

// callMonitor starts the monitor and waits for its answer: the pid of what it
// has created.
func (c *container) callMonitor(monitor *Program, pidFile, exits string, args ...string) (wall int64, err error) {
	l := c.lab
	args = append([]string{
		"--api-version", "1", "-c", c.id, "-r", c.runtime.path,
		"--exit-dir", exits, "--socket-dir-path", filepath.Join(l.tmp, "s"),
		"--conmon-pidfile", filepath.Join(c.bundle, pidFile),
		"--runtime-arg", "--root", "--runtime-arg", c.root(),
	}, args...)
	startOurs, startTheirs, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer startTheirs.Close()
	sync, syncTheirs, err := os.Pipe()
	if err != nil {
		startOurs.Close()
		return 0, err
	}
	defer sync.Close()
	complaints, err := os.Create(filepath.Join(c.bundle, "monitor.errors"))
	if err != nil {
		return 0, err
	}
	defer complaints.Close()
	cmd := exec.Command(monitor.path, args...)
	cmd.Env = append(append(l.environ(c.runtime), monitor.env...), "_OCI_STARTPIPE=3", "_OCI_SYNCPIPE=4")
	cmd.ExtraFiles = []*os.File{startOurs, syncTheirs}
	cmd.Stderr = complaints
	begin := now()
	err = cmd.Start()
	startOurs.Close()
	syncTheirs.Close()
	if err != nil {
		return 0, err
	}
	if _, err := startTheirs.Write([]byte{0}); err != nil {
		return 0, err
	}
	sync.SetReadDeadline(time.Now().Add(patience))
	line, readErr := bufio.NewReader(sync).ReadBytes('\n')
	wall = now() - begin
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%s: %w%s", monitor.Name, err, c.complaints())
	}
	answer := struct {
		Pid, Data int
		Message   string
	}{Pid: -1, Data: -1}
	if err := errors.Join(readErr, json.Unmarshal(line, &answer)); err != nil {
		return 0, fmt.Errorf("%s answers %q: %w%s", monitor.Name, line, err, c.complaints())
	}
	if max(answer.Pid, answer.Data) <= 0 {
		return 0, fmt.Errorf("%s answers %q%s", monitor.Name, line, c.complaints())
	}
	return wall, nil
}

func (c *container) exitFile() string { return filepath.Join(c.lab.exits, c.id) }

// awaitExitFile waits for the exit file, and gives what is in it.
func (c *container) awaitExitFile() (string, error) {
	for give := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(c.exitFile())
		if err == nil {
			return strings.TrimSpace(string(text)), nil
		}
		if time.Now().After(give) {
			return "", fmt.Errorf("%s writes no exit file: %w", c.monitor.Name, err)
		}
	}
}

// reapMonitor waits for the end of the monitor, which is a child of this process
// since its parent has ended.
func (c *container) reapMonitor() {
	if c.monitorPid == 0 {
		return
	}
	for give := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		pid, err := syscall.Wait4(c.monitorPid, nil, syscall.WNOHANG, nil)
		if err != nil || pid != 0 {
			break
		}
		if time.Now().After(give) {
			syscall.Kill(c.monitorPid, syscall.SIGKILL) // a child that is not reaped: its number is its own
			syscall.Wait4(c.monitorPid, nil, 0, nil)
			c.lab.note("%s of container %s had to be killed", c.monitor.Name, c.id)
			break
		}
	}
	c.monitorPid = 0
	os.Remove(c.exitFile())
}

// exitWatch waits for an exit file by inotify, so that the instant is known.
type exitWatch struct {
	fd   int
	name string
}

// watch begins to wait for the exit file of that name in that directory.
func watch(dir, name string) (*exitWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	return &exitWatch{fd, name}, nil
}

// wait gives the instant at which the file was there.
func (w *exitWatch) wait() (int64, error) {
	defer unix.Close(w.fd)
	buffer := make([]byte, 4096)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return 0, fmt.Errorf("no exit file %s (%v)", w.name, err)
		}
		if n, err = unix.Read(w.fd, buffer); err != nil {
			return 0, os.NewSyscallError("read", err)
		}
		at := now()
		// Names are padded with NULs; temporary names have more before or after.
		for _, word := range strings.FieldsFunc(string(buffer[:n]), func(r rune) bool { return r == 0 }) {
			if word == w.name {
				return at, nil
			}
		}
	}
}
