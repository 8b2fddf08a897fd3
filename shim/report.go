package shim

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/oci"
)

// fail reports an error the way the wrapped runtime reports its own, so that
// whoever reads its standard error or its log finds it, and gives the exit status.
func (c *call) fail(err error) int {
	c.report("error", err.Error())
	return 1
}

// warn reports what does not keep the command from going on. The standard error of
// a command that makes a container is the container's, and a pipe of a monitor is its
// log: without a log of gracerun's own the warning goes to the journal then, or to
// syslog. A terminal and a file are somebody's who reads them.
func (c *call) warn(text string) {
	if makes := c.command == "create" || c.command == "run"; makes && c.log == "" && !isTerminal(2) && !isFile(2) {
		if !sendDatagram(journalSocket, journalEntry("warning", text)) {
			sendDatagram(syslogSocket, syslogEntry("", "warning", text))
		}
		return
	}
	c.report("warning", text)
}

func (c *call) report(level, text string) {
	style := oci.Runc
	if program, err := c.program(); err == nil {
		style = oci.StyleOf(program)
	}
	now := time.Now()
	stderr := c.line(style, level, text, now, isTerminal(2))
	if c.log == "" {
		write(2, stderr)
		return
	}
	// With a log elsewhere, standard error has the bare text: runc's fatal,
	// libcrun's log_also_to_stderr.
	c.writeLog(style, level, text, c.line(style, level, text, now, false))
	if level == "error" {
		write(2, append([]byte(text), '\n'))
	}
}

// line gives the line of a log.
func (c *call) line(style oci.Style, level, text string, now time.Time, terminal bool) []byte {
	switch {
	case style == oci.Crun && c.logFormat == "json":
		line := appendJSON([]byte(`{"msg":`), text)
		line = append(append(append(line, `,"level":"`...), level...), `","time":"`...)
		return append(now.UTC().AppendFormat(line, "2006-01-02T15:04:05.000000Z"), "\"}\n"...)
	case style == oci.Crun:
		return append([]byte(text), '\n')
	case c.logFormat == "json":
		line := append(append([]byte(`{"level":"`), level...), `","msg":`...)
		line = append(appendJSON(line, text), `,"time":"`...)
		return append(now.AppendFormat(line, time.RFC3339), "\"}\n"...)
	case terminal:
		return append(append(terminalLevel(level), text...), '\n')
	}
	line := now.AppendFormat([]byte(`time="`), time.RFC3339)
	line = append(append(append(line, `" level=`...), level...), " msg="...)
	if needsQuotes(text) {
		text = strconv.Quote(text)
	}
	return append(append(line, text...), '\n')
}

func terminalLevel(level string) []byte {
	if level == "error" {
		return []byte("\x1b[31mERRO\x1b[0m[0000] ")
	}
	return []byte("\x1b[33mWARN\x1b[0m[0000] ")
}

// needsQuotes is logrus' (text_formatter.go).
func needsQuotes(text string) bool {
	return strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+") != "" || text == ""
}

// writeLog appends to the log that --log names. crun knows other places than files.
func (c *call) writeLog(style oci.Style, level, text string, line []byte) {
	path := c.log
	if style == oci.Crun {
		kind, rest, found := strings.Cut(path, ":")
		switch {
		case found && kind == "journald":
			sendDatagram(journalSocket, journalEntry(level, text))
			return
		case found && kind == "syslog":
			sendDatagram(syslogSocket, syslogEntry(rest, level, text))
			return
		case found && kind == "file":
			path = rest
		}
	}
	fd, err := open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOCTTY, 0o644)
	if err != nil {
		write(2, []byte("open log file "+path+": "+err.Error()+"\n"))
		return
	}
	write(fd, line)
	unix.Close(fd)
}

// journalEntry is in the native protocol of the journal (JOURNAL_NATIVE_PROTOCOL);
// a text of several lines would need its binary form.
func journalEntry(level, text string) []byte {
	return []byte("PRIORITY=" + priority(level) + "\nMESSAGE=" + strings.ReplaceAll(text, "\n", " ") + "\nSYSLOG_IDENTIFIER=gracerun\n")
}

// syslogEntry has facility user (1), as crun's openlog asks for (RFC 3164).
func syslogEntry(tag, level, text string) []byte {
	if tag == "" {
		tag = "gracerun"
	}
	severity := 3
	if level != "error" {
		severity = 4
	}
	return []byte("<" + strconv.Itoa(1<<3|severity) + ">" + tag + ": " + text)
}

func priority(level string) string {
	if level == "error" {
		return "3"
	}
	return "4"
}

const (
	journalSocket = "/run/systemd/journal/socket"
	syslogSocket  = "/dev/log"
)

// sendDatagram reports whether somebody has taken it.
func sendDatagram(path string, packet []byte) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, packet, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: path}) == nil
}

func isFile(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// appendJSON appends a JSON string.
func appendJSON(to []byte, text string) []byte {
	const hex = "0123456789abcdef"
	to = append(to, '"')
	for _, r := range text { // bytes that are not UTF-8 come as U+FFFD
		switch {
		case r == '"' || r == '\\':
			to = append(to, '\\', byte(r))
		case r < ' ':
			to = append(to, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			to = append(to, string(r)...)
		}
	}
	return append(to, '"')
}
