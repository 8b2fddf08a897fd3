// Package journal keeps the events and effects of a lifecycle machine, one line for
// each Step, in the state directory of its container. Tests assert on it,
// `gracelab trace` draws it, and a successor restores the machine from it.
//
// A journal begins with a line that has the container's Config. Records follow:
//
//	gracerun-journal 1 stop-signal=SIGTERM grace=30s policy=observe drain=2s retry=100ms..5s
//	81231000042 create-done ok | created | | phase=alive created armed=9223372036854775807
//	81236000119 stop #1 grace=10s | stopping | deliver stop SIGTERM to=init; arm in=10s | phase=alive ...
//
// that is: the instant in nanoseconds of CLOCK_MONOTONIC, the event, the state
// afterwards, the effects, and the machine after the step. A record is written
// before its effects are performed. Since each one holds the whole machine, the
// last complete one is all that recovery needs, even if the program that reads
// it has a machine of another version.
//
// Version 0.8 refuses unknown words in the policy and in the machine. So words that it
// does not know stand at the end of the effects, after "also", where it does not look,
// and the first line has the policy that 0.8 is to use:
//
//	81236000119 signal #1 SIGTERM by=/usr/bin/crio,812,4711,0,crio.service | stopping | deliver ...; also policy=delegate opener=/usr/bin/crio,812,... | phase=alive ...
//
// This version and later ones skip words that they do not know.
//
// The journal is not synced to disk: it describes processes of this boot, and lies on
// a tmpfs. What a killed process wrote is in the page cache.
package journal

import (
	"errors"
	"strconv"
	"strings"

	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

// Name is the name of the journal in the state directory. OldName is that of its
// predecessor: a journal that has grown past its limit is renamed to it.
const (
	Name    = "journal"
	OldName = "journal.old"
)

// Journal is what Read has read.
type Journal struct {
	Config  lifecycle.Config
	Records []Record
}

// Record is one Step.
type Record struct {
	At       lifecycle.Instant
	Event    string // as lifecycle.ParseEvent reads it; "" in the first record of a continued journal
	State    string // afterwards
	Effects  []string
	Snapshot string // the machine afterwards, for lifecycle.Restore, with what stands after "also"
}

// Machine makes the machine as it was after the last record.
func (j *Journal) Machine() (*lifecycle.Machine, error) {
	if len(j.Records) == 0 {
		return lifecycle.New(j.Config), nil
	}
	return lifecycle.Restore(j.Config, j.Records[len(j.Records)-1].Snapshot)
}

// Read reads a journal. A last line that is not complete is left out: its writer
// died, and had not acted on it. The error names the line.
func Read(text []byte) (*Journal, error) {
	if end := strings.LastIndexByte(string(text), '\n'); end >= 0 {
		text = text[:end+1]
	} else {
		text = nil
	}
	j := new(Journal)
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSuffix(line, "\n")
		var err error
		if number == 1 {
			j.Config, err = parseHeader(line)
		} else {
			var r Record
			r, err = parseRecord(line)
			j.Records = append(j.Records, r)
		}
		if err != nil {
			return nil, errors.New("journal: line " + strconv.Itoa(number) + ": " + err.Error())
		}
	}
	if number == 0 {
		return nil, errors.New("journal: line 1: is missing")
	}
	if m, err := j.Machine(); err == nil {
		j.Config = m.Config() // with the policy that stands after "also"
	}
	return j, nil
}

const magic = "gracerun-journal 1"

func appendHeader(b []byte, c *lifecycle.Config) []byte {
	b = append(append(b, magic+" stop-signal="...), c.StopSignal.String()...)
	b = c.Grace.Append(append(b, " grace="...))
	b = append(append(b, " policy="...), c.Policy.Known().String()...)
	b = c.Drain.Append(append(b, " drain="...))
	b = c.RetryMin.Append(append(b, " retry="...))
	b = c.RetryMax.Append(append(b, ".."...))
	return append(b, '\n')
}

func parseHeader(line string) (c lifecycle.Config, err error) {
	words, ok := strings.CutPrefix(line, magic+" ")
	if !ok {
		return c, errors.New("is not the beginning of a journal: want " + strconv.Quote(magic))
	}
	missing := map[string]bool{"stop-signal": true, "grace": true, "policy": true, "drain": true, "retry": true}
	for word := range strings.SplitSeq(words, " ") {
		key, value, _ := strings.Cut(word, "=")
		delete(missing, key)
		switch key {
		case "stop-signal":
			c.StopSignal, err = signals.Parse(value)
		case "grace":
			c.Grace, err = lifecycle.ParseDuration(value)
		case "policy":
			if c.Policy, err = lifecycle.ParsePolicy(value); err != nil && isWord(value) {
				// A later version's: to keep the grace period is the safe side.
				c.Policy, err = lifecycle.Enforce, nil
			}
		case "drain":
			c.Drain, err = lifecycle.ParseDuration(value)
		case "retry":
			c.RetryMin, c.RetryMax, err = parseRange(value)
		default: // a later version's, if it is a word at all
			if !isWord(key) {
				err = errors.New("unknown word " + strconv.Quote(word))
			}
		}
		if err != nil {
			return c, err
		}
	}
	if len(missing) > 0 || c.Grace < 0 || c.Drain < 0 || c.RetryMin < 0 || c.RetryMax < 0 {
		return c, errors.New("a setting is missing or negative")
	}
	return c, nil
}

func isWord(w string) bool { return w != "" && strings.Trim(w, "abcdefghijklmnopqrstuvwxyz-") == "" }

func parseRange(text string) (least, most lifecycle.Duration, err error) {
	from, to, _ := strings.Cut(text, "..")
	if least, err = lifecycle.ParseDuration(from); err == nil {
		most, err = lifecycle.ParseDuration(to)
	}
	return least, most, err
}

// separator stands between the fields of a record. No event or effect has it.
const separator = " | "

// appendRecord appends the record of a step; event is nil for the first one of a
// continued journal.
func appendRecord(b []byte, m *lifecycle.Machine, now lifecycle.Instant, event *lifecycle.Event, effects []lifecycle.Effect) []byte {
	b = append(strconv.AppendInt(b, int64(now), 10), ' ')
	if event != nil {
		b = event.Append(b)
	}
	b = append(append(append(b, separator...), m.State().String()...), separator...)
	for i, e := range effects {
		if i > 0 {
			b = append(b, "; "...)
		}
		b = e.Append(b, now)
	}
	begin := len(b)
	if len(effects) > 0 {
		b = append(b, "; "...)
	}
	b = append(b, also...)
	if words := len(b); len(m.AppendAdditions(b)) > words {
		b = m.AppendAdditions(b)
	} else {
		b = b[:begin]
	}
	b = m.AppendSnapshot(append(b, separator...))
	return append(b, '\n')
}

// also stands before what version 0.8 does not know of the machine.
const also = "also "

// oldBreach is what version 0.8 wrote for lifecycle.RecordBreach.
const oldBreach = "violation "

func parseRecord(line string) (Record, error) {
	instant, rest, _ := strings.Cut(line, " ")
	at, err := strconv.ParseInt(instant, 10, 64)
	if err != nil {
		return Record{}, errors.New("bad instant " + strconv.Quote(instant))
	}
	fields := strings.Split(rest, separator)
	if len(fields) != 4 {
		return Record{}, errors.New("want an instant, and event | state | effects | machine")
	}
	r := Record{At: lifecycle.Instant(at), Event: fields[0], State: fields[1], Snapshot: fields[3]}
	if fields[2] != "" {
		r.Effects = strings.Split(fields[2], "; ")
		last := len(r.Effects) - 1
		if words, ok := strings.CutPrefix(r.Effects[last], also); ok {
			r.Effects, r.Snapshot = r.Effects[:last], r.Snapshot+" "+words
		}
		for i, effect := range r.Effects {
			if words, ok := strings.CutPrefix(effect, oldBreach); ok {
				r.Effects[i] = lifecycle.RecordBreach.String() + " " + words
			}
		}
	}
	return r, nil
}
