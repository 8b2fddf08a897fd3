package history

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/wholefile"
	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/hostclock"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

// Journal reads all that is left of the container's journal, as ReadDir does.
func (c *Container) Journal() (*journal.Journal, error) { return ReadDir(c.Path) }

// ReadDir reads the journal in a state directory, or in one that was kept, as
// ReadJournal does. The error names the directory or the file.
func ReadDir(path string) (*journal.Journal, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &statedir.Error{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	j, err := ReadJournal(fd)
	if err != nil {
		return nil, &statedir.Error{Op: "read the journal in", Path: path, Err: err}
	}
	return j, nil
}

// ErrNoJournal: there is no journal in the directory. It is a unix.ENOENT too.
var ErrNoJournal error = noJournal{}

type noJournal struct{}

func (noJournal) Error() string {
	return "no journal: only a container of gracemon or gracerun has one"
}

func (noJournal) Unwrap() error { return unix.ENOENT }

// ReadJournal reads all that is left of the journal in a directory with that
// descriptor: from its first record on where it was continued in a new file, up to
// the steps that callers have made beside a supervisor that does not answer. The
// error names the file; it is ErrNoJournal where there is none.
func ReadJournal(dir int) (*journal.Journal, error) {
	all := new(journal.Journal)
	for _, name := range journal.Names {
		text, err := wholefile.Read(dir, name, wholefile.NoFollow, maxFileMiB)
		if err == unix.ENOENT {
			continue
		}
		var j *journal.Journal
		if err == nil {
			j, err = journal.Read(text)
		}
		if err != nil {
			return nil, errors.New(name + ": " + err.Error())
		}
		if name == journal.ForkName && len(j.Records) > 0 && j.Records[0].Event == "" {
			j.Records = j.Records[1:] // the last one of the journal
		}
		all.Config, all.Records = j.Config, append(all.Records, j.Records...)
	}
	if len(all.Records) == 0 {
		return nil, ErrNoJournal
	}
	return all, nil
}

// Wall gives the wall-clock time of an instant of the journal. Of a container that
// is there it goes by the clocks of now, of one that is gone by when its journal was
// last written. The journal has CLOCK_MONOTONIC only: where the machine was
// suspended in between, the time is late by that.
func (c *Container) Wall(j *journal.Journal, at lifecycle.Instant) time.Time {
	last, then := j.Records[len(j.Records)-1].At, c.Last
	if !c.Gone {
		last, then = hostclock.Now(), time.Now()
	}
	return then.Add(time.Duration(at - last))
}

// Stop is one stop, or one window of a bare stop signal, of a container.
type Stop struct {
	Asked    lifecycle.Instant // the first request
	Request  string            // the line of the journal with it
	Heard    lifecycle.Instant // 0: the stop signal was not delivered
	Deadline lifecycle.Instant // the last effective one
	Ended    lifecycle.Instant // init's end; 0: it lives, or the window lapsed before
	Lapsed   bool              // the window of a bare signal was over, and nobody was killed
	Status   string            // "code=0", "signal=SIGKILL", "unknown"
	Reason   string            // as the machine records it: "in-grace", "at-deadline", ...
	Breaches []Breach
}

// Breach is something that the grace period should have been spared.
type Breach struct {
	At   lifecycle.Instant
	What string // "early-kill", "repeated-stop", "start-after-stop"
	Line string // the whole line of the journal
	Left lifecycle.Duration
}

// By gives who made a request, from its line in the journal; nil if that does not
// say.
func By(line string) *lifecycle.Caller {
	for word := range strings.FieldsSeq(line) {
		if text, found := strings.CutPrefix(word, "by="); found {
			if c, ok := lifecycle.ParseCaller(text); ok {
				return c
			}
		}
	}
	return nil
}

// Caller is the name of the program that made the request, "unknown" if the journal
// does not say.
func (b *Breach) Caller() string { return programOf(b.Line) }

// Caller is the name of the program that asked for the stop: "unknown" if the
// journal does not say, "supervisor" where the supervisor itself got the signal.
func (s *Stop) Caller() string {
	if strings.HasPrefix(s.Request, lifecycle.MonitorSignal.String()+" ") {
		return "supervisor"
	}
	return programOf(s.Request)
}

func programOf(line string) string {
	c := By(line)
	if c == nil || c.Program == "" {
		return "unknown"
	}
	return c.Program[strings.LastIndexByte(c.Program, '/')+1:]
}

// Wish is the request in few words: the event of the journal without its number and
// its caller.
func (s *Stop) Wish() string {
	var words []string
	for word := range strings.FieldsSeq(s.Request) {
		if !strings.HasPrefix(word, "#") && !strings.HasPrefix(word, "by=") {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

// Grace is the length of the grace period; 0 if the signal was not heard.
func (s *Stop) Grace() lifecycle.Duration {
	if s.Heard == 0 || s.Deadline < s.Heard {
		return 0
	}
	return lifecycle.Duration(s.Deadline - s.Heard)
}

// Used is the share of the grace period that passed before init's end: 1 is all
// of it. ok is false of a stop that has no grace period or no end.
func (s *Stop) Used() (share float64, ok bool) {
	if s.Grace() == 0 || s.Ended == 0 {
		return 0, false
	}
	return float64(s.Ended-s.Heard) / float64(s.Grace()), true
}

// Margin is the time between init's end and the deadline; negative after it.
func (s *Stop) Margin() (left lifecycle.Duration, ok bool) {
	if s.Ended == 0 || s.Deadline == 0 {
		return 0, false
	}
	return lifecycle.Duration(s.Deadline - s.Ended), true
}

// Stops gives the stops that a journal tells of, in order. What an end without a
// stop was is in the journal's last records.
func Stops(j *journal.Journal) (stops []Stop) {
	var open *Stop
	for i := range j.Records {
		r := &j.Records[i]
		m := snapshot(r.Snapshot)
		kind, _, _ := strings.Cut(r.Event, " ")
		if open == nil && m.open {
			stops = append(stops, Stop{Asked: r.At, Request: r.Event})
			open = &stops[len(stops)-1]
		}
		if open == nil {
			continue
		}
		if m.open {
			open.Deadline = m.deadline
			if m.heard && open.Heard == 0 {
				open.Heard = r.At
			}
		}
		for _, effect := range r.Effects {
			words := strings.Fields(effect)
			switch words[0] {
			case lifecycle.RecordBreach.String():
				b := Breach{At: r.At, Line: effect}
				for _, w := range words[1:] {
					if !strings.HasPrefix(w, "#") && !strings.Contains(w, "=") && w != "monitor" && b.What == "" {
						b.What = w
					}
				}
				if open.Deadline != lifecycle.Never && open.Deadline > r.At {
					b.Left = lifecycle.Duration(open.Deadline - r.At)
				}
				open.Breaches = append(open.Breaches, b)
			case lifecycle.RecordExit.String():
				if len(words) > 2 {
					open.Status, open.Reason = words[1], words[2]
				}
			}
		}
		switch {
		case kind == lifecycle.InitExited.String():
			open.Ended = r.At
		case open.Ended == 0 && !m.open && m.alive:
			open.Lapsed = true
			open = nil
		}
	}
	return stops
}

// machine is what Stops needs of a snapshot. It reads words by itself, so that a
// journal of another version can be told, too.
type machine struct {
	alive, open, heard bool
	deadline           lifecycle.Instant
}

func snapshot(line string) (m machine) {
	for word := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "phase":
			m.alive = value == "alive"
		case "open":
			m.open = true
		case "heard":
			m.heard = true
		case "deadline", "window": // of a stop, of a bare signal; an absent one is 0
			n, _ := strconv.ParseInt(value, 10, 64)
			if at := lifecycle.Instant(n); m.deadline == 0 || key == "deadline" {
				m.deadline = at
			}
		}
	}
	return m
}
