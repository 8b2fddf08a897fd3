package history

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

const second = lifecycle.Instant(lifecycle.Second)

// story steps a machine and takes down its journal.
type story struct {
	machine *lifecycle.Machine
	journal journal.Journal
}

func running(policy lifecycle.Policy) *story {
	c := lifecycle.DefaultConfig()
	c.Grace, c.Policy = 10*lifecycle.Second, policy
	s := &story{machine: lifecycle.New(c), journal: journal.Journal{Config: c}}
	s.tell(0, lifecycle.Event{Kind: lifecycle.CreateDone})
	s.tell(0, lifecycle.Event{Kind: lifecycle.StartDone})
	return s
}

func (s *story) tell(at lifecycle.Instant, ev lifecycle.Event) {
	r := journal.Record{At: at, Event: ev.String()}
	for _, e := range s.machine.Step(at, ev) {
		r.Effects = append(r.Effects, string(e.Append(nil, at)))
	}
	r.State = s.machine.State().String()
	r.Snapshot = string(s.machine.AppendSnapshot(nil))
	s.journal.Records = append(s.journal.Records, r)
}

func (s *story) exit(at lifecycle.Instant, status lifecycle.Status) {
	s.tell(at, lifecycle.Event{Kind: lifecycle.InitExited, Status: status})
	s.tell(at, lifecycle.Event{Kind: lifecycle.CgroupEmpty})
	s.tell(at, lifecycle.Event{Kind: lifecycle.StreamsDrained})
	s.tell(at, lifecycle.Event{Kind: lifecycle.ExitRecorded})
}

func (s *story) signal(at lifecycle.Instant, id lifecycle.RequestID, sig signals.Signal) {
	s.tell(at, lifecycle.Event{Kind: lifecycle.SignalRequest, Request: id, Signal: sig})
}

func (s *story) delivered(at lifecycle.Instant, id lifecycle.RequestID, sig signals.Signal) {
	s.tell(at, lifecycle.Event{Kind: lifecycle.Delivered, Request: id, Signal: sig})
}

func TestStopInTime(t *testing.T) {
	s := running(lifecycle.Observe)
	s.tell(5*second, lifecycle.Event{Kind: lifecycle.StopRequest, Request: lifecycle.FirstRequest, Grace: 4 * lifecycle.Second})
	s.delivered(6*second, lifecycle.ForStop, signals.TERM)
	s.exit(9*second, lifecycle.Exited(3))
	stops := Stops(&s.journal)
	if len(stops) != 1 {
		t.Fatalf("%+v", stops)
	}
	got := stops[0]
	if got.Asked != 5*second || got.Heard != 6*second || got.Deadline != 10*second || got.Ended != 9*second ||
		got.Status != "code=3" || got.Reason != "in-grace" || got.Lapsed || got.Breaches != nil {
		t.Errorf("%+v", got)
	}
	if share, ok := got.Used(); !ok || share != 0.75 {
		t.Errorf("it used %v of its grace, %v", share, ok)
	}
	if left, ok := got.Margin(); !ok || left != lifecycle.Second {
		t.Errorf("%v was left, %v", left, ok)
	}
}

func TestEarlyKillAndLapsedWindow(t *testing.T) {
	s := running(lifecycle.Observe)
	s.signal(1*second, 10, signals.TERM)
	s.delivered(1*second, lifecycle.ForStop, signals.TERM)
	s.tell(11*second, lifecycle.Event{Kind: lifecycle.Deadline})
	s.signal(20*second, 11, signals.TERM)
	s.delivered(20*second, lifecycle.ForStop, signals.TERM)
	s.tell(23*second, lifecycle.Event{Kind: lifecycle.SignalRequest, Request: 12, Signal: signals.KILL,
		By: lifecycle.NewCaller("/usr/bin/crictl", 7, 8, 0, "user.slice")})
	s.delivered(23*second, 12, signals.KILL)
	s.exit(23*second, lifecycle.Signaled(signals.KILL))
	stops := Stops(&s.journal)
	if len(stops) != 2 {
		t.Fatalf("%+v", stops)
	}
	if first := stops[0]; !first.Lapsed || first.Ended != 0 || first.Breaches != nil || first.Grace() != 10*lifecycle.Second {
		t.Errorf("%+v", first)
	}
	second_ := stops[1]
	if len(second_.Breaches) != 1 || second_.Breaches[0].What != "early-kill" || second_.Breaches[0].Left != 7*lifecycle.Second || second_.Status != "signal=SIGKILL" ||
		second_.Breaches[0].Caller() != "crictl" || second_.Caller() != "unknown" || second_.Wish() != "signal SIGTERM" {
		t.Errorf("%+v", second_)
	}
}

func TestNoStop(t *testing.T) {
	s := running(lifecycle.Observe)
	s.exit(second, lifecycle.Exited(0))
	if stops := Stops(&s.journal); stops != nil {
		t.Errorf("%+v", stops)
	}
}

// Without a journal the error is ENOENT to who asks, and it names the directory; so
// does that of a file that is none.
func TestReadDirWithout(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadDir(dir); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrNoJournal) || !strings.Contains(err.Error(), dir) {
		t.Errorf("without a journal: %v", err)
	}
	if _, err := ReadDir(dir + "/none"); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNoJournal) {
		t.Errorf("without a directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, journal.Name), []byte("what\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadDir(dir); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), journal.Name) {
		t.Errorf("of something else: %v", err)
	}
}

// What callers did beside a supervisor that does not answer is told too, and the
// record with which their own journal begins, the last one of the other, once.
func TestReadDirWithFork(t *testing.T) {
	path := t.TempDir()
	dir, err := unix.Open(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	config := lifecycle.DefaultConfig()
	w, err := journal.Create(dir, config)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Step(lifecycle.New(config), second, lifecycle.Event{Kind: lifecycle.CreateDone}); err != nil {
		t.Fatal(err)
	}
	fork, machine, err := journal.Fork(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer fork.Close()
	if _, err := fork.Step(machine, 2*second, lifecycle.Event{Kind: lifecycle.StopRequest, Request: lifecycle.FirstRequest, Grace: 4 * lifecycle.Second}); err != nil {
		t.Fatal(err)
	}
	j, err := ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	for _, r := range j.Records {
		events = append(events, r.Event)
	}
	if got := strings.Join(events, "; "); got != "create-done ok; stop #2 grace=4s" && got != "create-done ok; stop #1 grace=4s" {
		t.Errorf("it tells %q", got)
	}
}
