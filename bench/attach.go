package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const attachSection = "An attached client"

// attach measures how fast a client on the attach socket gets the container's
// output, while it is logged as well.
func (l *lab) attach() error {
	d := l.loads()[1]
	l.progress("attach: %s", d.name)
	interleave(l, "attach", l.rounds(7), l.monitors(), func(m *Program) error {
		log := filepath.Join(l.tmp, "log")
		defer os.Remove(log)
		c, err := l.writing(m, d, log)
		if err != nil {
			return err
		}
		defer c.end()
		client, err := dial(filepath.Join(c.bundle, "attach"))
		if err != nil {
			return err
		}
		defer unix.Close(client)
		before, err := cpuOf(c.monitorPid)
		if err != nil {
			return err
		}
		begin, err := c.open()
		if err != nil {
			return err
		}
		got, err := receive(client)
		if err != nil {
			return err
		}
		wall := now() - begin
		after, err := cpuOf(c.monitorPid)
		if err != nil {
			return err
		}
		if want, _ := d.written(); got != want {
			return fmt.Errorf("the client got %d bytes, the container wrote %d", got, want)
		}
		l.addRate(attachSection, d.name+", logged to tmpfs and sent to one client", m.Name, d.bytes, wall, after-before)
		return nil
	})
	return nil
}

func dial(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", path, err)
	}
	timeout := unix.NsecToTimeval(patience.Nanoseconds())
	return fd, os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
}

// receive reads until the workload's last line. Each packet begins with a byte
// that says of which stream it is.
func receive(fd int) (size int, err error) {
	buffer := make([]byte, 256<<10)
	var tail []byte
	for {
		n, err := unix.Read(fd, buffer)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return size, fmt.Errorf("attach socket after %d bytes: %w", size, err)
		}
		if n == 0 {
			return size, fmt.Errorf("attach socket closed after %d bytes", size)
		}
		size += n - 1
		// The last line may come in two packets.
		data := buffer[1:n]
		tail = append(tail, data[max(0, len(data)-len(lastLine)):]...)
		tail = tail[max(0, len(tail)-len(lastLine)):]
		if bytes.Equal(tail, []byte(lastLine)) {
			return size, nil
		}
	}
}
