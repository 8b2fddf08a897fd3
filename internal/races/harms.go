package races

import (
	"fmt"
	"strings"
	"time"

	"gracerun.io/recorder"
	"gracerun.io/signals"
)

// late and early are what a busy machine is forgiven.
const (
	early = 20 * time.Millisecond
	late  = 1200 * time.Millisecond
)

// harms are the ways in which a scenario can do harm. Each says what happened,
// with figures; "" if it did not.
var harms = map[string]func(*Facts) string{
	"second-stop-signal":    secondStopSignal,
	"data-lost":             dataLost,
	"killed-early":          killedEarly,
	"killed-late":           killedLate,
	"never-told":            neverTold,
	"told-late":             toldLate,
	"status-lost":           statusLost,
	"status-wrong":          statusWrong,
	"log-cut":               logCut,
	"output-refused":        outputRefused,
	"exec-log-cut":          execLogCut,
	"herd-told-late":        herdToldLate,
	"herd-harmed":           herdHarmed,
	"said-timed-out":        saidTimedOut,
	"needless-kill":         needlessKill,
	"left-over":             leftOver,
	"left-frozen":           leftFrozen,
	"no-answer":             noAnswer,
	"started-after-stop":    startedAfterStop,
	"stop-lost":             stopLost,
	"stranger-hit":          strangerHit,
	"coalesced":             coalesced,
	"error-not-understood":  errorNotUnderstood,
	"call-hung":             callHung,
	"state-stale":           stateStale,
	"reason-lost":           reasonLost,
	"given-up-while-living": givenUpWhileLiving,
	"deaf":                  deaf,
}

func senders(events []recorder.Event) string {
	names := make([]string, len(events))
	for i, ev := range events {
		names[i] = ev.SenderComm
	}
	return strings.Join(names, ", ")
}

func secondStopSignal(f *Facts) string {
	if len(f.Sent) < 2 {
		return ""
	}
	return fmt.Sprintf("init got SIGTERM %d times, from %s", len(f.Sent), senders(f.Sent))
}

func dataLost(f *Facts) string {
	l := f.Ledger
	if !l.Kept || l.Closed && l.Lost() <= 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d entries lost", l.Lost(), l.Accepted)
}

func killedEarly(f *Facts) string {
	deadline := f.Deadline()
	if len(f.Kills) == 0 || deadline == 0 || f.Kills[0].At >= deadline-early {
		return ""
	}
	return fmt.Sprintf("SIGKILL %.1f s before the grace period of %s was over", (deadline - f.Kills[0].At).Seconds(), f.Grace)
}

// end is when the container was gone, or "now" for one that lives.
func killedLate(f *Facts) string {
	deadline := time.Duration(0)
	for _, s := range f.Stops {
		if at := s.At + s.Grace; deadline == 0 || at < deadline {
			deadline = at
		}
	}
	switch {
	case f.Ended == 0:
		return "it still runs, past its deadline"
	case f.Ended > deadline+late:
		return fmt.Sprintf("it ended %.1f s after its deadline", (f.Ended - deadline).Seconds())
	}
	return ""
}

func neverTold(f *Facts) string {
	if len(f.Sent) > 0 {
		return ""
	}
	return "no stop signal was ever sent to it"
}

func toldLate(f *Facts) string {
	if len(f.Sent) > 0 && f.Sent[0].At < f.Stops[0].At+late {
		return ""
	}
	if len(f.Sent) == 0 {
		return neverTold(f)
	}
	return fmt.Sprintf("it was told %.1f s after the stop was asked for", (f.Sent[0].At - f.Stops[0].At).Seconds())
}

func statusLost(f *Facts) string {
	if f.Ended == 0 || f.Recorded != "" {
		return ""
	}
	return "nobody recorded how it ended (" + f.trueStatus() + ")"
}

// trueStatus is how an exit file has it.
func (f *Facts) trueStatus() string {
	switch {
	case !f.Status.Known:
		return "unknown"
	case f.Status.Signal != 0:
		return fmt.Sprint(128 + int(f.Status.Signal))
	}
	return fmt.Sprint(f.Status.Code)
}

func statusWrong(f *Facts) string {
	switch {
	case f.Recorded == "":
		return ""
	case f.Ended == 0:
		return "recorded as exited with " + f.Recorded + " while it runs"
	case f.Status.Known && f.Recorded != f.trueStatus():
		return fmt.Sprintf("recorded as %s, was %s", f.Recorded, f.trueStatus())
	}
	return ""
}

func logCut(f *Facts) string { return cut(f.Said, f.Logged) }

func execLogCut(f *Facts) string { return cut(f.ExecSaid, f.ExecLogged) }

func cut(said, logged []string) string {
	there := map[string]bool{}
	for _, line := range logged {
		there[line] = true
	}
	missing := 0
	for _, line := range said {
		if !there[line] {
			missing++
		}
	}
	if missing == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d lines of its output are not in the log", missing, len(said))
}

// herdToldLate: a node that waits for one grace period takes a fifth of it, or
// more, from the last container.
func herdToldLate(f *Facts) string {
	d := f.Drained
	if d.LastTERM < f.Grace/5 {
		return ""
	}
	left := "nothing of its " + f.Grace.String() + " is left"
	if d.LeastGrace > 0 {
		left = fmt.Sprintf("less than %.1f of its %s are left", (d.LeastGrace + 100*time.Millisecond).Seconds(), f.Grace)
	}
	return fmt.Sprintf("the last of %d containers was told after %d ms: %s on a node that waits no longer",
		d.Containers, d.LastTERM.Milliseconds(), left)
}

func herdHarmed(f *Facts) string {
	d := f.Drained
	if d.Untold+d.SignaledTwice+d.EarlyKills+d.LateKills+d.LostExits == 0 {
		return ""
	}
	return fmt.Sprintf("of %d containers %d were never told, %d told twice, %d killed early, %d late, and %d exits are lost",
		d.Containers, d.Untold, d.SignaledTwice, d.EarlyKills, d.LateKills, d.LostExits)
}

func outputRefused(f *Facts) string {
	if len(f.Unsaid) == 0 {
		return ""
	}
	return fmt.Sprintf("%d lines of its output were refused: nobody reads them", len(f.Unsaid))
}

func saidTimedOut(f *Facts) string {
	if !f.TimedOut || f.Ended == 0 || f.Ended > f.Deadline() {
		return ""
	}
	return fmt.Sprintf("recorded as timed out, and killed, though it had ended %d ms before the deadline", (f.Deadline() - f.Ended).Milliseconds())
}

func needlessKill(f *Facts) string {
	if len(f.Kills) == 0 || f.Ended == 0 || f.Kills[0].At <= f.Ended {
		return ""
	}
	return "SIGKILL to a container that had ended"
}

func leftOver(f *Facts) string {
	if f.Ended == 0 || len(f.Left) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of its processes live on after its recorded exit", len(f.Left))
}

func leftFrozen(f *Facts) string {
	if !f.Frozen {
		return ""
	}
	return "it is left frozen"
}

func noAnswer(f *Facts) string {
	switch {
	case f.CreateError == nil || strings.Contains(f.CreateError.Error(), "container create failed"):
		return ""
	}
	return "its caller got no answer: " + f.CreateError.Error()
}

func startedAfterStop(f *Facts) string {
	if !f.StartAsked || f.StartError != nil || len(f.Said) == 0 {
		return ""
	}
	return "its program was started after it had been told to stop"
}

func stopLost(f *Facts) string {
	if f.Ended != 0 {
		return ""
	}
	return "it still runs: the stop was lost"
}

func strangerHit(f *Facts) string {
	if !strings.HasPrefix(f.Stranger, "killed") {
		return ""
	}
	return "a process of somebody else, with init's old number, was " + f.Stranger
}

func coalesced(f *Facts) string {
	for _, ev := range f.Sent {
		if ev.Result == recorder.AlreadyPending {
			return fmt.Sprintf("%d SIGTERM sent and confirmed, two of them became one", len(f.Sent))
		}
	}
	return ""
}

func errorNotUnderstood(f *Facts) string {
	for _, c := range f.Calls {
		if said, ok := c.failed(); ok && !said.NotFound() {
			return fmt.Sprintf("told of a process that is gone by %q, which CRI-O takes for something else", oneLine(said.Stderr))
		}
	}
	return ""
}

func callHung(f *Facts) string {
	for _, c := range f.Calls {
		if d := c.Done - c.At; d > 2*f.Grace {
			return fmt.Sprintf("%q did not come back within %.1f s", c.Args, d.Seconds())
		}
	}
	return ""
}

func stateStale(f *Facts) string {
	for _, c := range f.Calls {
		if strings.HasPrefix(c.Args, "state") && c.Err == nil && f.Ended != 0 && f.Ended < c.At &&
			(strings.Contains(c.Stdout, `"running"`)) {
			return fmt.Sprintf("state says running, with pid %d, %d ms after its exit", f.Container.Pid, (c.At - f.Ended).Milliseconds())
		}
	}
	return ""
}

func reasonLost(f *Facts) string {
	if f.Status.Signal != signals.KILL || f.OOMFile {
		return ""
	}
	return "killed by the kernel for its memory, recorded as a plain " + f.Recorded
}

func givenUpWhileLiving(f *Facts) string {
	if f.GivenUp == 0 || f.Ended != 0 && f.Ended < f.GivenUp {
		return ""
	}
	return "its manager takes it for ended while its threads run"
}

func deaf(f *Facts) string {
	if f.Heard != 0 || len(f.Sent) == 0 || f.Sent[0].Result != recorder.Ignored {
		return ""
	}
	return fmt.Sprintf("PID 1 has no handler: the kernel drops SIGTERM, and %s pass for nothing", f.Grace)
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
