package shim

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

// trace is `trace ID`: the container's journal as a text, each step with the time
// since the first one, the state it led to and what was done.
func (c *call) trace() int {
	args, ok := c.scan(nil)
	if !ok || len(args) != 1 {
		return c.misused()
	}
	dir, err := c.open(args[0])
	if err != nil {
		return c.fail(errors.New("trace of container " + args[0] + ": " + err.Error()))
	}
	records, err := readJournal(dir)
	if err != nil {
		return c.fail(errors.New("trace of container " + args[0] + ": " + err.Error()))
	}
	var out []byte
	for i, r := range records {
		out = appendSeconds(out, r.At-records[0].At)
		out = append(out, "  "...)
		if i == 0 || r.State != records[i-1].State {
			out = append(append(append(out, '['), r.State...), "] "...)
		}
		out = append(out, r.Event...)
		for _, effect := range r.Effects {
			out = append(append(out, "\n"+strings.Repeat(" ", 14)+"-> "...), effect...)
		}
		out = append(out, '\n')
	}
	write(1, out)
	return 0
}

// appendSeconds writes a time in seconds, as wide as a thousand of them.
func appendSeconds(b []byte, d lifecycle.Instant) []byte {
	text := strconv.FormatFloat(float64(d)/1e9, 'f', 6, 64)
	for range 12 - len(text) {
		b = append(b, ' ')
	}
	return append(b, text...)
}

// readJournal reads all that is left of a container's journal.
func readJournal(dir *statedir.Dir) ([]journal.Record, error) {
	var records []journal.Record
	for _, name := range [...]string{journal.OldName, journal.Name, journal.ForkName} {
		text, err := dir.ReadFile(name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		j, err := journal.Read(text)
		if err != nil {
			return nil, err
		}
		if name == journal.ForkName && len(j.Records) > 0 && j.Records[0].Event == "" {
			j.Records = j.Records[1:] // the last one of the journal
		}
		records = append(records, j.Records...)
	}
	if len(records) == 0 {
		return nil, errors.New("no journal: only a container of gracemon or gracerun has one")
	}
	return records, nil
}

// events is `events --signals ID`; without --signals it is the wrapped runtime's.
//
// It prints what was asked of the container, what reached it and which breaches
// were let pass, from the beginning of its journal on, and follows it until the
// container's end is recorded: JSON lines in the shape of runc's events.
//
//	{"type":"signal","id":"c1","time":"2026-11-24T09:20:16.123456789Z","data":{"request":"#2","signal":"SIGTERM"}}
func (c *call) events() int {
	var asked bool
	args, ok := c.scan([]flag{{name: "signals", on: &asked}})
	if !ok || !asked {
		c.findMaker()
		return c.become(c.argv)
	}
	if len(args) != 1 {
		return c.misused()
	}
	dir, err := c.open(args[0])
	if err != nil {
		return c.fail(errors.New("events of container " + args[0] + ": " + err.Error()))
	}
	watch, err := watchDir(dir)
	if err != nil {
		return c.fail(errors.New("events of container " + args[0] + ": " + err.Error()))
	}
	defer unix.Close(watch)
	ended := -1 // a descriptor that becomes readable when nobody else records the end
	if container, err := c.container(dir, args[0]); err == nil {
		if pidfd, err := process.OpenVerified(container.Init); err == nil {
			defer pidfd.Close()
			ended = int(pidfd)
		}
	}
	boot := time.Now().Add(-time.Duration(now()))
	var f follower
	for {
		records, err := readJournal(dir)
		if err != nil {
			if _, e := c.open(args[0]); e == runtime.ErrNotExist {
				return 0 // deleted
			}
			return c.fail(errors.New("events of container " + args[0] + ": " + err.Error()))
		}
		var out []byte
		over := false
		for _, r := range f.fresh(records) {
			out = appendEvents(out, args[0], boot.Add(time.Duration(r.At)), &r)
			over = r.State == lifecycle.Stopped.String() || r.State == lifecycle.Failed.String()
		}
		write(1, out)
		if over {
			return 0
		}
		exited, err := await(watch, ended)
		if err != nil {
			return c.fail(err)
		}
		if exited {
			ended = -1
			c.noteExit(dir, args[0])
		}
	}
}

// follower reads a journal again and again.
type follower struct {
	last lifecycle.Instant // of the last record that was read
	same int               // how many of that instant there were
}

// fresh gives the records that were not there before. Several can be of one instant:
// what has happened at once is told to the machine one after the other.
func (f *follower) fresh(records []journal.Record) []journal.Record {
	begin, known := 0, 0
	for begin < len(records) && (records[begin].At < f.last || records[begin].At == f.last && known < f.same) {
		if records[begin].At == f.last {
			known++
		}
		begin++
	}
	for _, r := range records[begin:] {
		if r.At != f.last {
			f.last, f.same = r.At, 0
		}
		f.same++
	}
	return records[begin:]
}

// noteExit has the machine of a container without a supervisor learn of its end.
func (c *call) noteExit(dir *statedir.Dir, id string) {
	if conn, err := connect(dir); err == nil {
		conn.Close()
		return
	}
	if a, err := c.attend(dir, id, nil); err == nil {
		a.leave()
	}
}

// await waits until something has changed in the directory that is watched, or
// the process has exited that has that pidfd.
func await(watch, pidfd int) (exited bool, err error) {
	fds := []unix.PollFd{{Fd: int32(watch), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
		return false, err
	}
	drain(watch)
	return fds[1].Revents != 0, nil
}

// drain takes what an inotify descriptor has to say.
func drain(watch int) {
	var events [4096]byte
	for {
		if _, err := unix.Read(watch, events[:]); err != nil {
			return
		}
	}
}

// appendEvents writes the lines of one step.
func appendEvents(b []byte, id string, at time.Time, r *journal.Record) []byte {
	words := strings.Fields(r.Event)
	if len(words) == 0 {
		return b
	}
	switch words[0] {
	case lifecycle.SignalRequest.String(), lifecycle.StopRequest.String(), lifecycle.MonitorSignal.String(),
		lifecycle.Delivered.String(), lifecycle.InitExited.String(), lifecycle.Deadline.String(), lifecycle.OOM.String():
		b = appendEvent(b, id, at, words[0], words[1:])
	}
	for _, effect := range r.Effects {
		if words := strings.Fields(effect); words[0] == lifecycle.Violation.String() {
			b = appendEvent(b, id, at, words[0], words[1:])
		}
	}
	return b
}

// appendEvent writes one line. The words of the journal become members: which is
// which tells their form.
func appendEvent(b []byte, id string, at time.Time, kind string, words []string) []byte {
	b = appendJSON(append(b, `{"type":`...), kind)
	b = appendJSON(append(b, `,"id":`...), id)
	b = append(at.UTC().AppendFormat(append(b, `,"time":"`...), time.RFC3339Nano), `","data":{`...)
	for i, w := range words {
		if i > 0 {
			b = append(b, ',')
		}
		key, value, isPair := strings.Cut(w, "=")
		switch {
		case isPair:
			b = appendPair(b, key, value)
		case strings.HasPrefix(w, "#"), w == "monitor", w == "stop", w == "kill":
			b = appendPair(b, "request", w)
		case strings.HasPrefix(w, "SIG"):
			b = appendPair(b, "signal", w)
		case w == "ok":
			b = append(b, `"errno":0`...)
		case kind == lifecycle.Violation.String():
			b = appendPair(b, "breach", w)
		default: // all, force, unknown
			b = append(appendJSON(b, w), ":true"...)
		}
	}
	return append(b, "}}\n"...)
}

// appendPair writes a member; numbers are written as such.
func appendPair(b []byte, key, value string) []byte {
	b = append(appendJSON(b, key), ':')
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		return strconv.AppendInt(b, n, 10)
	}
	return appendJSON(b, value)
}
