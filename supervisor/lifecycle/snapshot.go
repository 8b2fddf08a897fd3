package lifecycle

import (
	"errors"
	"strconv"
	"strings"

	"gracerun.io/signals"
)

// A snapshot is the whole machine in one line of words, for whoever has to go
// on where another supervisor ended: replaying a journal from the last
// snapshot gives the machine that wrote it. Instants are of CLOCK_MONOTONIC,
// so a snapshot is good until the next boot.

// AppendSnapshot appends the machine to b, without a newline: all of it that version
// 0.8 knows, which refuses other words. AppendAdditions has the rest; both together,
// in this order, are what Restore reads.
func (m *Machine) AppendSnapshot(b []byte) []byte {
	w := snapshotWriter{b}
	w.word("phase", phaseNames[m.phase])
	for _, f := range m.flags() {
		w.flag(f.name, *f.value)
	}
	w.number("starting", int64(m.starting))
	w.word("cause", knownCause(m.cause).String())
	w.word("status", m.exit.status.String())
	w.number("signal", int64(m.stop.signal))
	w.word("target", m.stop.target.String())
	w.number("deadline", int64(m.stop.deadline))
	w.number("shortest", int64(m.stop.shortest))
	w.number("window", int64(m.stop.window))
	w.number("give-up", int64(m.exit.giveUp))
	w.number("armed", int64(m.armed))
	for _, a := range m.attempts() {
		w.attempt(a.name, a.attempt)
	}
	for _, r := range m.requests {
		w.request(r)
	}
	return w.b[:len(w.b)-1]
}

// AppendAdditions appends what version 0.8 does not know of the machine, nothing if
// that is nothing.
func (m *Machine) AppendAdditions(b []byte) []byte {
	w := snapshotWriter{b}
	if m.config.Policy.Known() != m.config.Policy {
		w.word("policy", m.config.Policy.String())
	}
	if knownCause(m.cause) != m.cause {
		w.word("cause", m.cause.String())
	}
	if m.stop.grace != m.config.Grace {
		w.word("grace", strconv.FormatInt(int64(m.stop.grace), 10))
	}
	if m.stop.opener != nil {
		w.word("opener", m.stop.opener.String())
	}
	for i, r := range m.requests {
		if r.due {
			w.number("due", int64(i+1)) // the place: those of callers who have gone have one id
		}
	}
	if len(w.b) == len(b) {
		return b
	}
	return w.b[:len(w.b)-1]
}

// Known returns the policy that version 0.8 is to take for this one: to keep the
// grace period is the safe side.
func (p Policy) Known() Policy {
	if p == Delegate {
		return Enforce
	}
	return p
}

func knownCause(r Reason) Reason {
	if r == ByOpener {
		return ByRequest
	}
	return r
}

// Restore makes the machine that wrote the snapshot, for the same Config. A word of
// a later version, which this one does not know, is passed over: what it does know
// goes on.
func Restore(c Config, snapshot string) (*Machine, error) {
	m := &Machine{config: c} // what is zero is not written
	m.stop.grace = c.Grace
	for _, word := range strings.Fields(snapshot) {
		if !m.restore(word) {
			return nil, errors.New("snapshot: bad word " + strconv.Quote(word))
		}
	}
	if !strings.HasPrefix(snapshot, "phase=") {
		return nil, errors.New("snapshot: does not begin with a phase")
	}
	return m, nil
}

var phaseNames = [...]string{alive: "alive", draining: "draining", ended: "ended", failed: "failed"}

var wantNames = [...]string{ownSignal: "own", stopSignal: "stop", joinedStop: "joined", heldKill: "held", theEnd: "end"}

type flag struct {
	name  string
	value *bool
}

type namedAttempt struct {
	name    string
	attempt *attempt
}

func (m *Machine) attempts() [4]namedAttempt {
	return [...]namedAttempt{{"send", &m.stop.send}, {"thaw", &m.thaw}, {"kill", &m.kill}, {"record", &m.exit.record}}
}

func (m *Machine) flags() [13]flag {
	return [...]flag{
		{"created", &m.created}, {"started", &m.started}, {"frozen", &m.frozen}, {"oom", &m.oom},
		{"killing", &m.killing}, {"killed", &m.killed},
		{"open", &m.stop.open}, {"delivered", &m.stop.delivered}, {"heard", &m.stop.heard}, {"demand", &m.stop.demand},
		{"drained", &m.exit.drained}, {"empty", &m.exit.empty}, {"swept", &m.exit.swept},
	}
}

type snapshotWriter struct{ b []byte }

func (w *snapshotWriter) word(key, value string) {
	w.b = append(append(append(append(w.b, key...), '='), value...), ' ')
}

func (w *snapshotWriter) number(key string, n int64) {
	if n != 0 {
		w.b = append(strconv.AppendInt(append(append(w.b, key...), '='), n, 10), ' ')
	}
}

func (w *snapshotWriter) flag(name string, set bool) {
	if set {
		w.b = append(append(w.b, name...), ' ')
	}
}

// attempt writes busy, due and pause, as in "kill=busy/0/100".
func (w *snapshotWriter) attempt(name string, a *attempt) {
	if *a == (attempt{}) {
		return
	}
	state := "idle"
	if a.busy {
		state = "busy"
	}
	b := append(append(append(append(w.b, name...), '='), state...), '/')
	b = append(strconv.AppendInt(b, int64(a.due), 10), '/')
	w.b = append(strconv.AppendInt(b, int64(a.pause), 10), ' ')
}

// request writes id, want, signal, target and whether its signal was sent, as
// in "request=4/own/15/init/sent".
func (w *snapshotWriter) request(r request) {
	sent := "waits"
	if r.sent {
		sent = "sent"
	}
	b := strconv.AppendUint(append(w.b, "request="...), uint64(r.id), 10)
	b = append(append(append(b, '/'), wantNames[r.want]...), '/')
	b = append(strconv.AppendInt(b, int64(r.signal), 10), '/')
	w.b = append(append(append(append(b, r.target.String()...), '/'), sent...), ' ')
}

// restore takes one word of a snapshot.
func (m *Machine) restore(word string) bool {
	key, value, hasValue := strings.Cut(word, "=")
	if !hasValue {
		for _, f := range m.flags() {
			if f.name == key {
				*f.value = true
				return true
			}
		}
		return isWord(key)
	}
	for _, a := range m.attempts() {
		if a.name == key {
			return a.attempt.restore(value)
		}
	}
	ok := true
	switch key {
	case "phase":
		i := index(phaseNames[:], value)
		m.phase, ok = phase(i), i < len(phaseNames)
	case "cause":
		i := index(reasonNames[:], value)
		m.cause = Reason(i)
		if i == len(reasonNames) {
			m.cause, ok = ByRequest, isWord(value) // somebody's, in the words of a later version
		}
	case "target":
		i := index(targetNames[:], value)
		m.stop.target, ok = Target(i), i < len(targetNames)
	case "status":
		m.exit.status, ok = parseStatus(value)
	case "policy":
		p, err := ParsePolicy(value)
		if err != nil {
			return isWord(value) // a later version's: the one of the configuration holds
		}
		m.config.Policy = p
	case "opener":
		m.stop.opener, ok = ParseCaller(value)
	case "request":
		var r request
		r, ok = restoreRequest(value)
		m.requests = append(m.requests, r)
	default:
		return m.restoreNumber(key, value)
	}
	return ok
}

func (m *Machine) restoreNumber(key, value string) bool {
	n, err := strconv.ParseInt(value, 10, 64)
	switch key {
	case "starting":
		m.starting = RequestID(n)
	case "signal":
		m.stop.signal = signals.Signal(n)
	case "deadline":
		m.stop.deadline = Instant(n)
	case "shortest":
		m.stop.shortest = Duration(n)
	case "due":
		if n < 1 || n > int64(len(m.requests)) {
			return false
		}
		m.requests[n-1].due = true
	case "grace":
		m.stop.grace = Duration(n)
	case "window":
		m.stop.window = Instant(n)
	case "give-up":
		m.exit.giveUp = Instant(n)
	case "armed":
		m.armed = Instant(n)
	default:
		return isWord(key)
	}
	return err == nil
}

// isWord reports whether a word can be one of a later version, rather than damage.
func isWord(w string) bool { return w != "" && strings.Trim(w, "abcdefghijklmnopqrstuvwxyz-") == "" }

func (a *attempt) restore(text string) bool {
	parts := strings.Split(text, "/")
	if len(parts) != 3 || parts[0] != "busy" && parts[0] != "idle" {
		return false
	}
	due, err1 := strconv.ParseInt(parts[1], 10, 64)
	pause, err2 := strconv.ParseInt(parts[2], 10, 64)
	*a = attempt{parts[0] == "busy", Instant(due), Duration(pause)}
	return err1 == nil && err2 == nil
}

func restoreRequest(text string) (r request, ok bool) {
	parts := strings.Split(text, "/")
	if len(parts) < 5 || parts[4] != "sent" && parts[4] != "waits" {
		return r, false
	}
	for _, more := range parts[5:] {
		if !isWord(more) {
			return r, false
		}
	}
	id, err1 := strconv.ParseUint(parts[0], 10, 32)
	signal, err2 := strconv.Atoi(parts[2])
	w, t := index(wantNames[:], parts[1]), index(targetNames[:], parts[3])
	if err1 != nil || err2 != nil || w == len(wantNames) || t == len(targetNames) {
		return r, false
	}
	return request{RequestID(id), want(w), signals.Signal(signal), Target(t), parts[4] == "sent", false}, true
}

func parseStatus(text string) (Status, bool) {
	if text == "unknown" {
		return Status{}, true
	}
	var ev Event
	ok := ev.set(text)
	return ev.Status, ok && ev.Status.Kind != StatusUnknown
}
