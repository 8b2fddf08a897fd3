package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

const second = lifecycle.Instant(lifecycle.Second)

// a stop, as a supervisor would step through it.
var stop = []struct {
	at lifecycle.Instant
	ev lifecycle.Event
}{
	{1 * second, lifecycle.Event{Kind: lifecycle.CreateDone}},
	{2 * second, lifecycle.Event{Kind: lifecycle.StartRequest, Request: lifecycle.FirstRequest}},
	{3 * second, lifecycle.Event{Kind: lifecycle.StartDone}},
	{4 * second, lifecycle.Event{Kind: lifecycle.StopRequest, Request: lifecycle.FirstRequest + 1, Grace: 10 * lifecycle.Second}},
	{5 * second, lifecycle.Event{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM}},
	{6 * second, lifecycle.Event{Kind: lifecycle.InitExited, Status: lifecycle.Exited(7)}},
}

type place struct {
	t    *testing.T
	path string
	dir  int
}

func newPlace(t *testing.T) *place {
	t.Helper()
	path := t.TempDir()
	dir, err := unix.Open(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(dir) })
	return &place{t, path, dir}
}

func (p *place) create(c lifecycle.Config) *Writer {
	p.t.Helper()
	w, err := Create(p.dir, c)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(w.Close)
	return w
}

func (p *place) resume() (*Writer, *lifecycle.Machine) {
	p.t.Helper()
	w, m, err := Resume(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(w.Close)
	return w, m
}

func (p *place) read(name string) string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.path, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

func step(t *testing.T, w *Writer, m *lifecycle.Machine, at lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
	t.Helper()
	effects, err := w.Step(m, at, ev)
	if err != nil {
		t.Fatal(err)
	}
	return effects
}

// The supervisor dies after each step; whoever goes on has the same machine.
func TestResumeAfterEachStep(t *testing.T) {
	p := newPlace(t)
	c := lifecycle.DefaultConfig()
	c.Policy, c.Grace, c.StopSignal = lifecycle.Enforce, 1500*lifecycle.Millisecond, signals.RTMIN+3
	p.create(c)
	whole := lifecycle.New(c)
	for _, s := range stop {
		want := whole.Step(s.at, s.ev)
		w, m := p.resume()
		if got := step(t, w, m, s.at, s.ev); len(got) != len(want) {
			t.Fatalf("%v: effects are %v, want %v", s.ev, got, want)
		}
		w.Close()
		if w, m = p.resume(); !bytes.Equal(m.AppendState(nil, s.at), whole.AppendState(nil, s.at)) || w.Config() != c {
			t.Fatalf("%v: resumed as %s, want %s", s.ev, m.AppendSnapshot(nil), whole.AppendSnapshot(nil))
		}
	}
}

func TestReadIsWhatWasWritten(t *testing.T) {
	p := newPlace(t)
	w := p.create(lifecycle.DefaultConfig())
	m := lifecycle.New(lifecycle.DefaultConfig())
	for _, s := range stop {
		step(t, w, m, s.at, s.ev)
	}
	j, err := Read([]byte(p.read(Name)))
	if err != nil {
		t.Fatal(err)
	}
	if j.Config != lifecycle.DefaultConfig() || len(j.Records) != len(stop) {
		t.Fatalf("read as %+v", j)
	}
	for i, r := range j.Records {
		if ev, err := lifecycle.ParseEvent(r.Event); err != nil || ev != stop[i].ev || r.At != stop[i].at {
			t.Errorf("record %d is %+v (%v), want %v at %d", i, r, err, stop[i].ev, stop[i].at)
		}
	}
	if r := j.Records[3]; r.State != "stopping" || strings.Join(r.Effects, ";") != "deliver stop SIGTERM to=init;arm in=10s" {
		t.Errorf("the stop is %+v", r)
	}
}

// A journal of version 0.8 calls a breach a violation.
func TestReadsOldBreach(t *testing.T) {
	p := newPlace(t)
	p.create(lifecycle.DefaultConfig()).Close()
	old := p.read(Name) + "7 signal #1 SIGKILL | running | violation #1 early-kill in=9s; deliver #1 SIGKILL to=init | m\n"
	j, err := Read([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(j.Records[len(j.Records)-1].Effects, "; "); got != "breach #1 early-kill in=9s; deliver #1 SIGKILL to=init" {
		t.Errorf("read as %q", got)
	}
}

// A journal cut anywhere gives the machine of the last whole line.
func TestCutAnywhere(t *testing.T) {
	p := newPlace(t)
	w := p.create(lifecycle.DefaultConfig())
	m := lifecycle.New(lifecycle.DefaultConfig())
	for _, s := range stop {
		step(t, w, m, s.at, s.ev)
	}
	text := p.read(Name)
	header := strings.IndexByte(text, '\n') + 1
	for cut := range len(text) {
		j, err := Read([]byte(text[:cut]))
		if cut < header {
			if err == nil {
				t.Fatalf("cut at %d, in the first line: no error", cut)
			}
			continue
		}
		if err != nil || len(j.Records) != strings.Count(text[header:cut], "\n") {
			t.Fatalf("cut at %d: %v, %v", cut, j, err)
		}
	}
	// What follows a cut line begins on a line of its own.
	if err := os.WriteFile(filepath.Join(p.path, Name), []byte(text[:len(text)-3]), 0o600); err != nil {
		t.Fatal(err)
	}
	w, m = p.resume()
	step(t, w, m, stop[5].at, stop[5].ev)
	if again := p.read(Name); again != text {
		t.Errorf("after the cut:\n%s\nwant\n%s", again, text)
	}
}

// Who resumes a long journal has the machine of who reads all of it, wherever it
// was cut.
func TestResumeALongJournal(t *testing.T) {
	p := newPlace(t)
	w := p.create(lifecycle.DefaultConfig())
	m := lifecycle.New(lifecycle.DefaultConfig())
	step(t, w, m, stop[0].at, stop[0].ev)
	for i := range lifecycle.Instant(150) {
		step(t, w, m, 2*second+i, lifecycle.Event{Kind: lifecycle.Freezer, Frozen: i%2 == 0})
	}
	text := p.read(Name)
	if len(text) < 2*(headLength+tailLength) {
		t.Fatalf("has only %d bytes", len(text))
	}
	for cut := len(text); cut > len(text)-2000; cut -= 7 {
		if err := os.WriteFile(filepath.Join(p.path, Name), []byte(text[:cut]), 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Read([]byte(text[:cut]))
		if err != nil {
			t.Fatal(err)
		}
		want, err := j.Machine()
		if err != nil {
			t.Fatal(err)
		}
		w, got := p.resume()
		if string(got.AppendSnapshot(nil)) != string(want.AppendSnapshot(nil)) {
			t.Fatalf("cut at %d: resumed as %s, want %s", cut, got.AppendSnapshot(nil), want.AppendSnapshot(nil))
		}
		step(t, w, got, 3*second, lifecycle.Event{Kind: lifecycle.OOM})
		w.Close()
		if j, err := Read([]byte(p.read(Name))); err != nil || j.Records[len(j.Records)-1].Event != "oom" {
			t.Fatalf("cut at %d: what was written is not read: %v", cut, err)
		}
	}
}

func TestContinuesInANewFile(t *testing.T) {
	p := newPlace(t)
	w := p.create(lifecycle.DefaultConfig())
	m := lifecycle.New(lifecycle.DefaultConfig())
	step(t, w, m, stop[0].at, stop[0].ev)
	for i := range lifecycle.Instant(5000) {
		step(t, w, m, 2*second+i, lifecycle.Event{Kind: lifecycle.Freezer, Frozen: i%2 == 0})
	}
	for _, name := range []string{Name, OldName} {
		if size := len(p.read(name)); size > Limit {
			t.Errorf("%s has %d bytes", name, size)
		}
		if _, err := Read([]byte(p.read(name))); err != nil {
			t.Error(err)
		}
	}
	want := string(m.AppendSnapshot(nil))
	if _, resumed := p.resume(); string(resumed.AppendSnapshot(nil)) != want {
		t.Errorf("resumed as %s, want %s", resumed.AppendSnapshot(nil), want)
	}

	// The writer died between the two renames.
	if err := os.Rename(filepath.Join(p.path, Name), filepath.Join(p.path, OldName)); err != nil {
		t.Fatal(err)
	}
	w, m = p.resume()
	if string(m.AppendSnapshot(nil)) != want {
		t.Errorf("resumed as %s, want %s", m.AppendSnapshot(nil), want)
	}
	step(t, w, m, 9*second, lifecycle.Event{Kind: lifecycle.OOM})
	if _, resumed := p.resume(); string(resumed.AppendSnapshot(nil)) != string(m.AppendSnapshot(nil)) {
		t.Errorf("resumed as %s, want %s", resumed.AppendSnapshot(nil), m.AppendSnapshot(nil))
	}
}

// On a full disk the stop goes on, and the journal is whole again afterwards.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small tmpfs")
	}
	p := newPlace(t)
	if err := unix.Mount("tmpfs", p.path, "tmpfs", 0, "size=16k"); err != nil {
		t.Skip("no tmpfs: ", err)
	}
	t.Cleanup(func() { unix.Unmount(p.path, unix.MNT_DETACH) })
	dir, err := unix.Open(p.path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(dir) })
	p.dir = dir
	w := p.create(lifecycle.DefaultConfig())
	m := lifecycle.New(lifecycle.DefaultConfig())
	ballast := filepath.Join(p.path, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 8<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for i := range lifecycle.Instant(200) {
		_, err := w.Step(m, i, lifecycle.Event{Kind: lifecycle.Freezer, Frozen: i%2 == 0})
		if errors.Is(err, unix.ENOSPC) {
			failed++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if failed == 0 {
		t.Fatal("the disk was never full")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	step(t, w, m, second, stop[0].ev)
	if _, resumed := p.resume(); string(resumed.AppendSnapshot(nil)) != string(m.AppendSnapshot(nil)) {
		t.Errorf("resumed as %s, want %s", resumed.AppendSnapshot(nil), m.AppendSnapshot(nil))
	}
}

func TestLockIsHeldByOne(t *testing.T) {
	p := newPlace(t)
	other, err := unix.Open(p.path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	if err := Lock(p.dir); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(other, unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Errorf("a second lock: %v, want EWOULDBLOCK", err)
	}
	Unlock(p.dir)
	if err := Lock(other); err != nil {
		t.Error(err)
	}
}

// A header of a later version is read as far as it is known; of a policy that is
// not, the grace period is kept.
func TestReadHeaderOfALaterVersion(t *testing.T) {
	header := string(appendHeader(nil, &lifecycle.Config{StopSignal: signals.TERM, Grace: lifecycle.Second}))
	header = strings.Replace(header, "policy=observe", "policy=dream mood=cheerful", 1)
	j, err := Read([]byte(header))
	if err != nil || j.Config.Policy != lifecycle.Enforce || j.Config.Grace != lifecycle.Second {
		t.Errorf("%q is read as %+v, %v", header, j, err)
	}
}

func TestReadRefuses(t *testing.T) {
	header := string(appendHeader(nil, &lifecycle.Config{StopSignal: signals.TERM}))
	for text, want := range map[string]string{
		"":                              "line 1: is missing",
		"journal\n":                     "line 1: is not the beginning",
		header + "x | running |  | \n":  "line 2: bad instant",
		header + "12 oom | running |\n": "line 2: want an instant",
		strings.Replace(header, "=observe", "=Dream", 1):           "line 1: unknown policy",
		strings.Replace(header, "SIGTERM", "SIGNOT", 1):            "line 1: unknown signal",
		strings.Replace(header, " policy=observe", "", 1):          "line 1: a setting is missing",
		strings.Replace(header, "drain=0s", "drain=0s fr0b=1", 1):  "line 1: unknown word",
		strings.Replace(header, "retry=0s..0s", "retry=0s..no", 1): "line 1: bad duration",
	} {
		if _, err := Read([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// FuzzRead: what is read does not crash who goes on with it.
func FuzzRead(f *testing.F) {
	c := lifecycle.DefaultConfig()
	text := appendHeader(nil, &c)
	m := lifecycle.New(c)
	for _, s := range stop {
		text = appendRecord(text, m, s.at, &s.ev, m.Step(s.at, s.ev))
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		j, err := Read(text)
		if err != nil {
			return
		}
		if m, err := j.Machine(); err == nil {
			m.Step(j.last()+1, lifecycle.Event{Kind: lifecycle.MonitorSignal, Signal: signals.TERM})
		}
	})
}

// Once its buffer has grown a writer leaves no garbage.
func TestStepAllocatesNothing(t *testing.T) {
	p := newPlace(t)
	w := p.create(lifecycle.DefaultConfig())
	m := lifecycle.New(lifecycle.DefaultConfig())
	at := second
	step(t, w, m, at, stop[0].ev)
	if n := testing.AllocsPerRun(100, func() {
		at++
		if _, err := w.Step(m, at, lifecycle.Event{Kind: lifecycle.Freezer}); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a step", n)
	}
}

// One who has let go of the lock can go on with the machine that it has, unless
// somebody else has written.
func TestIsCurrent(t *testing.T) {
	p := newPlace(t)
	c := lifecycle.DefaultConfig()
	mine, m := p.create(c), lifecycle.New(c)
	for i, s := range stop[:2] {
		step(t, mine, m, s.at, s.ev)
		if !mine.IsCurrent() {
			t.Errorf("after its own step %d: it is not", i)
		}
	}
	other, machine := p.resume()
	if !mine.IsCurrent() || !other.IsCurrent() {
		t.Error("another one has read: it is not")
	}
	step(t, other, machine, stop[2].at, stop[2].ev)
	if mine.IsCurrent() || !other.IsCurrent() {
		t.Error("another one has written")
	}
	other.size = Limit // so that the next record begins a new file
	mine, _ = p.resume()
	step(t, other, machine, stop[3].at, stop[3].ev)
	if mine.IsCurrent() || !other.IsCurrent() {
		t.Error("another one has begun a new file")
	}
	if err := os.Remove(filepath.Join(p.path, Name)); err != nil {
		t.Fatal(err)
	}
	if other.IsCurrent() {
		t.Error("it was deleted")
	}
}

// v08 reads a journal as version 0.8 does: it refuses a policy, a setting and a word
// of the machine that it does not know.
func v08(t *testing.T, text string) {
	t.Helper()
	words := "phase created started frozen oom killing killed open delivered heard demand drained empty swept starting cause status " +
		"signal target deadline shortest window give-up armed send thaw kill record request"
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if i == 0 {
			if !regexp.MustCompile(`^gracerun-journal 1 stop-signal=\S+ grace=\S+ policy=(observe|enforce) drain=\S+ retry=\S+$`).MatchString(line) {
				t.Errorf("version 0.8 does not read %q", line)
			}
			continue
		}
		fields := strings.Split(line, " | ")
		if len(fields) != 4 {
			t.Fatalf("version 0.8 does not read %q", line)
		}
		for _, word := range strings.Fields(fields[3]) {
			key, value, _ := strings.Cut(word, "=")
			if !slices.Contains(strings.Fields(words), key) || key == "cause" && value == "by-opener" || key == "request" && strings.Count(value, "/") != 4 {
				t.Errorf("version 0.8 does not know %q", word)
			}
		}
	}
}

// What this version knows and the last one does not is kept, and does not keep the
// last one from going on.
func TestAdditionsAreKeptPastVersion08(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c := lifecycle.DefaultConfig()
	w, err := Create(fd, c)
	if err != nil {
		t.Fatal(err)
	}
	m := lifecycle.New(c)
	crio := lifecycle.NewCaller("/usr/bin/crio", 812, 4711, 0, "crio.service")
	for i, ev := range []lifecycle.Event{
		{Kind: lifecycle.CreateDone},
		{Kind: lifecycle.StartDone},
		{Kind: lifecycle.StopRequest, Request: lifecycle.FirstRequest, Grace: 9 * lifecycle.Second, By: crio},
		{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM},
		{Kind: lifecycle.SignalRequest, Request: lifecycle.FirstRequest + 1, Signal: signals.KILL, By: crio},
		{Kind: lifecycle.Delivered, Request: lifecycle.FirstRequest + 1, Signal: signals.KILL},
	} {
		now := lifecycle.Instant(i+1) * lifecycle.Instant(lifecycle.Second)
		if _, err := w.Step(m, now, ev); err != nil {
			t.Fatal(err)
		}
		resumed, again, err := Resume(fd)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(again.AppendState(nil, now)), string(m.AppendState(nil, now)); got != want || again.Config() != c || resumed.Config() != c {
			t.Errorf("after %s another machine goes on: %+v", ev, again.Config())
		}
		resumed.Close()
	}
	text, err := os.ReadFile(dir + "/" + Name)
	if err != nil {
		t.Fatal(err)
	}
	v08(t, string(text))
	if !strings.Contains(string(text), "also policy=delegate cause=by-opener grace=9000000000 opener=/usr/bin/crio") {
		t.Errorf("the additions are not there:\n%s", text)
	}
}
