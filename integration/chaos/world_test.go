package chaos

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

// limit is how long anything may take that takes milliseconds when all is well.
const limit = 60 * time.Second

// place is where containers of one schedule live: a state base and a keeper of
// their own, and a small disk for their logs that nobody else sees.
type place struct {
	bin                string // programs of this tree, and inmate
	dir                string
	runtime            string // beneath gracerun
	namespace          string // of mounts
	closes             []int
	logs, exits, state disk
}

// disk is a small file system of a place.
type disk struct {
	path string // as programs of the place see it
	seen string // from outside of the namespace
	mu   *sync.Mutex
}

// seenAt is the path from outside of what programs see in path.
func (d *disk) seenAt(path string) string { return d.seen + strings.TrimPrefix(path, d.path) }

func newPlace(bin, dir, runtime, logDisk string) (*place, error) {
	p := &place{bin: bin, dir: dir, runtime: runtime}
	for _, d := range []string{"rootfs/proc", "rootfs/dev", "rootfs/usr", "rootfs/io", "logs", "exits", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	inmate, err := os.ReadFile(bin + "/inmate")
	if err == nil {
		err = os.WriteFile(dir+"/rootfs/inmate", inmate, 0o755)
	}
	if err != nil {
		return nil, err
	}
	ns, path, err := testbed.MountNamespace(func() (err error) {
		if filepath.Base(runtime) == "crun" {
			if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
				return os.NewSyscallError("mount cgroup2", err)
			}
		}
		for _, small := range []struct {
			*disk
			name, size string
		}{{&p.logs, "logs", "24m"}, {&p.exits, "exits", "1m"}, {&p.state, "state", "12m"}} {
			path := filepath.Join(dir, small.name)
			if small.disk == &p.logs && logDisk == "ext4" {
				if err := mountExt4(dir+"/logs.img", path); err != nil {
					return err
				}
			} else if err := unix.Mount("tmpfs", path, "tmpfs", 0, "mode=755,size="+small.size); err != nil {
				return os.NewSyscallError("mount tmpfs", err)
			}
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			p.closes = append(p.closes, fd)
			*small.disk = disk{path, fmt.Sprintf("/proc/self/fd/%d", fd), &sync.Mutex{}}
		}
		return nil
	})
	if err != nil {
		p.close()
		return nil, err
	}
	p.namespace, p.closes = path, append(p.closes, ns)
	if err := os.WriteFile(p.config(), []byte("[annotations]\npolicies = [\"observe\", \"delegate\", \"enforce\"]\n"), 0o644); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// mountExt4 mounts a file system of its own, in the namespace of the thread.
func mountExt4(image, at string) error {
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, 24<<20); err != nil {
		return err
	}
	for _, argv := range [][]string{{"mkfs.ext4", "-q", "-O", "^has_journal", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w: %s", argv, err, out)
		}
	}
	return nil
}

// hang has every write to the disk wait, for a while.
func (d *disk) hang(span time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	fd, err := unix.Open(d.seen, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const freeze, thaw = 0xc0045877, 0xc0045878 // FIFREEZE, FITHAW (linux/fs.h)
	if err := unix.IoctlSetInt(fd, freeze, 0); err != nil {
		return err
	}
	time.Sleep(span)
	return unix.IoctlSetInt(fd, thaw, 0)
}

func (p *place) close() {
	for _, fd := range p.closes {
		unix.Close(fd)
	}
}

// config says that annotations may ask for every policy.
func (p *place) config() string { return p.dir + "/config.toml" }

// fill leaves no room on the disk, for a while.
func (d *disk) fill(span time.Duration) error {
	d.mu.Lock() // one at a time
	defer d.mu.Unlock()
	path := d.seen + "/.ballast"
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	time.Sleep(span)
	return nil
}

// processes finds those whose command line holds for, of this place.
func (p *place) processes(match func(cmdline []byte) bool) (found []process.Pidfd) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		if !match(text) {
			continue
		}
		env, _ := os.ReadFile(filepath.Dir(path) + "/environ")
		if !bytes.Contains(env, []byte("GRACERUN_STATE_DIR="+p.state.path+"\x00")) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if fd, err := process.Open(pid); err == nil {
			found = append(found, fd)
		}
	}
	return found
}

func (p *place) keepers() []process.Pidfd {
	return p.processes(func(cmdline []byte) bool { return bytes.HasSuffix(cmdline, []byte("gracemon\x00--keeper\x00")) })
}

// signal sends a signal to the processes, and closes them.
func signalAll(found []process.Pidfd, sig signals.Signal) error {
	var errs []error
	for _, fd := range found {
		errs = append(errs, fd.Send(sig), fd.Close())
	}
	return errors.Join(errs...)
}

// container is one container of a schedule.
type container struct {
	*place
	setup
	id    string
	dir   string
	init  process.Pidfd
	ended chan time.Duration // when init has exited, once
	moved atomic.Int32       // how often its log was moved away
	kills atomic.Int32       // of its supervisors
}

var counter atomic.Int64

func (p *place) make(s setup) (*container, error) {
	c := &container{place: p, setup: s, id: fmt.Sprintf("chaos-%d-%d", os.Getpid(), counter.Add(1)), init: -1}
	c.dir = filepath.Join(p.dir, c.id)
	for _, d := range []string{c.dir + "/bundle", c.dir + "/io", c.dir + "/attach", c.place.exits.seenAt(c.exitDir()), c.place.exits.seenAt(c.persistDir())} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	spec := testbed.Spec("/"+cgroupParent+"/"+c.id, "/inmate", "live", strconv.Itoa(s.Code), strconv.Itoa(s.After), strconv.Itoa(s.Pause))
	spec.Root.Path, spec.Root.Readonly = p.dir+"/rootfs", true
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/io", Type: "bind", Source: c.dir + "/io", Options: []string{"bind", "rw"}})
	spec.Annotations = map[string]string{"io.gracerun.grace": strconv.Itoa(s.Grace) + "ms", "io.gracerun.policy": s.Policy}
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(c.dir+"/bundle/config.json", text, 0o644)
	}
	return c, err
}

const cgroupParent = "gracechaos"

func (c *container) root() string       { return c.dir + "/root" }
func (c *container) log() string        { return c.logs.path + "/" + c.id + ".log" }
func (c *container) exitDir() string    { return c.exits.path + "/" + c.id }
func (c *container) persistDir() string { return c.exits.path + "/" + c.id + "-persist" }

// exitFiles are both, as seen from outside.
func (c *container) exitFiles() (exit, persisted string) {
	return c.exits.seenAt(c.exitDir() + "/" + c.id), c.exits.seenAt(c.persistDir() + "/exit")
}
func (c *container) stateDir() string {
	key, err := statedir.Key(c.root())
	if err != nil {
		panic(err)
	}
	return filepath.Join(c.state.path, key, c.id)
}

// command gives a call of a program of ours in the place.
func (c *container) command(program string, args ...string) *exec.Cmd {
	args = append([]string{"--mount=" + c.namespace, "--wdns=" + c.dir + "/bundle", filepath.Join(c.bin, program)}, args...)
	cmd := exec.Command("nsenter", args...)
	cmd.Env = append(os.Environ(), "GRACERUN_STATE_DIR="+c.state.path, "GRACERUN_CONFIG="+c.config(), "GRACERUN_RUNTIME="+c.runtime)
	cmd.WaitDelay = 20 * time.Second // who holds its output open longer is one who should not
	return cmd
}

// create creates the container as CRI-O does.
func (c *container) create() error {
	args := []string{
		"-b", c.dir + "/bundle", "-c", c.id, "-u", c.id, "-n", c.id, "-r", filepath.Join(c.bin, "gracerun"),
		"--runtime-arg", "--root=" + c.root(), "-l", "k8s-file:" + c.log(), "--exit-dir", c.exitDir(), "--persist-dir", c.persistDir(),
		"-P", c.dir + "/monitor-pid", "-p", c.dir + "/pid", "--socket-dir-path", c.dir + "/attach", "--no-sync-log",
		"--exit-command", filepath.Join(c.bin, "inmate"), "--exit-command-arg", "note", "--exit-command-arg", c.dir + "/commands",
	}
	if c.Rotate {
		args = append(args, "--log-rotate", "--log-size-max", "50000", "--log-max-files", "9999")
	}
	pid, err := c.monitored(args)
	if err != nil {
		return err
	}
	if c.init, err = process.Open(pid); err != nil {
		return err
	}
	c.ended = make(chan time.Duration, 1)
	go func() {
		if exited, err := c.init.Wait(-1); exited && err == nil {
			c.ended <- testbed.Now()
		}
	}()
	return nil
}

// monitored runs a gracemon that creates, and gives init's number.
func (c *container) monitored(args []string) (pid int, err error) {
	sync, child, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer sync.Close()
	cmd := c.command("gracemon", args...)
	cmd.Env = append(cmd.Env, "_OCI_SYNCPIPE=3", "GRACEMON_SLEEP="+c.Sleep)
	if c.Faults != "" {
		cmd.Env = append(cmd.Env, "GRACERUN_FAULTS="+c.Faults)
	}
	cmd.ExtraFiles = []*os.File{child}
	var said bytes.Buffer
	cmd.Stderr = &said
	err = cmd.Run()
	child.Close()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return 0, fmt.Errorf("gracemon: %w: %s", err, said.String())
	}
	var answer struct {
		Pid     int
		Message string
	}
	_ = sync.SetReadDeadline(time.Now().Add(limit))
	if err := json.NewDecoder(sync).Decode(&answer); err != nil {
		return 0, fmt.Errorf("create: the sync pipe: %w", err)
	}
	if answer.Pid <= 0 {
		return 0, fmt.Errorf("create failed: %s", answer.Message)
	}
	return answer.Pid, nil
}

// monitor opens the supervisor that looks after the container now; -1 if there is
// none, or its number is not its own any more.
func (c *container) monitor() process.Pidfd {
	text, err := os.ReadFile(c.dir + "/monitor-pid")
	if err != nil {
		return -1
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return -1
	}
	fd, err := process.Open(pid)
	if err != nil {
		return -1
	}
	if cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); !bytes.Contains(cmdline, []byte("\x00"+c.id+"\x00")) {
		fd.Close()
		return -1
	}
	return fd
}

// counts is what the container knows of itself.
type counts struct {
	Lines [2]uint64
	Terms uint64
	Heard uint64
	Users uint64
}

func (c *container) counts() (n counts) {
	text, err := os.ReadFile(c.dir + "/io/counts")
	if err != nil || len(text) < binary.Size(n) {
		return n
	}
	_, _ = binary.Decode(text, binary.NativeEndian, &n)
	return n
}

// commands is how often the exit command was run.
func (c *container) commands() int {
	text, _ := os.ReadFile(c.dir + "/commands")
	return bytes.Count(text, []byte("run\n"))
}

func (c *container) cgroups() (found []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/" + cgroupParent + "/", "/sys/fs/cgroup/*/" + cgroupParent + "/"} {
		more, _ := filepath.Glob(pattern + c.id)
		found = append(found, more...)
	}
	return found
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// until waits for a condition, and reports whether it came to hold.
func until(most time.Duration, holds func() bool) bool {
	for deadline := time.Now().Add(most); !holds(); time.Sleep(3 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// takeAway ends whatever is left of the container, so that the machine is as before
// whatever went wrong.
func (c *container) takeAway() {
	cmd := c.command("gracerun", "--root", c.root(), "delete", "--force", c.id)
	_ = cmd.Start()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(limit):
		_ = cmd.Process.Kill()
		<-done
	}
	if c.init >= 0 {
		_ = c.init.Send(signals.KILL)
		_, _ = c.init.Wait(limit)
		c.init.Close()
	}
	_ = signalAll(c.processes(func(cmdline []byte) bool { return bytes.Contains(cmdline, []byte("\x00"+c.id+"\x00")) }), signals.KILL)
	for _, dir := range c.cgroups() {
		_ = unix.Rmdir(dir)
	}
}
