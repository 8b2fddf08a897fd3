package races

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gracerun.io/internal/story"
	"gracerun.io/internal/testbed"
	"gracerun.io/recorder"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/history"
	"gracerun.io/timeline"
)

// Facts are what became of a scenario on one stack.
type Facts struct {
	Container *testbed.Container
	Grace     time.Duration

	Stops       []Stop
	Calls       []Call
	MonitorTold bool // the monitor itself got SIGTERM

	CreateError error
	StartAsked  bool
	StartError  error

	Sent  []recorder.Event // the stop signal, to init
	Heard time.Duration    // when init took it first; 0: never
	Kills []recorder.Event // SIGKILL to init
	Ended time.Duration    // when init exited; 0: it lives
	// Status is how init really ended, as the kernel says.
	Status process.Status

	Recorded   string        // what the monitor left of the exit; "" if nothing
	RecordedAt time.Duration // if a step waited for it
	TimedOut   bool          // CRI-O wrote so
	GivenUp    time.Duration // when CRI-O took the stop for done; 0: not yet
	Said       []string      // lines that the workload could write to its output
	Unsaid     []string      // lines that it could not write: nobody reads its output
	Logged     []string      // lines in the log when the exit file was there
	LogWhole   []string      // lines in the log at the end
	Left       []int         // processes in the cgroup once the exit was recorded
	Frozen     bool
	OOMFile    bool
	Ledger     Ledger
	ExecSaid   []string // lines that the exec'd script has written
	ExecLogged []string // lines in its log when its monitor had ended
	Drained    *Drained // of a drain, which has no other facts
	Warned     bool     // gracelab check has told of the race beforehand
	Stranger   string   // what became of the process that got init's number

	Timeline *timeline.Timeline
}

// Stop is a demand that the container ends.
type Stop struct{ At, Grace time.Duration }

// Call is a call of the runtime besides the stop.
type Call struct {
	Who, Args, Stdout string
	Err               error
	At, Done          time.Duration
}

// Ledger is what the workload of that name had accepted, and what was on disk
// when it was gone.
type Ledger struct {
	Kept              bool // there is one
	Accepted, Written int
	Closed            bool
}

// Lost is the number of entries that were acknowledged and are gone.
func (l Ledger) Lost() int { return l.Accepted - l.Written }

// Told is when init was sent the stop signal first; 0: never.
func (f *Facts) Told() time.Duration {
	if len(f.Sent) == 0 {
		return 0
	}
	return f.Sent[0].At
}

// Deadline is when the grace period is over: the earliest of all demands, each
// counted from when the stop signal was sent, or from when it came if that was
// later. 0 if nobody demanded anything.
func (f *Facts) Deadline() time.Duration {
	deadline := time.Duration(0)
	for _, s := range f.Stops {
		from := max(s.At, f.Told())
		if at := from + s.Grace; deadline == 0 || at < deadline {
			deadline = at
		}
	}
	return deadline
}

// gather looks at everything that is left when the steps are done.
func (p *play) gather(recording *recorder.Recorder) error {
	f, c := p.facts, p.c
	if p.created != nil {
		f.CreateError = <-p.created
	}
	if p.stranger != nil {
		f.Stranger = p.stranger.fate()
	}
	f.Timeline = c.Story()
	if c.Pid == 0 {
		return nil
	}
	if ended, err := c.Init.Exited(); err != nil || ended {
		if f.Status, err = p.status(); err != nil {
			return err
		}
	}
	if f.Recorded == "" {
		f.Recorded = p.crio.Recorded()
	}
	f.readLogged()
	f.LogWhole = readLog(c.Log)
	f.Said, f.Unsaid = readLines(filepath.Join(c.Data, "said")), readLines(filepath.Join(c.Data, "unsaid"))
	f.Left, f.Frozen = c.Leftovers(), c.Frozen()
	f.readLedger()
	f.TimedOut, f.GivenUp = p.crio.SaidTimedOut(), p.crio.SawEnd()
	events, err := recording.Events(c.Pid)
	if err != nil {
		return err
	}
	f.readSignals(events)
	f.draw(events)
	return nil
}

// status asks the kernel how init ended, once its parent has reaped it.
func (p *play) status() (process.Status, error) {
	var status process.Status
	var err error
	waited := testbed.Until(p.ctx, "init is reaped", func() bool {
		status, err = p.c.Init.ExitInfo()
		return !errors.Is(err, process.ErrNotReaped)
	})
	if errors.Is(err, process.ErrUnsupported) {
		return process.Status{}, nil
	}
	return status, errors.Join(waited, err)
}

// readExit reads an exit file, "" if there is none.
func readExit(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

func (f *Facts) readLogged() {
	// A step that waited for the record has read the log at that instant.
	if f.Logged == nil {
		f.Logged = readLog(f.Container.Log)
	}
	f.OOMFile = f.Container.OOMFile()
}

// readSignals takes what happened to init.
func (f *Facts) readSignals(events []recorder.Event) {
	seen := f.Container.Ended()
	for _, ev := range events {
		switch {
		case ev.What == recorder.Generate && ev.Signal == signals.TERM:
			f.Sent = append(f.Sent, ev)
		case ev.What == recorder.Take && ev.Signal == signals.TERM && f.Heard == 0:
			f.Heard = ev.At
		case ev.What == recorder.Generate && ev.Signal == signals.KILL:
			f.Kills = append(f.Kills, ev)
		case ev.What == recorder.End && ev.At <= seen && seen-ev.At < 50*time.Millisecond:
			// To the microsecond. The first thread can exit long before the last.
			f.Ended = ev.At
		}
	}
	if f.Ended == 0 {
		f.Ended = seen
	}
}

func (f *Facts) readLedger() {
	accepted, err := os.ReadFile(filepath.Join(f.Container.Data, "accepted"))
	if err != nil {
		return
	}
	f.Ledger.Kept = true
	f.Ledger.Accepted, _ = strconv.Atoi(strings.TrimSpace(string(accepted)))
	for _, line := range readLines(filepath.Join(f.Container.Data, "ledger")) {
		if line == "closed" {
			f.Ledger.Closed = true
		} else {
			f.Ledger.Written++
		}
	}
}

// draw completes the story that the managers have begun.
func (f *Facts) draw(events []recorder.Event) {
	recorder.Draw(f.Timeline, events, signals.TERM)
	if dir := f.Container.StateDir(); dir != "" {
		if j, err := history.ReadDir(dir); err == nil {
			story.Draw(f.Timeline, j)
		}
	}
	f.Timeline.Grace = nil
	if at := f.Deadline(); at != 0 {
		f.Timeline.Grace = []timeline.Grace{{From: max(f.Told(), f.Stops[0].At), Deadline: at}}
	}
	if l := f.Ledger; l.Kept {
		kind, text := timeline.Exit, fmt.Sprintf("the ledger is closed, all %d entries are on disk", l.Accepted)
		if l.Lost() > 0 || !l.Closed {
			kind, text = timeline.Breach, fmt.Sprintf("the ledger on disk has %d of %d entries", l.Written, l.Accepted)
		}
		at := f.Ended
		if at == 0 {
			at = testbed.Now()
		}
		f.Timeline.Add(at, timeline.Container, kind, text)
	}
}

// readLog gives the lines of a log in the k8s-file format, put together from
// their parts.
func readLog(path string) []string {
	var lines []string
	part := ""
	for _, line := range readLines(path) {
		fields := strings.SplitN(line, " ", 4) // time, stream, P or F, text
		if len(fields) < 4 {
			continue
		}
		part += fields[3]
		if fields[2] == "F" {
			lines, part = append(lines, part), ""
		}
	}
	return lines
}

func readLines(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(text, []byte("\n"))), "\n")
}

// failed gives what the runtime said if the call failed.
func (c *Call) failed() (said *testbed.CallError, ok bool) {
	ok = errors.As(c.Err, &said)
	return said, ok
}
