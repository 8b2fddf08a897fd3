package native

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"gracerun.io/signals/process"
)

// A notifyProxy lets the container tell the host's systemd that it is ready
// (sd_notify(3)): it has a socket of its own in the container, whose READY=1 it
// passes to $NOTIFY_SOCKET together with the pid of the service's main process.
//
// The methods of a nil proxy do nothing: there is no $NOTIFY_SOCKET.
type notifyProxy struct {
	host      string // $NOTIFY_SOCKET
	directory string // of our socket, on the host
	socket    int
}

const (
	notifyMount  = "/run/notify" // in the container
	notifySocket = "notify.sock"
)

func newNotifyProxy(g *globals, id string) *notifyProxy {
	host := os.Getenv("NOTIFY_SOCKET")
	if host == "" {
		return nil
	}
	return &notifyProxy{host: host, directory: filepath.Join(g.root, id, "notify"), socket: -1}
}

// addTo mounts the directory rather than the socket, which is made only when
// the container is started.
func (n *notifyProxy) addTo(spec *specs.Spec) {
	if n == nil {
		return
	}
	spec.Process.Env = append(spec.Process.Env, "NOTIFY_SOCKET="+notifyMount+"/"+notifySocket)
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: notifyMount,
		Source:      n.directory,
		Options:     []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	})
}

// makeDirectory makes it in the state directory of the container, which must be
// there by now.
func (n *notifyProxy) makeDirectory() error {
	if n == nil {
		return nil
	}
	return os.Mkdir(n.directory, 0o755)
}

// listen makes the socket. Any user of the container may write to it.
func (n *notifyProxy) listen() error {
	if n == nil {
		return nil
	}
	directory, err := os.Open(n.directory)
	if err != nil {
		return err
	}
	defer directory.Close()
	// By way of /proc: the whole path may be too long for a socket address.
	path := fmt.Sprintf("/proc/self/fd/%d/%s", directory.Fd(), notifySocket)
	n.socket, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(n.socket, &unix.SockaddrUnix{Name: path}); err != nil {
		return &os.PathError{Op: "bind", Path: filepath.Join(n.directory, notifySocket), Err: err}
	}
	return os.Chmod(path, 0o777)
}

// relay waits until the container says that it is ready, and tells the host that
// mainPid is the service's main process; or until the init process has ended.
// Before `start` there is nobody to wait for.
func (n *notifyProxy) relay(initPid, mainPid int) error {
	if n == nil || n.socket < 0 {
		return nil
	}
	init, err := process.Open(initPid)
	if errors.Is(err, process.ErrGone) {
		return nil
	} else if err != nil {
		return err
	}
	defer init.Close()
	for {
		ready, err := n.await(init)
		if err != nil || ready == nil {
			return err
		}
		if line := readyLine(ready); line != nil {
			return n.notifyHost(line, mainPid)
		}
	}
}

// await gives the next message, or nil if the init process ended without one.
func (n *notifyProxy) await(init process.Pidfd) ([]byte, error) {
	fds := []unix.PollFd{{Fd: int32(n.socket), Events: unix.POLLIN}, {Fd: int32(init), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return nil, os.NewSyscallError("poll", err)
		}
		if fds[0].Revents == 0 {
			return nil, nil
		}
		message := make([]byte, 4096)
		length, err := unix.Read(n.socket, message)
		return message[:max(0, length)], os.NewSyscallError("read", err)
	}
}

func readyLine(message []byte) []byte {
	for line := range bytes.Lines(message) {
		if bytes.HasPrefix(line, []byte("READY=")) {
			return bytes.TrimSuffix(line, []byte("\n"))
		}
	}
	return nil
}

// barrierTimeout is how long the host may take to read what it was told: the 30
// seconds that runc allows, in ms.
const barrierTimeout = 30_000

// notifyHost returns when the host has read the message. systemd looks up who
// sent it, which it cannot once this program has ended; so a descriptor goes
// with the last message, and its being closed is the receipt
// (sd_notify_barrier(3)).
func (n *notifyProxy) notifyHost(ready []byte, mainPid int) error {
	host, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(host)
	address := &unix.SockaddrUnix{Name: n.host}
	message := string(ready) + "\nMAINPID=" + strconv.Itoa(mainPid) + "\n"
	if err := unix.Sendto(host, []byte(message), 0, address); err != nil {
		return os.NewSyscallError("sendto $NOTIFY_SOCKET", err)
	}
	receipt, sent, err := os.Pipe()
	if err != nil {
		return err
	}
	defer receipt.Close()
	err = unix.Sendmsg(host, []byte("BARRIER=1"), unix.UnixRights(int(sent.Fd())), address, 0)
	sent.Close()
	if err != nil {
		return os.NewSyscallError("sendmsg $NOTIFY_SOCKET", err)
	}
	hangUp := []unix.PollFd{{Fd: int32(receipt.Fd())}}
	for {
		switch closed, err := unix.Poll(hangUp, barrierTimeout); {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("poll", err)
		default:
			if closed == 0 {
				logrus.Warn("the receiver at $NOTIFY_SOCKET did not answer to BARRIER=1 within 30 seconds")
			}
			return nil
		}
	}
}
