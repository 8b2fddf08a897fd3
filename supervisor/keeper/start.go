package keeper

import (
	"errors"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/supervisor/ownsignal"
)

// MostKeepers is how many keepers there are at most for a base, user and mount
// namespace: the first has room for all, unless its limit is low.
const MostKeepers = 64

// Socket is the path of the nth keeper's socket, from 0 on. Another mount namespace
// has another keeper: what is deposited is found again by its path.
func Socket(base string, nth int) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/mnt", &st); err != nil {
		return "", err
	}
	path := base + "/keeper." + strconv.FormatUint(st.Ino, 10)
	if nth > 0 {
		path += "." + strconv.Itoa(nth)
	}
	return path, nil
}

// ErrBusy is the error of Connect while another process starts or ends the keeper,
// and while the keeper has no room for one more connection. It is over in no time,
// unless that process is stopped.
var ErrBusy = errors.New("keeper.lock is held, or the keeper takes no more connections: is a gracemon stopped or frozen?")

// Connect connects to the nth keeper. One that is not there is started: once, however
// many supervisors come at the same time. program is where gracemon was installed;
// tries is how often it has failed before.
//
// Nothing here waits for another process, which may be stopped, and would keep
// the supervisor from the deadlines of its container: the error is ErrBusy. The
// keeper's socket is made before it is started.
func Connect(nth int, program string, tries int) (conn int, err error) {
	base, err := statedir.Base()
	if err != nil {
		return -1, err
	}
	path, err := Socket(base, nth)
	if err != nil {
		return -1, err
	}
	conn, err = dial(path)
	if err != unix.ECONNREFUSED && err != unix.ENOENT {
		return conn, err
	}
	lock, err := lockBase(base)
	if err != nil {
		return -1, err
	}
	defer unix.Close(lock)
	if conn, err = dial(path); err != unix.ECONNREFUSED && err != unix.ENOENT {
		return conn, err // another one was faster
	}
	if err := start(path, program, tries); err != nil {
		return -1, err
	}
	return dial(path)
}

func dial(path string) (conn int, err error) {
	conn, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	for {
		err = unix.Connect(conn, &unix.SockaddrUnix{Name: path})
		if err != unix.EINTR {
			break
		}
	}
	if err == unix.EAGAIN {
		err = ErrBusy // its backlog is full (unix(7))
	}
	if err != nil {
		unix.Close(conn)
		return -1, err
	}
	return conn, nil
}

// lockBase takes the lock under which keepers come and go, or fails with ErrBusy.
func lockBase(base string) (fd int, err error) {
	fd, err = unix.Open(base+"/keeper.lock", unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, err
	}
	for {
		if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
			break
		}
	}
	if err == unix.EWOULDBLOCK {
		err = ErrBusy
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// start makes the socket, with the lock held, and starts the process that is to
// listen on it.
func start(path, program string, tries int) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_ = unix.Unlink(path)
	// The mode of the descriptor becomes that of the name.
	if err = unix.Fchmod(fd, 0o600); err == nil {
		if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
			err = unix.Listen(fd, 1024)
		}
	}
	if err != nil {
		return err
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	attr := &syscall.ProcAttr{
		Env:   environment(),
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), listener: uintptr(fd)},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	// A reader of the list of processes is to find it by its name.
	argv := []string{program, "--keeper"}
	return ownsignal.Held(func() error {
		if tries == 0 {
			if scoped := inScope(argv); scoped != nil {
				if _, err := syscall.ForkExec(scoped[0], scoped, attr); err == nil {
					return nil
				}
			}
		}
		_, err := syscall.ForkExec("/proc/self/exe", argv, attr)
		return err
	}, caught[:]...)
}

// caught are the signals that do not end a keeper which holds anything.
var caught = [...]signals.Signal{signals.TERM, signals.INT, signals.QUIT, signals.HUP}

// environment is what the keeper and those it starts need: where state is, and
// how to reach a service manager. A container's own comes from its origin.
func environment() []string {
	env := []string{"GOMAXPROCS=1", "GOGC=20", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range [...]string{"GRACERUN_STATE_DIR", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} {
		if value, ok := syscall.Getenv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// inScope gives the command line by which systemd, where it runs, has the keeper
// in a scope of its own: else it would be in that of the first container's
// supervisor, and end with it. Without default dependencies it is not stopped at
// shutdown before the containers are. At a logout it is; the successors in it, which
// TERM has stop their containers, take as long as those.
func inScope(argv []string) []string {
	if unix.Access("/run/systemd/system", unix.F_OK) != nil {
		return nil
	}
	const run = "/usr/bin/systemd-run"
	if unix.Access(run, unix.X_OK) != nil {
		return nil
	}
	scoped := []string{run, "--quiet", "--collect", "--scope", "--property=DefaultDependencies=no", "--property=TimeoutStopSec=infinity",
		"--description=gracemon keeper: holds what supervisors of containers leave behind"}
	if statedir.OfUser() {
		scoped = append(scoped, "--user")
	}
	return append(append(scoped, "--"), argv...)
}

// leaveCgroup goes to the root of each hierarchy, where no systemd has put this
// process into a scope of its own: the cgroup of whoever has started it is to be
// removed one day.
func leaveCgroup() {
	if unix.Access("/run/systemd/system", unix.F_OK) == nil {
		return
	}
	var buf [4096]byte
	fd, err := unix.Open("/proc/self/cgroup", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	n, err := unix.Read(fd, buf[:])
	unix.Close(fd)
	if err != nil {
		return
	}
	JoinCgroups(strings.Split(strings.TrimSpace(string(buf[:n])), "\n"), true)
}

// JoinCgroups puts this process into the cgroups of these lines of
// /proc/PID/cgroup, or into the roots of their hierarchies. One that is not there
// any more, or not the caller's, is left out.
func JoinCgroups(lines []string, roots bool) {
	const mount = "/sys/fs/cgroup"
	for _, line := range lines {
		_, rest, _ := strings.Cut(line, ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		if roots {
			path = ""
		}
		hierarchies := []string{mount + "/" + strings.TrimPrefix(controllers, "name=")}
		if controllers == "" {
			hierarchies = []string{mount, mount + "/unified"}
		}
		for _, h := range hierarchies {
			fd, err := unix.Open(h+path+"/cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			_, _ = unix.Write(fd, []byte("0"))
			unix.Close(fd)
			break
		}
	}
}

// removeOwn removes the socket of this process.
func removeOwn() {
	if sa, err := unix.Getsockname(listener); err == nil {
		if name, ok := sa.(*unix.SockaddrUnix); ok {
			_ = unix.Unlink(name.Name)
		}
	}
}
