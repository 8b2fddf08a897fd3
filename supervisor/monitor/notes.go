package monitor

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/localtime"
)

// notes is what gracemon says of itself: on stderr, which is /dev/null in the
// daemon, and in syslog if --syslog was given. Words and levels are conmon's.
type notes struct {
	level  cmdline.Level
	syslog bool
	id     string
}

func newNotes(o *cmdline.Options) *notes { return &notes{o.Level, o.Syslog, o.LogID()} }

// fail says why gracemon ends, and gives its exit status.
func (n *notes) fail(text string) int {
	n.say('e', "error", errorPriority, text)
	return 1
}

// failErr is fail with an error of the kernel, as conmon's pexit has it.
func (n *notes) failErr(text string, err error) int {
	if errno, ok := err.(unix.Errno); ok {
		text += " " + cmdline.Text(errno)
	}
	return n.fail(text)
}

func (n *notes) warn(text string) {
	if n.level >= cmdline.Warnings {
		n.say('w', "nwarn", infoPriority, text)
	}
}

func (n *notes) info(text string) {
	if n.level >= cmdline.Info {
		n.say('i', "ninfo", infoPriority, text)
	}
}

func (n *notes) debug(text string) {
	if n.level >= cmdline.Debug {
		n.say('d', "ndebug", infoPriority, text)
	}
}

func (n *notes) trace(text string) {
	if n.level >= cmdline.Trace {
		n.say('d', "ntrace", infoPriority, text)
	}
}

func (n *notes) say(letter byte, tag string, priority int, text string) {
	write(2, "[conmon:"+string(letter)+"]: "+text+"\n")
	if n.syslog {
		syslog(priority, "conmon "+n.id+" <"+tag+">: "+text)
	}
}

// Priorities with the facility USER (RFC 3164, 4.1.1).
const (
	errorPriority = 1<<3 | 3
	infoPriority  = 1<<3 | 6
)

// syslog sends a message as syslog(3) does. Nobody listening is no error.
func syslog(priority int, text string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	local, _ := localtime.Clock(time.Now())
	line := "<" + strconv.Itoa(priority) + ">" + local.Format(time.Stamp) + " conmon: " + text + "\n"
	_ = unix.Sendto(fd, []byte(line), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: "/dev/log"})
}

// write writes a message; nobody can be told if that fails.
func write(fd int, text string) {
	for b := []byte(text); len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return
		}
		b = b[max(n, 0):]
	}
}
