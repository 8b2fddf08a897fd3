package shim

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

// meant gives the container that a text of the command line means: an id under the
// runtime's root, or any container of gracerun's, there or gone, by id, name or
// the beginning of its id.
func (c *call) meant(text string) (*history.Container, error) {
	if dir, err := c.open(text); err == nil {
		defer dir.Close()
		if container, ok := history.Read(dir.Path()); ok {
			return &container, nil
		}
	}
	base, err := statedir.Base()
	if err != nil {
		return nil, err
	}
	all, err := history.List(base)
	if err != nil {
		return nil, err
	}
	return history.Find(all, text)
}

// trace is `trace CONTAINER`: the container's journal as a text, each step with
// its time, the time since the first one, the state it led to and what was done.
func (c *call) trace() int {
	args, ok := c.scan(nil)
	if !ok || len(args) != 1 {
		return c.misused()
	}
	container, err := c.meant(args[0])
	var j *journal.Journal
	if err == nil {
		j, err = container.Journal()
	}
	if err != nil {
		return c.fail(errors.New("trace of container " + args[0] + ": " + err.Error()))
	}
	out := append([]byte("container "), strings.Join(append([]string{container.ID}, container.Called()...), " ")...)
	if container.Gone {
		out = append(out, ", deleted"...)
	}
	out = append(out, '\n')
	for i, r := range j.Records {
		out = container.Wall(j, r.At).UTC().AppendFormat(out, "2006-01-02T15:04:05.000Z")
		out = appendSeconds(out, r.At-j.Records[0].At)
		out = append(out, "  "...)
		if i == 0 || r.State != j.Records[i-1].State {
			out = append(append(append(out, '['), r.State...), "] "...)
		}
		out = append(out, r.Event...)
		for _, effect := range r.Effects {
			out = append(append(out, "\n"+strings.Repeat(" ", 38)+"-> "...), effect...)
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
	container, err := c.meant(args[0])
	if err == nil && container.Gone {
		err = c.pastEvents(container)
	} else if err == nil {
		err = c.follow(container)
	}
	if err != nil {
		return c.fail(errors.New("events of container " + args[0] + ": " + err.Error()))
	}
	return 0
}

// pastEvents prints the events of a container that is gone.
func (c *call) pastEvents(container *history.Container) error {
	j, err := container.Journal()
	if err != nil {
		return err
	}
	var out []byte
	for i := range j.Records {
		out = appendEvents(out, container.ID, container.Wall(j, j.Records[i].At), &j.Records[i])
	}
	write(1, appendEnd(out, container, j))
	return nil
}

// follow prints the events of a container until its end.
func (c *call) follow(container *history.Container) error {
	dir, err := statedir.OpenPath(container.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	watch, err := watchDir(dir)
	if err != nil {
		return err
	}
	defer unix.Close(watch)
	ended := -1 // a descriptor that becomes readable when nobody else records the end
	if known, err := c.container(dir, container.ID); err == nil {
		if pidfd, err := process.OpenVerified(known.Init); err == nil {
			defer pidfd.Close()
			ended = int(pidfd)
		}
	}
	var f follower
	for {
		j, err := history.ReadJournal(dir.FD())
		if err != nil {
			if !isRemoved(dir) {
				return err
			}
			gone, err := c.meant(container.ID)
			if err != nil || !gone.Gone {
				return nil // it was not kept
			}
			j, err := gone.Journal()
			if err != nil {
				return err
			}
			var out []byte
			for _, r := range f.fresh(j.Records) {
				out = appendEvents(out, gone.ID, gone.Wall(j, r.At), &r)
			}
			write(1, appendEnd(out, gone, j))
			return nil
		}
		var out []byte
		over := false
		for _, r := range f.fresh(j.Records) {
			out = appendEvents(out, container.ID, container.Wall(j, r.At), &r)
			over = r.State == lifecycle.Stopped.String() || r.State == lifecycle.Failed.String()
		}
		if over {
			out = appendEnd(out, container, j)
		}
		write(1, out)
		if over {
			return nil
		}
		exited, err := await(watch, ended)
		if err != nil {
			return err
		}
		if exited {
			ended = -1
			c.noteExit(dir, container.ID)
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
		if words := strings.Fields(effect); words[0] == lifecycle.RecordBreach.String() {
			b = appendEvent(b, id, at, words[0], words[1:])
		}
	}
	return b
}

// appendEnd writes the last line: how the container ended, why, and how much of
// its grace period was left.
func appendEnd(b []byte, container *history.Container, j *journal.Journal) []byte {
	for i := len(j.Records) - 1; i >= 0; i-- {
		r := &j.Records[i]
		for _, effect := range r.Effects {
			words := strings.Fields(effect)
			if words[0] != lifecycle.RecordExit.String() || len(words) < 3 {
				continue
			}
			words = []string{"status=" + words[1], "reason=" + words[2]}
			if stops := history.Stops(j); len(stops) > 0 {
				if left, ok := stops[len(stops)-1].Margin(); ok {
					words = append(words, "margin="+left.String())
				}
			}
			return appendEvent(b, container.ID, container.Wall(j, r.At), "ended", words)
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
		case kind == lifecycle.RecordBreach.String():
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
