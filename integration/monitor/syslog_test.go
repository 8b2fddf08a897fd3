package monitor

import (
	"errors"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// syslog has the stack's programs run where /dev/log is the test's: in a mount
// namespace with a /dev of its own.
func (s *stack) syslog(t *testing.T) *net.UnixConn {
	t.Helper()
	dev := t.TempDir()
	return s.listening(t, "/dev/log", func() error {
		if err := unix.Mount("tmpfs", dev, "tmpfs", 0, "mode=755"); err != nil {
			return os.NewSyscallError("mount a /dev", err)
		}
		for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx"} {
			if err := os.WriteFile(dev+"/"+name, nil, 0o644); err != nil {
				return err
			}
			if err := unix.Mount("/dev/"+name, dev+"/"+name, "", unix.MS_BIND, ""); err != nil {
				return os.NewSyscallError("bind "+name, err)
			}
		}
		for _, name := range []string{"pts", "shm"} {
			if err := os.Mkdir(dev+"/"+name, 0o755); err != nil {
				return err
			}
			if err := unix.Mount("/dev/"+name, dev+"/"+name, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				return os.NewSyscallError("bind "+name, err)
			}
		}
		return os.NewSyscallError("move it to /dev", unix.Mount(dev, "/dev", "", unix.MS_MOVE, ""))
	})
}

// heard gives what was sent so far, without what differs each time.
func (c *container) heard(log *net.UnixConn) string {
	c.t.Helper()
	stamp := regexp.MustCompile(`^(<[0-9]+>)[A-Z][a-z][a-z] [ 1-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-6][0-9] `)
	pid := regexp.MustCompile(`(container|PID:) [0-9]+`)
	var all strings.Builder
	buf := make([]byte, 1<<16)
	for {
		c.must(log.SetReadDeadline(time.Now().Add(time.Millisecond)))
		n, err := log.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all.String()
		}
		c.must(err)
		line := stamp.ReplaceAllString(string(buf[:n]), "${1}STAMP ")
		line = strings.ReplaceAll(strings.ReplaceAll(line, c.dir, "DIR"), c.id[:20], "ID")
		line = pid.ReplaceAllString(line, "$1 N")
		if !conmonsOwn.MatchString(line) {
			all.WriteString(strings.TrimRight(line, " \n") + "\n") // some versions of conmon have a blank there
		}
	}
}

// conmonsOwn is what conmon says of its descriptors, and of what it may not do.
var conmonsOwn = regexp.MustCompile(`<ndebug>: (addr\{|terminal_ctrl_fd: |winsz read side: |failed to write to /proc/self/oom_score_adj)`)

// What is sent to syslog, in which words, with which facility, severity and name.
func TestSyslog(t *testing.T) {
	ours, theirs := stacks("runc")
	const (
		exited  = "<14>STAMP conmon: conmon ID <ninfo>: container N exited with status 3\n"
		pid     = "<14>STAMP conmon: conmon ID <ndebug>: container PID: N\n"
		calling = "<14>STAMP conmon: conmon ID <ntrace>: calling runtime args: RUNTIME --root=DIR/root create --bundle DIR/bundle --pid-file DIR/pidfile ID"
		failed  = "<14>STAMP conmon: conmon ID <nwarn>: runtime stderr: RUNC\n" +
			"<11>STAMP conmon: conmon ID <error>: Failed to create container: exit status 1\n"
	)
	for _, s := range []*stack{ours, theirs} {
		t.Run(s.name, func(t *testing.T) {
			s.need(t)
			log := s.syslog(t)
			heard := func(c *container) string {
				return strings.ReplaceAll(strings.ReplaceAll(c.heard(log), c.runtimePath(), "RUNTIME"), "ID"+c.id[20:], "ID")
			}
			for _, test := range []struct{ level, want string }{
				{"error", ""}, {"warn", ""}, {"info", exited}, {"debug", pid + exited}, {"trace", calling + "\n" + pid + exited},
			} {
				c := s.container(t, "exit 3")
				c.args = []string{"--syslog", "--log-level", test.level}
				c.started()
				c.expect("exit file", c.exitFile(), "3")
				c.gone()
				c.expect("syslog at level "+test.level, heard(c), test.want)
			}
			c := s.container(t, "")
			c.spec.Process.Args = []string{"/nonexistent"}
			c.args = []string{"--syslog", "--log-level", "info"}
			c.create()
			c.until("it has ended", func() bool { return !running(c.monitor) })
			c.expect("syslog when the create fails", regexp.MustCompile("time=.*").ReplaceAllString(heard(c), "RUNC"), failed)
		})
	}
}
