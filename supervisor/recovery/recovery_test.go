package recovery

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/lifecycle"
)

func stateDir(t *testing.T) *statedir.Dir {
	t.Helper()
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	dir, err := statedir.Create("", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func TestOrigin(t *testing.T) {
	dir := stateDir(t)
	if _, err := ReadOrigin(dir); !errors.Is(err, unix.ENOENT) || Exists(dir.FD()) {
		t.Errorf("of a container without: %v", err)
	}
	want := &Origin{
		Program: "/usr/bin/gracemon", Dir: "/some place", OOMScore: "-999",
		Args: []string{"gracemon", "-c", "c", "--log-label", "A=b\nc", ""},
		Env:  []string{"PATH=/bin", "X="}, Cgroups: []string{"0::/system.slice/a b.scope"},
	}
	if err := WriteOrigin(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadOrigin(dir)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read as %+v, %v; want %+v", got, err, want)
	}
	if opened, err := statedir.OpenPath(dir.Path()); err != nil {
		t.Error(err)
	} else {
		opened.Close()
	}
	if Finish(dir.FD()); Exists(dir.FD()) {
		t.Error("it is there after Finish")
	}
	whole := want.Append(nil)
	for n := range whole {
		if o, err := ParseOrigin(whole[:n]); err == nil {
			t.Fatalf("the first %d bytes are read as %+v", n, o)
		}
	}
}

func FuzzParseOrigin(f *testing.F) {
	f.Add((&Origin{Args: []string{"a"}, Env: []string{"B=c"}}).Append(nil))
	f.Add([]byte(originMagic + "\x00\x00\x00\x001\x00a\x00-1\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := ParseOrigin(text)
		if err != nil {
			return
		}
		again, err := ParseOrigin(o.Append(nil))
		if err != nil || !reflect.DeepEqual(again, o) {
			t.Errorf("%+v is written as what is read as %+v, %v", o, again, err)
		}
	})
}

// TestNotes: what one has noted the next one reads, whose page it is too.
func TestNotes(t *testing.T) {
	dir := stateDir(t)
	mine, err := CreateNotes(dir.FD())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateNotes(dir.FD()); err != unix.EEXIST {
		t.Errorf("made a second time: %v", err)
	}
	next, err := OpenNotes(dir.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()

	id := process.Identity{Pid: 12, StartTime: 34, PidfdInode: 56, Boot: process.BootID{7, 15: 8}}
	mine.SetInit(id, true)
	mine.SetStage(Made)
	mine.SetCgroup("/sys/fs/cgroup/a", true)
	mine.SetKeep(true)
	mine.SetTimeout(99)
	mine.SetTimedOut()
	mine.SetExit(lifecycle.Signaled(signals.KILL))
	mine.SetOutputDone()
	mine.SetCommandAt(77)
	mine.NextGeneration()
	mine.SetStarter(5, id)
	mine.Close()

	got, executed := next.Init()
	group, v1 := next.Cgroup()
	exit, seen := next.Exit()
	if got != id || !executed || next.Stage() != Made || group != "/sys/fs/cgroup/a" || !v1 || !next.Keep() ||
		next.Timeout() != 99 || !next.TimedOut() || exit != lifecycle.Signaled(signals.KILL) || !seen || !next.OutputDone() ||
		next.CommandAt() != 77 || next.Generation() != 1 || next.Starter(5) != id || next.Starter(6) != (process.Identity{}) {
		t.Errorf("the successor reads %v %v %v %q %v %v %v ...", got, executed, next.Stage(), group, v1, exit, seen)
	}
	next.SetExit(lifecycle.Status{})
	if exit, seen := next.Exit(); exit.Kind != lifecycle.StatusUnknown || !seen {
		t.Errorf("an exit that nobody knows is read as %v, %v", exit, seen)
	}
}

// TestEvidence: what became of a signal, whenever the supervisor dies.
func TestEvidence(t *testing.T) {
	dir := stateDir(t)
	n, err := CreateNotes(dir.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	check := func(when string, want Evidence, errno int32) {
		t.Helper()
		if e, got := n.Delivery(lifecycle.ForStop, signals.TERM); e != want || got != errno {
			t.Errorf("%s: %v, errno %d; want %v, %d", when, e, got, want, errno)
		}
	}
	check("before", NotSent, 0)
	slot := n.Sending(lifecycle.ForStop, signals.TERM)
	check("about to send", Doubtful, 0)
	n.Sent(slot, 1)
	check("it failed", Known, 1)
	again := n.Sending(lifecycle.ForStop, signals.TERM)
	check("about to send again", Doubtful, 0)
	n.Sent(again, 0)
	for range deliveries - 2 { // others do not push it out
		n.Sent(n.Sending(lifecycle.FirstRequest, signals.HUP), 0)
	}
	check("sent", Known, 0)
	n.Answered(lifecycle.ForStop, signals.TERM)
	check("in the journal", NotSent, 0)
	if e, _ := n.Delivery(lifecycle.FirstRequest, signals.HUP); e != Known {
		t.Errorf("another one's is forgotten too: %v", e)
	}
	n.ForgetDeliveries()
	if e, _ := n.Delivery(lifecycle.FirstRequest, signals.HUP); e != NotSent {
		t.Errorf("not forgotten: %v", e)
	}
}

func TestCallers(t *testing.T) {
	dir := stateDir(t)
	n, err := CreateNotes(dir.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	n.Asked(3, 100, 15)
	n.Asked(4, 200, 15)
	n.Asked(5, 100, 9)
	n.Told(3, Answer{Outcome: lifecycle.Ended, Status: lifecycle.Exited(7), Errno: 2})
	if id, a, told := n.LastRequest(100, 15); id != 3 || !told || a != (Answer{lifecycle.Ended, lifecycle.Exited(7), 2}) {
		t.Errorf("the first: %d, %+v, %v", id, a, told)
	}
	if id, _, told := n.LastRequest(200, 15); id != 4 || told {
		t.Errorf("one without an answer: %d, %v", id, told)
	}
	if id, _, _ := n.LastRequest(200, 9); id != 0 {
		t.Errorf("one that was not made: %d", id)
	}
	if n.Caller(5) != 100 || n.Caller(6) != 0 || n.LastID() != 5 {
		t.Errorf("callers are %d, %d; the last is %d", n.Caller(5), n.Caller(6), n.LastID())
	}
	for i := range callers {
		n.Asked(lifecycle.RequestID(10+i), 300, 1)
	}
	if id, _, _ := n.LastRequest(100, 15); id != 0 {
		t.Errorf("one that was pushed out: %d", id)
	}
}

// TestClaim: of all who want to run the exit command one may.
func TestClaim(t *testing.T) {
	dir := stateDir(t)
	n, err := CreateNotes(dir.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if begun, _ := n.Command(); begun {
		t.Error("begun before anybody has")
	}
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			own, err := OpenNotes(dir.FD())
			if err != nil {
				t.Error(err)
				return
			}
			defer own.Close()
			if own.ClaimCommand(process.Identity{Pid: 1 + i, StartTime: 1}) {
				won.Add(1)
			}
		})
	}
	all.Wait()
	if begun, owner := n.Command(); won.Load() != 1 || !begun || owner.Pid == 0 {
		t.Errorf("%d have won; begun %v by %v", won.Load(), begun, owner)
	}
}

// TestDamagedNotes: a file that is none is refused; a nil *Notes takes everything.
func TestDamagedNotes(t *testing.T) {
	dir := stateDir(t)
	for _, text := range []string{"", "short", string(make([]byte, pageSize)), string(make([]byte, pageSize+1))} {
		if err := os.WriteFile(filepath.Join(dir.Path(), NotesName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenNotes(dir.FD()); err != ErrNotes {
			t.Errorf("%d bytes: %v, want ErrNotes", len(text), err)
		}
	}
	var none *Notes
	none.SetInit(process.Identity{Pid: 1}, true)
	none.Sent(none.Sending(1, 1), 0)
	none.Asked(1, 1, 1)
	none.Told(1, Answer{})
	none.SetStarter(1, process.Identity{})
	if none.ClaimCommand(process.Identity{}) || none.Stage() != Nothing || none.FD() != -1 || none.LastID() != 0 {
		t.Error("nil knows something")
	}
	none.Close()
}
