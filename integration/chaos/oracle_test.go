package chaos

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The oracle knows what must be true of a container, whatever was done to it. It
// judges from outside: by what the container has counted itself, what the kernel
// says of its end, and what callers were told, never by what a supervisor says of
// itself.

// slack is what a loaded machine may add to any time, beyond what nothing can be
// judged any more; bounds is how long each command may take, without its grace
// (docs/gracerun.md).
const slack = 20 * time.Second

var bounds = map[deed]time.Duration{
	askState: 10 * time.Second, user: 10 * time.Second, userHeld: 10 * time.Second, term: 10 * time.Second, execute: 10 * time.Second, pause: 10 * time.Second,
	"resume": 10 * time.Second, start: 20 * time.Second, startAgain: 20 * time.Second, startHeld: 20 * time.Second, createAgain: 10 * time.Second,
	stop: 10 * time.Second, stopCut: 10 * time.Second, stopTerm: 10 * time.Second, stopHeld: 10 * time.Second, kill: 10 * time.Second, force: 20 * time.Second, "delete": 20 * time.Second,
	upgrade: 30 * time.Second,
}

// tooSoon is how much too early a KILL may seem to come: the test sees an end later
// than it was, and the begin of a call before that.
const tooSoon = 2 * time.Millisecond

// judge gives what is wrong.
func (f *facts) judge() (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for _, a := range f.acts {
		if most, ok := bounds[a.Do]; ok && a.end-a.begin > most+slack+f.wait(a) {
			say("%s took %s", a.Do, a.end-a.begin)
		}
	}
	if f.ended == 0 {
		say("it does not end")
		return wrong
	}
	f.judgeStart(say)
	f.judgeSignals(say)
	f.judgeEnd(say)
	f.judgeAnswers(say)
	f.judgeStates(say)
	f.judgeLog(say)
	if len(f.left) > 0 {
		say("left: %s", strings.Join(f.left, ", "))
	}
	return wrong
}

// wait is how long a command may wait for the end of a grace period.
func (f *facts) wait(a *act) time.Duration {
	switch a.Do {
	case stop, stopCut, stopTerm:
		return ms(a.Time)
	case stopHeld:
		return ms(a.Time) + held
	case userHeld, startHeld:
		return ms(a.Time)
	case kill: // held under enforce
		return ms(f.Grace)
	}
	return 0
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// wantedBefore reports whether somebody wanted its end before an instant.
func (f *facts) wantedBefore(at time.Duration) bool {
	for _, a := range f.acts {
		switch a.Do {
		case stop, stopCut, stopTerm, stopHeld, term, termMonitor, kill, force, logout:
			if a.begin < at {
				return true
			}
		}
	}
	return false
}

// pausedBefore reports whether somebody paused it before an instant: a runtime starts
// nothing that is paused.
func (f *facts) pausedBefore(at time.Duration) bool {
	for _, a := range f.acts {
		if a.Do == pause && a.begin < at {
			return true
		}
	}
	return false
}

func (d deed) isStart() bool { return d == start || d == startAgain || d == startHeld }

// starts is how many calls were told that they have started it.
func (f *facts) starts() (n int) {
	for _, a := range f.acts {
		if a.Do.isStart() && a.err == nil {
			n++
		}
	}
	return n
}

// judgeStart: it is started once, unless somebody wanted its end before; and never
// after it was stopped.
func (f *facts) judgeStart(say func(string, ...any)) {
	started, failed := f.starts(), ""
	for _, a := range f.acts {
		if !a.Do.isStart() {
			continue
		}
		if a.Do == start && a.err != nil && !f.wantedBefore(a.end) && !f.pausedBefore(a.end) {
			failed = fmt.Sprintf("start failed: %v: %s", a.err, a.said)
		}
		for _, b := range f.acts {
			if b.Do == stop && b.err == nil && b.end < a.begin && (a.err == nil || f.ran > a.begin) {
				say("it was started at %.3f, after it was stopped", a.begin.Seconds())
			}
		}
	}
	if started > 1 {
		say("it was started %d times", started)
	}
	if started == 0 && failed != "" {
		say("%s", failed)
	}
	if started > 0 && f.ran == 0 && !f.wantedBefore(f.ended) {
		say("it was started, and its program never ran")
	}
}

// demands are when somebody wanted the container to end, and with which grace.
type demand struct {
	at, grace time.Duration
	stays     bool // it was surely heard of: its caller, or its process, was there to the end
}

func (f *facts) demands() (all []demand) {
	for _, a := range f.acts {
		switch a.Do {
		case stop, stopHeld:
			all = append(all, demand{a.begin, ms(a.Time), a.err == nil || a.out != ""})
		case stopCut, stopTerm:
			all = append(all, demand{a.begin, ms(a.Time), false})
		case termMonitor, logout:
			all = append(all, demand{a.begin, ms(f.Grace), false})
		}
	}
	return all
}

// judgeSignals: the stop signal once for each stop, no SIGKILL before the grace is
// over, and every other signal at most once.
func (f *facts) judgeSignals(say func(string, ...any)) {
	var bare, users, acked, forced int
	for _, a := range f.acts {
		switch a.Do {
		case term:
			bare++
		case user, userCut, userHeld:
			users++
			// Answered before anybody wanted its end, when it was not frozen.
			if a.Do == user && a.err == nil && a.begin > f.ran && f.ran != 0 && !f.disturbed(a) {
				acked++
			}
		case kill, force:
			forced++
		}
	}
	stops := 0
	if len(f.demands()) > 0 {
		stops = 1
	}
	// A supervisor that dies within the call that sends cannot know (docs/recovery.md).
	doubt := f.kills + crashes(f.Faults)
	if most := stops + bare + min(doubt, 1); int(f.Terms) > most {
		say("the stop signal was heard %d times, after %d stops (which are one) and %d kills", f.Terms, stops, bare)
	}
	if f.Terms == 0 && forced == 0 && f.ran != 0 && f.status != "2" && !f.termedBeforeStart() {
		say("the stop signal was never heard")
	}
	if int(f.Users) > users+doubt {
		say("SIGUSR1 was heard %d times, sent %d times", f.Users, users)
	}
	if acked > 0 && f.Users == 0 {
		say("SIGUSR1 was said to be delivered %d times, and never heard", acked)
	}
	if f.ran == 0 {
		return // nobody can be killed too early who never ran
	}
	if f.status == "137" {
		f.judgeKill(say)
	} else if f.deaf() && f.status != "" && f.status != "2" {
		say("a container that does not hear ended with %s", f.status)
	}
}

// termedBeforeStart reports whether a bare kill TERM came before the program ran. Known
// gap: under observe it is delivered to the runtime's init, of which crun's throws it
// away; if the container is started all the same, the stops that follow take it for told.
func (f *facts) termedBeforeStart() bool {
	for _, a := range f.acts {
		if a.Do == term && a.begin < f.ran {
			return true
		}
	}
	return false
}

// crashes is how often a fault plan ends a supervisor.
func crashes(plan string) int {
	if strings.Contains(plan, "do=crash") {
		return 1
	}
	return 0
}

// disturbed reports whether anything else went on meanwhile that may keep a signal
// from the container before it ends: the end itself, or the freezer.
func (f *facts) disturbed(a *act) bool {
	for _, b := range f.acts {
		switch b.Do {
		case pause, "resume":
			return true
		case stop, stopCut, stopTerm, stopHeld, term, termMonitor, kill, force, logout:
			if b.begin < a.end+100*time.Millisecond {
				return true
			}
		}
	}
	return false
}

// judgeKill: when was SIGKILL allowed, at the earliest?
func (f *facts) judgeKill(say func(string, ...any)) {
	allowed := time.Duration(1<<63 - 1)
	why := "nobody wanted its end"
	allow := func(at time.Duration, text string) {
		if at < allowed {
			allowed, why = at, text
		}
	}
	for _, d := range f.demands() {
		allow(d.at+d.grace, fmt.Sprintf("grace of %s from %.3f on", d.grace, d.at.Seconds()))
	}
	for _, a := range f.acts {
		switch a.Do {
		case force:
			allow(a.begin, "delete --force")
		case kill:
			at := a.begin
			// Held while a grace period is open that has surely begun.
			if f.Policy == "enforce" {
				for _, b := range f.acts {
					if b.Do == term && b.err == nil && b.end < a.begin {
						at = max(at, min(allowed, b.begin+ms(f.Grace)))
					}
				}
			}
			allow(at, "kill KILL")
		}
	}
	if f.ended < allowed-tooSoon {
		say("it was killed %s too early (%s)", allowed-f.ended, why)
	}
}

// judgeEnd: the exit is known, everywhere the same, and as the kernel says.
func (f *facts) judgeEnd(say func(string, ...any)) {
	if f.exit != f.persisted {
		say("the exit file says %q, the other %q", f.exit, f.persisted)
	}
	if f.status != "" && f.exit != f.status {
		say("the exit file says %q; it ended with %s", f.exit, f.status)
	}
	switch f.status {
	case "", "137", strconv.Itoa(f.Code):
	case "2", "143":
		// A runtime's init that was told to stop before it was started; or inmate,
		// before it listens: as process 1 of its namespace a Go program then exits
		// with 2.
		if f.Terms > 0 || f.Lines[0] > 2 {
			say("it was started, and ended with %s: its program was not told to", f.status)
		}
	default:
		say("it ended with %s: neither by itself nor by SIGKILL", f.status)
	}
	if f.commands != 1 {
		say("the exit command was run %d times", f.commands)
	}
	if f.deleted != nil && f.deleted.err != nil && !gone(f.deleted.said) {
		say("delete: %v: %s", f.deleted.err, f.deleted.said)
	}
	// The last stop of each schedule comes after the others, and ends it.
	latest := time.Duration(0)
	for _, d := range f.demands() {
		if d.stays && (latest == 0 || d.at+d.grace < latest) {
			latest = d.at + d.grace
		}
	}
	if latest != 0 && f.ended > latest+slack {
		say("it ended %s after its deadline", f.ended-latest)
	}
}

// judgeAnswers: who waited for its end was told how it was.
func (f *facts) judgeAnswers(say func(string, ...any)) {
	for _, a := range f.acts {
		switch {
		case a.cut:
			if a.end-a.begin >= hung {
				say("%s did not end", a.Do)
			}
		case (a.Do == stop || a.Do == stopHeld) && a.out != "":
			want := "code=" + f.status
			if f.status == "137" {
				want = "signal=9"
			}
			if f.status != "" && a.out != want {
				say("stop says %q, want %q", a.out, want)
			}
		case (a.Do == stop || a.Do == stopHeld) && strings.Contains(a.said, "no space left on device"):
			// Beside a stuck supervisor and on a full state directory: it says so.
		case (a.Do == stop || a.Do == stopHeld) && !gone(a.said):
			say("stop says nothing, and %v: %s", a.err, a.said)
		case a.Do == execute && a.err == nil && a.out != "hello from within":
			say("exec says %q", a.out)
		case a.Do == createAgain && a.err == nil:
			say("a container that is there was created again")
		case (a.Do == user || a.Do == userHeld || a.Do == term || a.Do == kill || a.Do == execute) && a.err != nil && a.begin > f.ran && f.ran != 0 && a.end < f.ended-f.stall && !f.hampered(a):
			say("%s failed while it ran: %v: %s", a.Do, a.err, a.said)
		case a.Do == attach && a.err == nil:
			f.judgeWatched(a, say)
		}
	}
}

// gone reports whether these are words for a container that has ended, or is not
// there any more: the last are crun's for a container whose files are gone.
func gone(said string) bool {
	for _, words := range []string{"does not exist", "not running", "cannot open directory", "error opening file"} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}

// hampered reports whether a call may fail for what was done to the container at the
// time: pauses (an exec in a frozen container), and force.
func (f *facts) hampered(a *act) bool {
	if strings.HasPrefix(f.Faults, "effect.deliver do=error") {
		return true
	}
	for _, b := range f.acts {
		if a != b && b.begin < a.end && b.end > a.begin-50*time.Millisecond {
			switch b.Do {
			case force, kill, stop, stopCut, stopTerm, stopHeld, termMonitor, logout:
				return true
			}
		}
		if a.Do == execute && (b.Do == pause || b.Do == "resume") {
			return true
		}
		if a.Do == execute && (b.Do.isStop() || b.Do == term || b.Do == termMonitor || b.Do == logout) && b.begin < a.end {
			return true
		}
	}
	return false
}

// judgeStates: it goes one way only.
func (f *facts) judgeStates(say func(string, ...any)) {
	order := []string{"created", "running", "stopped", "gone"}
	least, by := 0, (*act)(nil)
	for _, a := range f.acts {
		if a.Do != askState || a.cut {
			continue
		}
		state := "gone"
		if a.err == nil {
			var answer struct{ Status string }
			if err := json.Unmarshal([]byte(a.out), &answer); err != nil {
				say("state says %q", a.out)
				continue
			}
			if state = answer.Status; state == "paused" {
				state = "running"
			}
		} else if !gone(a.said) {
			say("state: %v: %s", a.err, a.said)
			continue
		}
		at := slices.Index(order, state)
		if at < 0 {
			say("state says %q at %.3f", state, a.begin.Seconds())
			continue
		}
		if by != nil && at < least && a.begin > by.end {
			say("it is %s at %.3f, after it was %s", state, a.begin.Seconds(), order[least])
		}
		if (state == "running" || state == "created") && a.begin > f.ended || at > 1 && a.end < f.ended-tooSoon-f.stall {
			say("it is said to be %s at %.3f; it ended at %.3f", state, a.begin.Seconds(), f.ended.Seconds())
		}
		if at > least {
			least, by = at, a
		}
	}
}

// keeperDiedToo reports whether supervisor and keeper died at one time, about when the
// container ended: nobody had the pipe open then, and its content is lost
// (docs/logs.md, "What is not covered").
func (f *facts) keeperDiedToo() bool {
	for _, a := range f.acts {
		if a.Do != killMonitor || a.err != nil || a.begin < f.ended-3*time.Second {
			continue
		}
		for _, b := range f.acts {
			switch b.Do {
			case killKeeper, termKeeper, logout:
				if b.begin > a.begin-2*time.Second && b.begin < a.begin+3*time.Second {
					return true
				}
			}
		}
	}
	return false
}

// termedAtTheEnd reports whether a supervisor that may have waited for its log to be
// written got a TERM, which ends that (docs/logs.md).
func (f *facts) termedAtTheEnd() bool {
	for _, a := range f.acts {
		if (a.Do == termMonitor || a.Do == logout) && a.end > f.ended-f.stall {
			return true
		}
	}
	return false
}

// diedOverFullState reports whether a supervisor died when the state directory had no
// room, or some seconds later: what was in its memory alone is lost (docs/logs.md). The
// same holds if its log hung then.
func (f *facts) diedOverFullState() bool {
	for _, a := range f.acts {
		if a.Do != fullState {
			continue
		}
		for _, b := range f.acts {
			// What a write that hangs has begun cannot be taken along to memory: it is
			// said in the log how much is missing.
			if b.Do == hangLogs && b.begin < a.end && b.end > a.begin {
				return true
			}
			if b.Do == killMonitor && b.err == nil && b.begin > a.begin && b.begin < a.end+6*time.Second || crashes(f.Faults) > 0 {
				return true
			}
		}
	}
	return false
}

// judgeLog: every line that was written, once, in order, whole.
func (f *facts) judgeLog(say func(string, ...any)) {
	for i, stream := range []string{"stdout", "stderr"} {
		if f.diedOverFullState() {
			continue
		}
		text := judgeStream(joined(f.log, stream), f.Lines[i], f.status == "137")
		if (f.keeperDiedToo() || f.termedAtTheEnd()) && strings.HasSuffix(text, "are in the log") {
			continue
		}
		if text != "" {
			say("%s: %s", stream, text)
		}
	}
}

// joined is what a reader puts together of one stream.
func joined(log []byte, stream string) string {
	var b strings.Builder
	for record := range strings.Lines(string(log)) {
		fields := strings.SplitN(record, " ", 4)
		if len(fields) != 4 {
			return b.String() + "[no record: " + record + "]"
		}
		if fields[1] != stream {
			continue
		}
		if fields[2] == "P" {
			fields[3] = strings.TrimSuffix(fields[3], "\n")
		}
		b.WriteString(fields[3])
	}
	return b.String()
}

// judgeStream compares with the lines that were written. One that was killed may
// have written a part of one more, or the whole and not counted it.
func judgeStream(text string, written uint64, killed bool) string {
	n := uint64(1)
	for text != "" {
		line := lineOf(n)
		if !strings.HasPrefix(text, line) {
			if killed && n > written && strings.HasPrefix(line, text) {
				break
			}
			return fmt.Sprintf("where line %d of %d should be there is %.60q", n, written, text)
		}
		text = text[len(line):]
		n++
	}
	if n-1 < written {
		return fmt.Sprintf("%d lines were written, %d are in the log", written, n-1)
	}
	if n-1 > written+1 {
		return fmt.Sprintf("%d lines were written, %d are in the log", written, n-1)
	}
	return ""
}

// judgeWatched: a client has lines without a gap, from where it came on.
func (f *facts) judgeWatched(a *act, say func(string, ...any)) {
	_, text, _ := strings.Cut(a.got, "\n") // it may have come in the midst of one
	first, _, found := strings.Cut(text, " ")
	if !found {
		return
	}
	n, err := strconv.ParseUint(first, 10, 64)
	if err != nil {
		// The first newline was within what is no line's begin: never.
		say("a client has got %.60q", text)
		return
	}
	for text != "" {
		line := lineOf(n)
		if !strings.HasPrefix(text, line) && !strings.HasPrefix(line, text) {
			say("a client has %.60q where line %d should be", text, n)
			return
		}
		text = text[min(len(line), len(text)):]
		n++
	}
}

// lineOf is what inmate writes.
func lineOf(n uint64) string {
	b := strconv.AppendUint(nil, n, 10)
	b = append(b, ' ')
	length := 20 + n*7919%97
	if n%53 == 0 {
		length = 9000
	}
	for i := range length {
		b = append(b, 'a'+byte(i%26))
	}
	return string(append(b, '\n'))
}
