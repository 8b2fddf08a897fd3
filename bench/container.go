package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// patience is how long anything may take before the benchmark gives it up.
const patience = 20 * time.Second

// container is one that runs the workload.
type container struct {
	lab     *lab
	id      string
	bundle  string
	runtime *Program
	monitor *Program // nil: none

	pid, pidfd int
	monitorPid int
	copier     *exec.Cmd // in the place of a monitor
	serves     int       // how often it was asked

	events *bufio.Reader
	pipe   *os.File
}

// prepare makes a bundle. The arguments are those of the workload.
func (l *lab) prepare(runtime *Program, annotations map[string]string, args ...string) (*container, error) {
	l.serial++
	c := &container{lab: l, id: "c" + strconv.Itoa(l.serial), runtime: runtime, pidfd: -1}
	c.bundle = filepath.Join(l.tmp, "b", c.id)
	io := filepath.Join(c.bundle, "io")
	if err := os.MkdirAll(io, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"events", "gate"} {
		if err := unix.Mkfifo(filepath.Join(io, name), 0o600); err != nil {
			return nil, err
		}
	}
	var err error
	// Its own writing end keeps the reading end from seeing an end of file.
	if c.pipe, err = os.OpenFile(filepath.Join(io, "events"), os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
		return nil, err
	}
	c.events = bufio.NewReader(c.pipe)
	config, err := json.Marshal(&specs.Spec{
		Version:     "1.0.2",
		Hostname:    "bench",
		Annotations: annotations,
		Root:        &specs.Root{Path: l.rootfs, Readonly: true},
		Process:     &specs.Process{Cwd: "/", Args: append([]string{"/workload"}, args...), Env: []string{"PATH=/"}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/io", Type: "bind", Source: io, Options: []string{"bind", "rw"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + l.cgroup + "/" + c.id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
		},
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.bundle, "config.json"), config, 0o600); err != nil {
		return nil, err
	}
	l.containers[c.id] = c
	return c, nil
}

// create has the runtime create it, without a monitor.
func (c *container) create() (cost, error) {
	used, err := c.call("create", "--bundle", c.bundle, "--pid-file", c.pidFile(), c.id)
	if err == nil {
		err = c.learnPid()
	}
	return used, err
}

// call runs a command of the runtime.
func (c *container) call(args ...string) (cost, error) {
	return c.lab.spawner.run(c.lab.environ(c.runtime), c.argv(args...))
}

func (c *container) argv(args ...string) []string {
	return append([]string{c.runtime.path, "--root", c.root()}, args...)
}

// root is the runtime's state directory, of each its own.
func (c *container) root() string {
	return filepath.Join(c.lab.tmp, "r", strings.ReplaceAll(c.runtime.Name, " ", "-"))
}

func (c *container) pidFile() string { return filepath.Join(c.bundle, "pid") }

func (c *container) learnPid() (err error) {
	if c.pid, err = readPid(c.pidFile()); err != nil {
		return err
	}
	c.pidfd, err = unix.PidfdOpen(c.pid, 0)
	return os.NewSyscallError("pidfd_open", err)
}

func readPid(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// start starts it and waits until the workload is ready.
func (c *container) start() (cost, error) {
	used, err := c.call("start", c.id)
	if err == nil {
		_, err = c.await("ready")
	}
	return used, err
}

// await waits until the workload tells that, and gives the instant it tells
// (CLOCK_MONOTONIC, ns). What it tells before is passed over.
func (c *container) await(what string) (int64, error) {
	if err := c.pipe.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	for {
		line, err := c.events.ReadString('\n')
		if err != nil {
			return 0, fmt.Errorf("container %s does not say %q: %w%s", c.id, what, err, c.complaints())
		}
		if at, found := strings.CutPrefix(strings.TrimSpace(line), what+" "); found {
			return strconv.ParseInt(at, 10, 64)
		}
	}
}

// complaints gives what the monitor said on its standard error, if anything.
func (c *container) complaints() string {
	text, _ := os.ReadFile(filepath.Join(c.bundle, "monitor.errors"))
	if len(text) == 0 {
		return ""
	}
	return ": " + strings.TrimSpace(string(text))
}

// open lets the workload begin, and gives the instant.
func (c *container) open() (int64, error) {
	at := now()
	// Without blocking there is an error while the workload is not there yet.
	for give := time.Now().Add(patience); ; time.Sleep(50 * time.Microsecond) {
		fd, err := unix.Open(filepath.Join(c.bundle, "io", "gate"), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			return at, unix.Close(fd)
		}
		if err != unix.ENXIO || time.Now().After(give) {
			return 0, fmt.Errorf("container %s does not wait at its gate: %w", c.id, err)
		}
		at = now()
	}
}

// exitsBefore waits until init has ended, or that time is over.
func (c *container) exitsBefore(deadline time.Time) bool {
	for {
		left := max(0, time.Until(deadline))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(c.pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != unix.EINTR {
			return err == nil && n == 1
		}
	}
}

// awaitExit waits until init has ended, and reaps it if that is for us to do.
func (c *container) awaitExit() error {
	if !c.exitsBefore(time.Now().Add(patience)) {
		return fmt.Errorf("container %s does not end", c.id)
	}
	if c.monitor == nil {
		if _, err := syscall.Wait4(c.pid, nil, 0, nil); err != nil && err != syscall.ECHILD {
			return os.NewSyscallError("wait4", err)
		}
	}
	return nil
}

// end kills it, and has the runtime delete it: no measurement, and no failure.
func (c *container) end() {
	if c.pidfd >= 0 {
		unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0)
		c.awaitExit()
	}
	if c.copier != nil {
		c.copier.Process.Kill()
		c.copier.Wait()
	}
	if c.monitor != nil {
		c.awaitExitFile()
		c.reapMonitor()
	}
	c.call("delete", "--force", c.id)
	c.forget()
}

// forget releases what is ours of a deleted container.
func (c *container) forget() {
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
		c.pidfd = -1
	}
	c.pipe.Close()
	os.RemoveAll(c.bundle)
	delete(c.lab.containers, c.id)
}

// running makes a container that runs, under a monitor if one is given.
func (l *lab) running(monitor, runtime *Program, annotations map[string]string, args ...string) (*container, error) {
	c, err := l.prepare(runtime, annotations, args...)
	if err != nil {
		return nil, err
	}
	if monitor == nil {
		_, err = c.create()
	} else {
		_, err = c.createUnder(monitor, filepath.Join(c.bundle, "log"))
	}
	if err == nil {
		_, err = c.start()
	}
	if err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

func now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // there is such a clock
	}
	return ts.Nano()
}

// cpuOf gives the CPU time that a live process has used, in ns.
func cpuOf(pid int) (int64, error) {
	// CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it.
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return ts.Nano(), nil
}
