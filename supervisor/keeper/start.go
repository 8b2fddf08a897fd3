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

// MostKeepers bounds the keepers of a state base, user and mount namespace. The first
// has room for all containers, unless its RLIMIT_NOFILE is low.
const MostKeepers = 64

// Socket returns the path of the nth keeper's socket, from 0 on. Each mount namespace
// has its own keeper, since a store is found by the path of the state directory.
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

// ErrBusy is the error of Connect while another process starts or ends the keeper, and
// while the backlog of the keeper's socket is full. Both pass within milliseconds,
// unless that process is stopped.
var ErrBusy = errors.New("keeper.lock is held, or the keeper takes no more connections: is a gracemon stopped or frozen?")

// Connect connects to the nth keeper, and starts it if it does not run: once, however
// many supervisors connect at the same time. program is where gracemon was installed;
// tries counts the failures before.
//
// Connect does not wait for another process, which may be stopped: the supervisor has
// deadlines to keep. It fails with ErrBusy instead. It makes the keeper's socket before
// it starts the process.
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

// start makes the socket and starts the keeper's process. The caller holds the lock.
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
	// ps(1) shows this name.
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

// caught are the signals that do not end a keeper that holds anything.
var caught = [...]signals.Signal{signals.TERM, signals.INT, signals.QUIT, signals.HUP}

// environment returns what the keeper and the successors need: the state base, and the
// way to the service manager. A successor gets the rest from its invocation.
func environment() []string {
	env := []string{"GOMAXPROCS=1", "GOGC=20", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range [...]string{"GRACERUN_STATE_DIR", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} {
		if value, ok := syscall.Getenv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// inScope returns the command line that starts the keeper in a systemd scope of its
// own, or nil where systemd does not run. In the scope of the first container's
// supervisor the keeper would end with it. Without default dependencies systemd does
// not stop the scope before the containers at shutdown. At a logout it does; successors
// in it then stop their containers, and the scope waits for them.
func inScope(argv []string) []string {
	if unix.Access("/run/systemd/system", unix.F_OK) != nil {
		return nil
	}
	const run = "/usr/bin/systemd-run"
	if unix.Access(run, unix.X_OK) != nil {
		return nil
	}
	scoped := []string{run, "--quiet", "--collect", "--scope", "--property=DefaultDependencies=no", "--property=TimeoutStopSec=infinity",
		"--description=gracemon keeper: descriptor store of container supervisors"}
	if statedir.OfUser() {
		scoped = append(scoped, "--user")
	}
	return append(append(scoped, "--"), argv...)
}

// leaveCgroup moves this process to the root of each hierarchy, unless systemd has put
// it into a scope: else the cgroup of the process that started it could not be removed.
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

// JoinCgroups moves this process into the cgroups of these lines of /proc/PID/cgroup,
// or into the roots of their hierarchies. It skips those that do not exist any more or
// that it may not enter.
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
