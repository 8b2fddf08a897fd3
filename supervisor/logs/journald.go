package logs

import (
	"encoding/binary"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// JournalSocket is where journald listens (systemd.journal-fields(7), and
// https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JournalSocket = "/run/systemd/journal/socket"

// journaldDriver writes to the journal of systemd.
var journaldDriver = driver{
	names: []string{"journald"},
	tags:  true,
	check: func(o *Options) (problem string) {
		// The journal's entries have the first 12 characters of the ID as well.
		if len(o.ID) <= 12 {
			return "Container ID must be longer than 12 characters"
		}
		if problem := checkLabels(o); problem != "" {
			return problem
		}
		for _, label := range o.Labels {
			if !isFieldName(label[:strings.IndexByte(label, '=')]) {
				return "Container label names must contain only uppercase letters, numbers and underscore (in '" + label + "')"
			}
		}
		return ""
	},
	make: newJournald,
}

func isFieldName(name string) bool {
	for i := 0; i < len(name); i++ {
		if c := name[i]; c != '_' && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// journald sends output to the journal, one message for each line.
//
// It speaks the native protocol by itself. github.com/coreos/go-systemd's
// package journal would do, but imports net, os and fmt, which cost a process
// that is there for each container more memory than all of this package; its
// Send waits for a slow journald, and makes garbage of every line.
type journald struct {
	noFile
	l      *Logs
	place  int
	path   string
	fd     int    // -1: not connected
	fields []byte // that are the same in all messages

	message [7]unix.Iovec
	header  unix.Msghdr
	size    [8]byte

	trouble trouble
	known   bool              // it has taken something from this process, so that there is one
	down    lifecycle.Instant // since when it could not be reached; 0: it could
	flow    congestion
}

// newJournald connects to nothing before there is something to say: a journald may
// come later, and a container that says nothing needs none.
func newJournald(l *Logs, place int, _ string) log {
	j := &journald{l: l, place: place, fd: -1, flow: congestion{l: l, waiting: -1}}
	o := &l.options
	short := o.ID[:min(12, len(o.ID))]
	identifier := short
	if o.Name != "" {
		identifier = o.Name
	}
	if o.Tag != "" {
		identifier = o.Tag
	}
	b := appendField(nil, "CONTAINER_ID_FULL="+o.ID)
	b = appendField(b, "CONTAINER_ID="+short)
	if o.Tag != "" {
		b = appendField(b, "CONTAINER_TAG="+o.Tag)
	}
	if o.Name != "" {
		b = appendField(b, "CONTAINER_NAME="+o.Name)
	}
	b = appendField(b, "SYSLOG_IDENTIFIER="+identifier)
	for _, label := range o.Labels {
		b = appendField(b, label)
	}
	j.fields = b
	j.path = o.JournalSocket
	if j.path == "" {
		j.path = JournalSocket
	}
	return j
}

// appendField puts a field as the protocol has it: a value with a newline in it
// is preceded by its length.
func appendField(b []byte, field string) []byte {
	name, value, _ := strings.Cut(field, "=")
	if strings.IndexByte(value, '\n') < 0 {
		return append(append(b, field...), '\n')
	}
	b = append(append(b, name...), '\n')
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	return append(append(b, value...), '\n')
}

// connect makes the socket. It is connected, so that it can be waited for.
func (j *journald) connect() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	// What systemd's own library asks for, so that messages need not be small.
	const buffer = 8 << 20
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, buffer)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: j.path}); err != nil {
		unix.Close(fd)
		return err
	}
	j.fd = fd
	return nil
}

func (j *journald) close() {
	if j.fd >= 0 {
		j.flow.stop()
		unix.Close(j.fd)
		j.fd = -1
	}
}

// The beginning of a line is kept until its end comes, or until it is as long as
// conmon's buffer, or finish says that no end will come.
func (j *journald) advance(s *Stream, _, finish bool) {
	stream := int(s.source)
	c := j.l.cursor
	for j.trouble.err == nil && !j.flow.isWaiting() {
		pos, size := s.pos(j.place), s.spool.Size()
		if dropped := c.Dropped(stream, j.place); dropped > 0 {
			text := "[gracerun: " + strconv.FormatInt(dropped, 10) + " bytes of output are missing here: the journal could not be written]"
			if !j.send([]byte(text), priorityWarning, false) {
				return
			}
			c.SetDropped(stream, j.place, 0)
		}
		data := s.view(pos, batch)
		if len(data) == 0 {
			return
		}
		last := pos+int64(len(data)) == size
		for len(data) > 0 {
			n, partial := message(data)
			if partial && n < maxRecord && !(finish && last) {
				if last {
					return
				}
				break // look at it again with what follows
			}
			inside := c.Inside(stream, j.place)
			priority, text := priorityOf(s.source, data[:n], inside)
			if !j.send(text, priority, partial && !j.l.options.NoPartialMessage) {
				return
			}
			pos += int64(n)
			c.SetPos(stream, j.place, pos, partial)
			data = data[n:]
		}
	}
}

// message is how much of the data makes a message, and whether it is one without
// the end of its line.
func message(data []byte) (n int, partial bool) {
	if len(data) > maxRecord {
		data = data[:maxRecord]
	}
	if end := wholeLine(data); end > 0 {
		return int(end), false
	}
	return len(data), true
}

// Priorities of syslog(3), as the journal is told them.
const (
	priorityError   = 3
	priorityWarning = 4
	priorityInfo    = 6
)

// priorityOf takes the priority from "<N>" at the beginning of a line, as
// sd-daemon(3) has it, and else from the stream.
func priorityOf(source Source, text []byte, insideLine bool) (priority byte, rest []byte) {
	if !insideLine && len(text) >= 3 && text[0] == '<' && text[1] >= '0' && text[1] <= '7' && text[2] == '>' {
		return text[1] - '0', text[3:]
	}
	if source == Stderr {
		return priorityError, text
	}
	return priorityInfo, text
}

var (
	priorityField = []byte("PRIORITY=0\nPRIORITY=1\nPRIORITY=2\nPRIORITY=3\nPRIORITY=4\nPRIORITY=5\nPRIORITY=6\nPRIORITY=7\n")
	partialField  = []byte("CONTAINER_PARTIAL_MESSAGE=true\n")
	messageField  = []byte("MESSAGE\n")
	newline       = []byte("\n")
)

// send sends one message, and reports whether journald has it.
func (j *journald) send(text []byte, priority byte, partial bool) bool {
	binary.LittleEndian.PutUint64(j.size[:], uint64(len(text)))
	const length = len("PRIORITY=0\n")
	parts := j.message[:0]
	parts = appendPart(parts, messageField)
	parts = appendPart(parts, j.size[:])
	parts = appendPart(parts, text)
	parts = appendPart(parts, newline)
	parts = appendPart(parts, priorityField[int(priority)*length:][:length])
	parts = appendPart(parts, j.fields)
	if partial {
		parts = appendPart(parts, partialField)
	}
	j.header.Iov, j.header.Iovlen = &parts[0], uint64(len(parts))
	var err error
	if j.fd < 0 {
		err = j.connect()
	}
	if err == nil {
		err = j.sendmsg(&j.header)
	}
	if err == unix.EMSGSIZE || err == unix.ENOBUFS {
		err = j.sendFile(parts)
	}
	switch err {
	case nil:
		j.flow.moved()
		j.down, j.known = 0, true
		if j.trouble.end() {
			j.l.options.Warn("The journal is written again")
		}
		return true
	case unix.EAGAIN:
		j.flow.wait(j.fd, &j.trouble)
	default:
		j.close()
		j.failed(err)
	}
	return false
}

func appendPart(parts []unix.Iovec, b []byte) []unix.Iovec {
	if len(b) == 0 {
		return parts
	}
	parts = append(parts, unix.Iovec{Base: &b[0], Len: uint64(len(b))})
	return parts
}

func (j *journald) sendmsg(header *unix.Msghdr) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(j.fd), uintptr(unsafe.Pointer(header)), unix.MSG_NOSIGNAL)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}

// sendFile sends a message that is too large for a datagram, as the protocol
// says: in a sealed memory file. Only labels can make one so large.
func (j *journald) sendFile(parts []unix.Iovec) error {
	fd, err := unix.MemfdCreate("journal-message", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, part := range parts {
		for rest := unsafe.Slice(part.Base, part.Len); len(rest) > 0; {
			n, err := unix.Write(fd, rest)
			if err != nil && err != unix.EINTR {
				return err
			}
			rest = rest[max(n, 0):]
		}
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return err
	}
	return unix.Sendmsg(j.fd, nil, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
}

func (j *journald) isSlow() bool { return j.flow.isSlow() }

// A journald is waited for that is alive and slow, or has gone and may be on its way
// back.
func (j *journald) isLate(left bool) bool {
	if !left || !j.flow.isSlow() && (j.down == 0 || loop.Now() >= j.down.After(restartPatience)) {
		return false
	}
	j.hurry()
	return true
}

// hurry has a journald that has gone be looked for at short intervals, since
// somebody waits.
func (j *journald) hurry() {
	if soon := loop.Now().After(firstPause); j.trouble.err != nil && j.trouble.retry > soon {
		j.trouble.retry = soon
	}
	j.trouble.pause = 0
	j.l.wake(j.trouble.retry)
}

func (j *journald) failed(err error) {
	j.flow.moved()
	// A socket that nobody listens on is one that a journald has left.
	if j.down == 0 && (j.known || err == unix.ECONNREFUSED) {
		j.down = loop.Now()
	}
	if j.trouble.begin(err) {
		j.l.options.Warn("Failed to write to the journal: " + explain(err) +
			": output is kept, at most " + strconv.FormatInt(j.l.options.SpoolMax, 10) + " bytes a stream, and written when it can be")
	}
	j.l.wake(j.trouble.retry)
}

func (j *journald) retry(now lifecycle.Instant) (tried bool) {
	if tried = j.trouble.isDue(j.l, now); tried {
		j.trouble.err = nil
	}
	return tried
}
