package native

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/system"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// A launch is one process that is to be started in a container. `create`, `run`
// and `exec` differ in little else.
type launch struct {
	container *libcontainer.Container
	start     func(*libcontainer.Process) error // of the container

	isInit        bool // not just a further process
	detach        bool // leave it to the caller's monitor, instead of waiting for it
	remove        bool // the container, when the process has ended or could not be started
	listenFDs     int  // how many descriptors from 3 on are for socket activation
	preserveFDs   int  // how many after these go along
	pidFile       string
	consoleSocket string
	pidfdSocket   string
	subCgroups    map[string]string
	notify        *notifyProxy
}

// declare declares the flags that create, run and exec have in common.
func (l *launch) declare(flags *flag.FlagSet) {
	flags.StringVar(&l.consoleSocket, "console-socket", "", "`socket` to send the master end of the terminal to")
	flags.StringVar(&l.pidfdSocket, "pidfd-socket", "", "`socket` to send a pidfd of the process to")
	flags.StringVar(&l.pidFile, "pid-file", "", "`file` to write the process id to")
	flags.IntVar(&l.preserveFDs, "preserve-fds", 0, "pass `N` more file descriptors on, after standard I/O and $LISTEN_FDS")
}

// newContainer holds the flags that create and run have in common.
type newContainer struct {
	launch
	bundle             string
	noPivot, noKeyring bool
}

func (n *newContainer) declare(flags *flag.FlagSet) {
	n.launch.declare(flags)
	flags.StringVar(&n.bundle, "bundle", "", "`directory` of the bundle (default: the current one)")
	alias(flags, "bundle", "b")
	flags.BoolVar(&n.noPivot, "no-pivot", false, "do not use pivot_root: for a root file system on a ramdisk")
	flags.BoolVar(&n.noKeyring, "no-new-keyring", false, "share the caller's session keyring")
}

func createCommand(flags *flag.FlagSet) action {
	var n newContainer
	n.declare(flags)
	return func(g *globals, args []string) error {
		n.detach, n.remove = true, true
		_, err := n.launchInit(g, args[0], (*libcontainer.Container).Start)
		if err != nil {
			return fmt.Errorf("%s create failed: %w", program, err)
		}
		return nil
	}
}

func runCommand(flags *flag.FlagSet) action {
	var n newContainer
	n.declare(flags)
	flags.BoolVar(&n.detach, "detach", false, "do not wait for the process")
	alias(flags, "detach", "d")
	keep := flags.Bool("keep", false, "leave the container when its process has ended")
	noSubreaper := flags.Bool("no-subreaper", false, "do not adopt orphans of the container")
	return func(g *globals, args []string) error {
		n.remove = !*keep
		if !*noSubreaper {
			if err := system.SetSubreaper(1); err != nil {
				logrus.Warn(err)
			}
		}
		status, err := n.launchInit(g, args[0], func(c *libcontainer.Container, p *libcontainer.Process) error {
			if err := n.notify.listen(); err != nil {
				return err
			}
			if err := c.Run(p); err != nil {
				return err
			}
			err := runPoststart(g, c)
			if err != nil {
				end(p)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s run failed: %w", program, err)
		}
		return processExit(status)
	}
}

// launchInit makes the container and launches its init process.
func (n *newContainer) launchInit(g *globals, id string, start func(*libcontainer.Container, *libcontainer.Process) error) (status int, err error) {
	if id == "" {
		return -1, errEmptyID
	}
	if err := absolute(&n.pidFile); err != nil {
		return -1, err
	}
	spec, err := loadConfig(n.bundle)
	if err != nil {
		return -1, err
	}
	n.notify = newNotifyProxy(g, id)
	n.notify.addTo(spec)
	n.container, err = newLibcontainer(g, id, spec, n.noPivot, n.noKeyring)
	if err != nil {
		return -1, err
	}
	if err := n.notify.makeDirectory(); err != nil {
		return -1, err
	}
	n.isInit = true
	n.listenFDs = listenFDs()
	n.start = func(p *libcontainer.Process) error { return start(n.container, p) }
	return n.run(spec.Process)
}

// run starts the process and, unless it is detached, waits for it and gives its
// exit status.
func (l *launch) run(spec *specs.Process) (status int, err error) {
	defer func() {
		if err != nil {
			l.clear()
		}
	}()
	if err := l.checkConsole(spec.Terminal); err != nil {
		return -1, err
	}
	process, err := l.prepare(spec)
	if err != nil {
		return -1, err
	}
	// From here on a signal must not end this program, which would leave half a
	// container behind. Ignoring them is no way: the container would inherit it.
	incoming := catchSignals(l.detach)
	streams, err := l.connect(process, spec.Terminal)
	if err != nil {
		return -1, err
	}
	defer streams.close()
	if err := l.start(process); err != nil {
		return -1, err
	}
	pid, err := l.announce(process, streams)
	if err != nil {
		end(process)
		return -1, err
	}
	if l.detach {
		return 0, l.notify.relay(pid, pid)
	}
	go l.relayWhileWaiting(pid)
	status = wait(process, pid, incoming, streams)
	l.clear()
	return status, nil
}

// relayWhileWaiting names this program as the main process of the service: it
// gets the signals and gives the exit status.
func (l *launch) relayWhileWaiting(pid int) {
	if err := l.notify.relay(pid, os.Getpid()); err != nil {
		logrus.Warn("tell $NOTIFY_SOCKET that the container is ready: " + err.Error())
	}
}

// checkConsole refuses what cannot work: a detached process has nobody to hold
// the other end of its terminal but the receiver of the console socket.
func (l *launch) checkConsole(terminal bool) error {
	switch socket := l.consoleSocket != ""; {
	case l.detach && terminal && !socket:
		return errors.New("cannot allocate tty if " + program + " will detach without setting console socket")
	case socket && !(l.detach && terminal):
		return errors.New("cannot use console socket if " + program + " will not detach or allocate tty")
	}
	return nil
}

// prepare translates the process and hands it the descriptors that go along.
func (l *launch) prepare(spec *specs.Process) (*libcontainer.Process, error) {
	process, err := newProcess(spec)
	if err != nil {
		return nil, err
	}
	process.Init = l.isInit
	process.LogLevel = strconv.Itoa(int(logrus.GetLevel()))
	process.SubCgroupPaths = l.subCgroups
	if l.listenFDs > 0 {
		process.Env = append(process.Env, "LISTEN_FDS="+strconv.Itoa(l.listenFDs), "LISTEN_PID=1")
	}
	for i := range l.listenFDs + l.preserveFDs {
		file, err := inherited(3 + i)
		if err != nil {
			return nil, fmt.Errorf("unable to stat preserved-fd %d (of %d): %w", i-l.listenFDs, l.preserveFDs, err)
		}
		process.ExtraFiles = append(process.ExtraFiles, file)
	}
	if l.pidfdSocket != "" {
		if process.PidfdSocket, err = dial(l.pidfdSocket); err != nil {
			return nil, fmt.Errorf("pidfd socket: %w", err)
		}
	}
	return process, nil
}

// inherited gives a descriptor that the caller has passed. Where it has passed
// fewer than it says, the number may be that of a file of our own by now, of a
// cgroup for instance, which must not get into the container. Ours are all
// close-on-exec, and one that came through an execve cannot be.
func inherited(fd int) (*os.File, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err == nil && flags&unix.FD_CLOEXEC != 0 {
		err = unix.EBADF
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "inherited:"+strconv.Itoa(fd)), nil
}

// announce lets the caller know what was started, and gives its pid.
func (l *launch) announce(process *libcontainer.Process, streams *streams) (pid int, err error) {
	if err := streams.started(); err != nil {
		return -1, err
	}
	if pid, err = process.Pid(); err != nil || l.pidFile == "" {
		return pid, err
	}
	return pid, writePidFile(l.pidFile, pid)
}

func (l *launch) clear() {
	if !l.remove {
		return
	}
	if err := destroy(l.container); err != nil {
		logrus.Warn(err)
	}
}

// end kills a process that was started in vain.
func end(process *libcontainer.Process) {
	_ = process.Signal(unix.SIGKILL)
	_, _ = process.Wait()
}

// writePidFile writes it under another name first: who waits for the file to
// appear must not read half a number.
func writePidFile(path string, pid int) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = file.WriteString(strconv.Itoa(pid))
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// listenFDs gives how many descriptors the caller passes for socket activation
// (sd_listen_fds(3)).
func listenFDs() int {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return 0
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return 0
	}
	return max(0, n)
}

// absolute makes a path given on the command line one that is still right in
// the bundle.
func absolute(path *string) (err error) {
	if *path != "" {
		*path, err = filepath.Abs(*path)
	}
	return err
}

// catchSignals gives the channels of the signals to come. A detached launch has
// no use for them.
func catchSignals(detach bool) (caught signalChannels) {
	// One place is enough for SIGCHLD: all children that have ended are looked
	// for each time.
	caught.child = make(chan os.Signal, 1)
	caught.others = make(chan os.Signal, 128)
	if detach {
		signal.Notify(caught.others, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
		return caught
	}
	signal.Notify(caught.child, unix.SIGCHLD)
	for sig := unix.Signal(1); sig <= 64; sig++ {
		switch sig {
		case unix.SIGCHLD:
		case unix.SIGURG: // the Go runtime sends it to its own threads
		case unix.SIGPIPE: // our reader is gone; the container finds its own pipe closed
		default:
			signal.Notify(caught.others, sig)
		}
	}
	return caught
}
