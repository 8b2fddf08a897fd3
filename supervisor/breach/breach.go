// Package breach reports a broken grace period to the node's log: to journald as a
// structured record, or to syslog if there is no journald. It does so whatever
// --syslog and --log-level are, since a breach can mean lost data.
//
// `gracerun kill` and the resident supervisor pay for every import of this
// package: it keeps away from os, fmt and net.
package breach

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
)

// The sockets of journald (https://systemd.io/JOURNAL_NATIVE_PROTOCOL) and of
// syslog (syslog(3)).
const (
	journalSocket = "/run/systemd/journal/socket"
	syslogSocket  = "/dev/log"
)

// MessageID is that of all such records (systemd.journal-fields(7)):
// `journalctl MESSAGE_ID=...` finds them.
const MessageID = "5d1f8f3c4d0b4c0f9a3e7c1b62d84e17"

// warning is the severity of RFC 5424, 6.2.1; user the facility.
const (
	warning = 4
	user    = 1
)

// Record is one broken grace period.
type Record struct {
	ID      string // of the container
	Program string // that reports it
	Policy  lifecycle.Policy
	Breach  lifecycle.Breach
	By      *lifecycle.Caller  // who broke it; nil: nobody knows
	Left    lifecycle.Duration // of the grace period
}

// Of makes the record of a RecordBreach effect.
func Of(id, program string, m *lifecycle.Machine, e lifecycle.Effect, now lifecycle.Instant) Record {
	return Record{
		ID: id, Program: program, Policy: m.Config().Policy, Breach: e.Breach, By: e.By,
		Left: max(0, lifecycle.Duration(e.At-now)),
	}
}

// String says it in a sentence.
func (r Record) String() string {
	did := ""
	switch r.Breach {
	case lifecycle.RepeatedStop:
		did = "its stop signal was sent again"
	case lifecycle.EarlyKill:
		did = "SIGKILL was sent"
	case lifecycle.StartAfterStop:
		did = "it is started after its stop signal was sent"
	}
	return "container " + r.ID + ": " + did + ", " + Seconds(r.Left) + " before its grace period is over, by " + Who(r.By) +
		"; policy " + r.Policy.String() + " lets that pass"
}

// Who names a caller for people.
func Who(c *lifecycle.Caller) string {
	if c == nil {
		return "somebody who cannot be told"
	}
	program := c.Program
	if program == "" {
		program = "a program that cannot be told"
	}
	text := program + " (process " + strconv.Itoa(c.Pid) + ", user " + strconv.FormatUint(uint64(c.UID), 10)
	if c.Unit != "" {
		text += ", " + c.Unit
	}
	return text + ")"
}

// Seconds writes a duration for people, as "12.3 s".
func Seconds(d lifecycle.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(lifecycle.Second), 'f', 1, 64) + " s"
}

// Send sends the record. Nobody listening is no error, and nobody is waited for.
func (r Record) Send() {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	const flags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if unix.Sendto(fd, r.entry(), flags, &unix.SockaddrUnix{Name: journalSocket}) == nil {
		return
	}
	_ = unix.Sendto(fd, r.line(), flags, &unix.SockaddrUnix{Name: syslogSocket})
}

// entry is the record in journald's native protocol.
func (r Record) entry() []byte {
	var b []byte
	put := func(key, value string) {
		// One of several lines would need the protocol's binary form.
		b = append(append(append(append(b, key...), '='), strings.ReplaceAll(value, "\n", " ")...), '\n')
	}
	put("MESSAGE", r.String())
	put("MESSAGE_ID", MessageID)
	put("PRIORITY", strconv.Itoa(warning))
	put("SYSLOG_FACILITY", strconv.Itoa(user))
	put("SYSLOG_IDENTIFIER", r.Program)
	put("CONTAINER_ID_FULL", r.ID)
	put("CONTAINER_ID", r.ID[:min(12, len(r.ID))])
	put("GRACE_BREACH", r.Breach.String())
	put("GRACE_POLICY", r.Policy.String())
	put("GRACE_LEFT_USEC", strconv.FormatInt(int64(r.Left)/1000, 10))
	if c := r.By; c != nil {
		put("GRACE_CALLER_PROGRAM", c.Program)
		put("GRACE_CALLER_PID", strconv.Itoa(c.Pid))
		put("GRACE_CALLER_UID", strconv.FormatUint(uint64(c.UID), 10))
		put("GRACE_CALLER_UNIT", c.Unit)
	}
	return b
}

// line is the record for syslog, in the format of the socket: priority, tag, text,
// and the fields as key=value.
func (r Record) line() []byte {
	text := "<" + strconv.Itoa(user<<3|warning) + ">" + r.Program + ": " + r.String() +
		" [container=" + r.ID + " breach=" + r.Breach.String() + " left=" + r.Left.String()
	if r.By != nil {
		text += " by=" + r.By.String()
	}
	return []byte(strings.ReplaceAll(text, "\n", " ") + "]")
}
