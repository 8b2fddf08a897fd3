package attach

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// Notify forwards what a container tells by sd_notify(3) to the host's service
// manager: from the socket "notify/notify.sock" in the bundle, whose directory
// Podman mounts into the container, to the host's own.
type Notify struct {
	loop    *loop.Loop
	host    unix.SockaddrUnix
	warn    func(message string)
	sock    socket
	buf     []byte
	pending string // what the host had no room for yet
	paused  bool   // and for as long, the container is not read from
	retry   loop.Timer
}

// maxNotification is more than systemd takes (4096 bytes).
const maxNotification = 32768

// notifyPause is how long to wait before a host that had no room is tried again.
const notifyPause = 10 * lifecycle.Millisecond

// ListenNotify makes the socket in the bundle, in place of one that is there.
// host is the path of the host's socket, or "@" and a name for an abstract one.
func ListenNotify(l *loop.Loop, bundle, host string, warn func(message string)) (*Notify, error) {
	path := bundle + "/notify/notify.sock"
	if len(host) > maxAddress {
		return nil, &Error{"sd-notify socket " + host, unix.ENAMETOOLONG}
	}
	n := &Notify{loop: l, warn: warn, host: unix.SockaddrUnix{Name: host}}
	n.retry.Fire = n.forward
	n.sock = socket{fd: -1, dir: -1, name: "notify.sock", path: path}
	var err error
	if n.sock.dir, err = openDir(bundle + "/notify"); err != nil {
		return nil, err
	}
	// The container may be anybody.
	if n.sock.fd, err = bind(n.sock.dir, n.sock.name, path, unix.SOCK_DGRAM, 0o777); err == nil {
		err = l.Add(n.sock.fd, loop.Readable, n)
	}
	if err != nil {
		n.sock.close()
		return nil, err
	}
	return n, nil
}

// Close ends the service and takes the socket away.
func (n *Notify) Close() {
	if n.sock.fd < 0 {
		return
	}
	n.loop.Arm(&n.retry, lifecycle.Never)
	n.loop.Remove(n.sock.fd)
	n.sock.close()
}

// Ready takes one datagram.
func (n *Notify) Ready(uint32) {
	if n.buf == nil {
		n.buf = make([]byte, maxNotification)
	}
	got, err := receive(n.sock.fd, n.buf)
	if err != nil {
		return
	}
	if got > len(n.buf) {
		n.say("a notification of " + strconv.Itoa(got) + " bytes from the container is too long and not forwarded")
		return
	}
	if n.pending = allowed(string(n.buf[:got])); n.pending != "" {
		n.forward()
	}
}

// forward sends what is pending, or tries again soon if the host has no room.
func (n *Notify) forward() {
	var err error
	for {
		if err = unix.Sendto(n.sock.fd, []byte(n.pending), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &n.host); err != unix.EINTR {
			break
		}
	}
	if err == unix.EAGAIN {
		n.paused = true
		n.loop.Remove(n.sock.fd)
		n.loop.Arm(&n.retry, loop.Now().After(notifyPause))
		return
	}
	if err != nil {
		n.say("Failed to write to socket host notify socket: " + err.Error())
	}
	n.pending = ""
	if !n.paused {
		return
	}
	n.paused = false
	if err := n.loop.Add(n.sock.fd, loop.Readable, n); err != nil {
		n.say("Failed to wait for notifications of the container: " + err.Error())
	}
}

func (n *Notify) say(message string) {
	if n.warn != nil {
		n.warn(message)
	}
}

// allowed is the part of a notification that a container may send as if it were
// the service itself: not MAINPID=, FDSTORE=1 and others that give it power over
// the service. Lines end with LF or CR; a NUL ends it all.
func allowed(notification string) string {
	notification, _, _ = strings.Cut(notification, "\x00")
	var b strings.Builder
	for notification != "" {
		line := notification
		if end := strings.IndexAny(notification, "\n\r"); end < 0 {
			notification = ""
		} else {
			line, notification = notification[:end], notification[end+1:]
		}
		if allowedLine(line) {
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(line)
		}
	}
	return b.String()
}

func allowedLine(line string) bool {
	switch line {
	case "READY=1", "RELOADING=1", "STOPPING=1", "WATCHDOG=1", "WATCHDOG=trigger":
		return true
	}
	for _, name := range [...]string{"STATUS=", "ERRNO=", "BUSERROR=", "MONOTONIC_USEC="} {
		if strings.HasPrefix(line, name) {
			return true
		}
	}
	return false
}
