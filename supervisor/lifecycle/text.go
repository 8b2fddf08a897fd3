package lifecycle

import (
	"errors"
	"strconv"
	"strings"

	"gracerun.io/signals"
)

// The text form of events and effects is one line of words. Scenario files
// are written in it, the journal of a real container holds it, and stories of
// the explorer print it: what was seen anywhere can be replayed anywhere.

var eventNames = [eventKinds]string{
	CreateDone:      "create-done",
	StartRequest:    "start",
	StartDone:       "start-done",
	SignalRequest:   "signal",
	StopRequest:     "stop",
	MonitorSignal:   "monitor-signal",
	Abandoned:       "abandoned",
	Deadline:        "deadline",
	Delivered:       "delivered",
	Freezer:         "freezer",
	ThawDone:        "thaw-done",
	OOM:             "oom",
	InitExited:      "init-exited",
	CgroupEmpty:     "cgroup-empty",
	StreamsDrained:  "streams-drained",
	ExitRecorded:    "exit-recorded",
	ExitCommandDone: "exit-command-done",
	Recovered:       "recovered",
}

var effectNames = [effectKinds]string{
	Deliver:        "deliver",
	Thaw:           "thaw",
	AbortCreate:    "abort-create",
	KillCgroup:     "kill-cgroup",
	Arm:            "arm",
	DrainStreams:   "drain-streams",
	RecordExit:     "record-exit",
	RunExitCommand: "run-exit-command",
	Reply:          "reply",
	RecordBreach:   "breach",
}

var stateNames = [states]string{
	Creating: "creating",
	Created:  "created",
	Running:  "running",
	Stopping: "stopping",
	Killing:  "killing",
	Draining: "draining",
	Stopped:  "stopped",
	Failed:   "failed",
}

var outcomeNames = [...]string{
	DeliveredOutcome: "delivered",
	Joined:           "joined",
	Ended:            "ended",
	NotRunning:       "not-running",
	NotFound:         "not-found",
	Granted:          "granted",
	Refused:          "refused",
	FailedOutcome:    "failed",
}

var reasonNames = [...]string{
	ByItself:   "by-itself",
	InGrace:    "in-grace",
	AtDeadline: "at-deadline",
	ByRequest:  "by-request",
	ByOpener:   "by-opener",
	ByOOM:      "by-oom",
}

var breachNames = [...]string{
	RepeatedStop:   "repeated-stop",
	EarlyKill:      "early-kill",
	StartAfterStop: "start-after-stop",
}

var targetNames = [...]string{ToInit: "init", ToAll: "all", ToOthers: "others"}

func (k EventKind) String() string  { return eventNames[k] }
func (k EffectKind) String() string { return effectNames[k] }
func (s State) String() string      { return stateNames[s] }
func (o Outcome) String() string    { return outcomeNames[o] }
func (r Reason) String() string     { return reasonNames[r] }
func (b Breach) String() string     { return breachNames[b] }
func (t Target) String() string     { return targetNames[t] }

// String returns the status as the journal has it: "code=0", "signal=SIGKILL"
// or "unknown".
func (s Status) String() string {
	switch s.Kind {
	case StatusCode:
		return "code=" + strconv.Itoa(int(s.Value))
	case StatusSignal:
		return "signal=" + signals.Signal(s.Value).String()
	}
	return "unknown"
}

// Append appends the event's line to b, without a newline.
func (ev Event) Append(b []byte) []byte {
	b = append(b, ev.Kind.String()...)
	switch ev.Kind {
	case StartRequest:
		b = appendBy(appendRequest(b, ev.Request), ev.By)
	case Abandoned:
		b = appendRequest(b, ev.Request)
	case SignalRequest:
		b = appendWord(appendRequest(b, ev.Request), ev.Signal.String())
		if ev.All {
			b = appendWord(b, "all")
		}
		if ev.Force {
			b = appendWord(b, "force")
		}
		b = appendBy(b, ev.By)
	case StopRequest:
		b = appendRequest(b, ev.Request)
		if ev.Signal != 0 {
			b = appendWord(b, ev.Signal.String())
		}
		if ev.Grace >= 0 {
			b = append(b, " grace="...)
			b = ev.Grace.Append(b)
		}
		b = appendBy(b, ev.By)
	case MonitorSignal:
		b = appendWord(b, ev.Signal.String())
	case Delivered:
		b = appendErrno(appendWord(appendRequest(b, ev.Request), ev.Signal.String()), ev.Errno)
	case Freezer:
		if ev.Frozen {
			b = appendWord(b, "frozen")
		} else {
			b = appendWord(b, "thawed")
		}
	case CreateDone, StartDone, ThawDone, ExitRecorded:
		b = appendErrno(b, ev.Errno)
	case InitExited:
		b = appendWord(b, ev.Status.String())
	}
	return b
}

// String returns the event's line.
func (ev Event) String() string { return string(ev.Append(nil)) }

// Append appends the effect's line to b, without a newline; instants are
// written relative to now.
func (e Effect) Append(b []byte, now Instant) []byte {
	b = append(b, e.Kind.String()...)
	switch e.Kind {
	case Deliver:
		b = appendWord(appendRequest(b, e.Request), e.Signal.String())
		b = append(b, " to="...)
		b = append(b, e.Target.String()...)
	case Arm:
		if e.At == Never {
			return appendWord(b, "never")
		}
		b = appendIn(b, e.At, now)
	case DrainStreams:
		b = appendIn(b, e.At, now)
	case RecordExit:
		b = appendWord(appendWord(b, e.Status.String()), e.Reason.String())
	case Reply:
		b = appendWord(appendRequest(b, e.Request), e.Outcome.String())
		switch e.Outcome {
		case Ended:
			b = appendWord(b, e.Status.String())
		case FailedOutcome:
			b = appendErrno(b, e.Errno)
		}
	case RecordBreach:
		b = appendWord(appendRequest(b, e.Request), e.Breach.String())
		b = appendBy(appendIn(b, e.At, now), e.By)
	}
	return b
}

func appendBy(b []byte, c *Caller) []byte {
	if c == nil {
		return b
	}
	return c.Append(append(b, " by="...))
}

func appendIn(b []byte, at, now Instant) []byte {
	b = append(b, " in="...)
	return Duration(at - now).Append(b)
}

func appendWord(b []byte, w string) []byte { return append(append(b, ' '), w...) }

func appendRequest(b []byte, id RequestID) []byte {
	switch id {
	case FromMonitor:
		return appendWord(b, "monitor")
	case ForStop:
		return appendWord(b, "stop")
	case ForKill:
		return appendWord(b, "kill")
	}
	return strconv.AppendUint(append(b, " #"...), uint64(id-FirstRequest+1), 10)
}

func appendErrno(b []byte, errno int32) []byte {
	if errno == 0 {
		return append(b, " ok"...)
	}
	return strconv.AppendInt(append(b, " errno="...), int64(errno), 10)
}

// Append appends the duration to b in the largest unit that loses nothing:
// "10s", "1500ms", "20ns".
func (d Duration) Append(b []byte) []byte {
	switch {
	case d%Second == 0:
		return append(strconv.AppendInt(b, int64(d/Second), 10), 's')
	case d%Millisecond == 0:
		return append(strconv.AppendInt(b, int64(d/Millisecond), 10), "ms"...)
	}
	return append(strconv.AppendInt(b, int64(d), 10), "ns"...)
}

// String returns the duration as Append writes it.
func (d Duration) String() string { return string(d.Append(nil)) }

// ParseDuration reads what Duration.Append writes: a whole number of s, ms, us or ns.
func ParseDuration(s string) (Duration, error) {
	for _, u := range [...]struct {
		suffix string
		unit   Duration
	}{{"ns", 1}, {"us", 1000}, {"ms", Millisecond}, {"s", Second}} {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > int64(Never)/int64(u.unit) || n < -int64(Never)/int64(u.unit) {
			break
		}
		return Duration(n) * u.unit, nil
	}
	return 0, errors.New("bad duration " + strconv.Quote(s) + ": want a whole number of s, ms, us or ns, such as 10s")
}

// ParseEvent reads the line of an event, as Event.Append writes it.
func ParseEvent(line string) (Event, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return Event{}, errors.New("empty line where an event is wanted")
	}
	ev := Event{Kind: EventKind(index(eventNames[:], words[0]))}
	if int(ev.Kind) >= eventKinds {
		return Event{}, errors.New("unknown event " + strconv.Quote(words[0]))
	}
	if ev.Kind == StopRequest {
		ev.Grace = -1
	}
	for _, w := range words[1:] {
		if !ev.set(w) {
			return Event{}, errors.New(words[0] + ": bad word " + strconv.Quote(w))
		}
	}
	if ev.String() != strings.Join(words, " ") {
		// A word that this kind of event does not have, or one too few.
		return Event{}, errors.New("bad event " + strconv.Quote(line) + ": read as " + strconv.Quote(ev.String()))
	}
	return ev, nil
}

// ParseReply reads the line of a Reply effect, as Effect.Append writes it, in
// which a caller finds what another process has answered.
func ParseReply(line string) (Effect, error) {
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != Reply.String() {
		return Effect{}, errors.New("not a reply: " + strconv.Quote(line))
	}
	var ev Event
	e := Effect{Kind: Reply, Outcome: Outcome(index(outcomeNames[:], words[2]))}
	ok := ev.set(words[1]) && int(e.Outcome) < len(outcomeNames)
	for _, w := range words[3:] {
		ok = ok && ev.set(w)
	}
	e.Request, e.Status, e.Errno = ev.Request, ev.Status, ev.Errno
	if !ok || string(e.Append(nil, 0)) != line {
		return Effect{}, errors.New("bad reply " + strconv.Quote(line))
	}
	return e, nil
}

// set takes one word of an event's line.
func (ev *Event) set(w string) bool {
	key, value, _ := strings.Cut(w, "=")
	switch key {
	case "ok":
	case "all":
		ev.All = true
	case "force":
		ev.Force = true
	case "frozen":
		ev.Frozen = true
	case "thawed", "unknown":
	case "monitor":
		ev.Request = FromMonitor
	case "stop":
		ev.Request = ForStop
	case "kill":
		ev.Request = ForKill
	case "errno":
		n, err := strconv.ParseInt(value, 10, 32)
		ev.Errno = int32(n)
		return err == nil && n != 0
	case "grace":
		d, err := ParseDuration(value)
		ev.Grace = d
		return err == nil && d >= 0
	case "by":
		var ok bool
		ev.By, ok = ParseCaller(value)
		return ok
	case "code":
		n, err := strconv.ParseUint(value, 10, 8)
		ev.Status = Exited(uint8(n))
		return err == nil
	case "signal":
		sig, err := signals.Parse(value)
		ev.Status = Signaled(sig)
		return err == nil
	default:
		if number, ok := strings.CutPrefix(w, "#"); ok {
			n, err := strconv.ParseUint(number, 10, 31)
			ev.Request = FirstRequest + RequestID(n) - 1
			return err == nil && n > 0
		}
		sig, err := signals.Parse(w)
		ev.Signal = sig
		return err == nil
	}
	return true
}

func index(names []string, name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return len(names)
}
