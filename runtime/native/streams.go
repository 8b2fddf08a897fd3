package native

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/containerd/console"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"
)

// streams are the standard streams of a process, as far as this program has to
// do with them. A detached process has the caller's own, or a terminal whose
// master end goes to the console socket. For one in the foreground this program
// copies between its own streams and pipes or a terminal.
type streams struct {
	childEnds []io.Closer // closed here once the process has started with them
	ours      []io.Closer
	copying   sync.WaitGroup

	terminal *console.EpollConsole // of the process
	host     console.Console       // ours
	poller   *console.Epoller
	received chan error // whether the terminal has come, when it has
}

func (l *launch) connect(process *libcontainer.Process, terminal bool) (*streams, error) {
	s := &streams{}
	var err error
	switch {
	case terminal && l.detach:
		err = s.sendConsole(process, l.consoleSocket)
	case terminal:
		err = s.openConsole(process)
	case l.detach:
		process.Stdin, process.Stdout, process.Stderr = os.Stdin, os.Stdout, os.Stderr
	default:
		err = s.openPipes(process, l.container)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *streams) sendConsole(process *libcontainer.Process, path string) error {
	socket, err := dial(path)
	if err != nil {
		return err
	}
	process.ConsoleSocket = socket
	s.childEnds = append(s.childEnds, socket)
	return nil
}

// dial gives a connection to a Unix socket, in the form that can be passed on.
func dial(path string) (*os.File, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*net.UnixConn).File()
}

func (s *streams) openPipes(process *libcontainer.Process, container *libcontainer.Container) error {
	config := container.Config()
	uid, err := config.HostRootUID()
	if err != nil {
		return err
	}
	gid, err := config.HostRootGID()
	if err != nil {
		return err
	}
	pipes, err := process.InitializeIO(uid, gid)
	if err != nil {
		return err
	}
	s.ours = append(s.ours, pipes.Stdin, pipes.Stdout, pipes.Stderr)
	for _, end := range []any{process.Stdin, process.Stdout, process.Stderr} {
		s.childEnds = append(s.childEnds, end.(io.Closer))
	}
	// Nobody waits for standard input: there may be no end of it.
	go func() {
		_, _ = io.Copy(pipes.Stdin, os.Stdin)
		_ = pipes.Stdin.Close()
	}()
	s.copy(os.Stdout, pipes.Stdout)
	s.copy(os.Stderr, pipes.Stderr)
	return nil
}

func (s *streams) copy(to io.Writer, from io.ReadCloser) {
	s.copying.Go(func() {
		_, _ = io.Copy(to, from)
		// The process must not block on a pipe that nobody reads any more.
		_ = from.Close()
	})
}

func (s *streams) openConsole(process *libcontainer.Process) (err error) {
	if s.host, err = hostConsole(); err != nil {
		return err
	}
	parent, child, err := utils.NewSockPair("console")
	if err != nil {
		return err
	}
	process.ConsoleSocket = child
	s.childEnds = append(s.childEnds, parent, child)
	s.received = make(chan error, 1)
	go func() { s.received <- s.receiveConsole(parent) }()
	return nil
}

// hostConsole gives the terminal this program runs on, wherever its streams may
// be redirected to.
func hostConsole() (console.Console, error) {
	for _, stream := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if host, err := console.ConsoleFromFile(stream); err == nil {
			return host, nil
		} else if !errors.Is(err, console.ErrNotAConsole) {
			return nil, fmt.Errorf("unable to get console: %w", err)
		}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return console.ConsoleFromFile(tty)
}

// receiveConsole takes the master end of the terminal from libcontainer's init
// and connects it with ours.
func (s *streams) receiveConsole(socket *os.File) error {
	master, err := receiveFile(socket)
	if err != nil {
		return err
	}
	terminal, err := console.ConsoleFromFile(master)
	if err != nil {
		return err
	}
	// Our own terminal is raw and would show line feeds as they are; so the
	// line discipline of the container's must not be asked to do it twice.
	if err := console.ClearONLCR(terminal.Fd()); err != nil {
		return err
	}
	if s.poller, err = console.NewEpoller(); err != nil {
		return err
	}
	if s.terminal, err = s.poller.Add(terminal); err != nil {
		return err
	}
	s.ours = append(s.ours, s.terminal)
	go func() { _ = s.poller.Wait() }()
	go func() { _, _ = io.Copy(s.terminal, os.Stdin) }()
	s.copy(os.Stdout, s.terminal)
	return s.host.SetRaw()
}

// receiveFile takes one descriptor out of a Unix socket.
func receiveFile(socket *os.File) (*os.File, error) {
	name, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(int(socket.Fd()), name, rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, errors.New("the container sent no terminal")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), string(name[:n])), nil
}

// started waits for the terminal and lets go of what is the process's now.
func (s *streams) started() error {
	if s.received != nil {
		if err := <-s.received; err != nil {
			return err
		}
	}
	s.closeChildEnds()
	return nil
}

func (s *streams) closeChildEnds() {
	for _, c := range s.childEnds {
		_ = c.Close()
	}
	s.childEnds = nil
}

// resize gives the process's terminal the size of ours. Either may be gone by
// now, which is no reason to fail.
func (s *streams) resize() {
	if s.terminal != nil {
		_ = s.terminal.ResizeFrom(s.host)
	}
}

// close copies what is left in the pipes or the terminal and closes them.
func (s *streams) close() {
	s.closeChildEnds()
	if s.terminal != nil {
		_ = s.terminal.Shutdown(s.poller.CloseConsole)
	}
	s.copying.Wait()
	for _, c := range s.ours {
		_ = c.Close()
	}
	if s.host != nil {
		_ = s.host.Reset()
	}
}
