// Package chaos plays random schedules against containers of gracemon and gracerun:
// all that callers can do, by several at once, while supervisors, the keeper, callers
// and disks fail. An oracle that knows only the promise says whether it was kept.
//
// Each schedule comes from a seed:
//
//	GRACERUN_SEED=17 go test -v ./integration/chaos        # play it again
//	GRACERUN_SCHEDULE=FILE go test -v ./integration/chaos  # one that was printed, and edited
//	GRACERUN_ROUNDS=500 go test ./integration/chaos        # so many, from GRACERUN_SEED on
package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gracerun.io/internal/progress"
	"gracerun.io/internal/testbed"
)

// atOnce is how many schedules are played at a time: they mostly wait.
const atOnce = 6

// soakTime is how long new schedules are played in make soak.
const soakTime = time.Hour

// seeds gives those that are to be played, one after the other, until it has no more:
// a fixed number in make test, new ones for an hour in make soak.
func seeds() func() (uint64, bool) {
	first, number, until := uint64(1), uint64(60), time.Time{}
	seed, seedErr := strconv.ParseUint(os.Getenv("GRACERUN_SEED"), 10, 64)
	rounds, roundsErr := strconv.ParseUint(os.Getenv("GRACERUN_ROUNDS"), 10, 64)
	if seedErr == nil {
		first, number = seed, 1
	}
	if roundsErr == nil {
		number = rounds
	} else if seedErr != nil && os.Getenv("GRACERUN_SOAK") != "" {
		number, until = 1<<40, time.Now().Add(soakTime)
		first = uint64(time.Now().Unix()) // printed with what fails
	}
	next := first
	return func() (uint64, bool) {
		if next-first >= number || !until.IsZero() && time.Now().After(until) {
			return 0, false
		}
		next++
		return next - 1, true
	}
}

var build = sync.OnceValues(func() (string, error) {
	bin, err := os.MkdirTemp("", "gracechaos-bin-")
	if err != nil {
		return "", err
	}
	for _, why := range testbed.Build(bin, "gracemon", "gracerun") {
		return bin, errors.New(why)
	}
	cmd := exec.Command("go", "build", "-o", bin+"/inmate", "./inmate")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return bin, fmt.Errorf("inmate does not build: %w\n%s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if bin, _ := build(); bin != "" {
		os.RemoveAll(bin)
	}
	os.Exit(status)
}

func TestChaos(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make these containers")
	}
	for _, name := range []string{"runc", "crun", "nsenter", "mkfs.ext4"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed (make deps)", name)
		}
	}
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	if path := os.Getenv("GRACERUN_SCHEDULE"); path != "" {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s, err := readSchedule(f)
		if err != nil {
			t.Fatal(err)
		}
		(&tally{t: t}).play(s, bin)
		return
	}
	next := seeds()
	all := &tally{t: t, longest: map[deed]time.Duration{}, count: map[deed]int{}}
	var wait sync.WaitGroup
	free := make(chan struct{}, atOnce)
	begin := time.Now()
	line := progress.ForSoak()
	for {
		free <- struct{}{}
		seed, more := next()
		if !more {
			break
		}
		all.tell(line, time.Since(begin))
		wait.Go(func() {
			all.play(draw(seed), bin)
			<-free
		})
	}
	wait.Wait()
	line.End()
	all.report(time.Since(begin))
}

// tally counts, over all schedules.
type tally struct {
	t       *testing.T
	mu      sync.Mutex
	longest map[deed]time.Duration
	count   map[deed]int

	schedules, containers, failed, kills int
	lines                                uint64
}

// tell says how far it has come.
func (all *tally) tell(line *progress.Line, gone time.Duration) {
	all.mu.Lock()
	defer all.mu.Unlock()
	line.Set(gone.Seconds()/soakTime.Seconds(), "chaos: %d schedules played, %d failed", all.schedules, all.failed)
}

func (all *tally) play(s *schedule, bin string) {
	t := all.t
	dir, err := os.MkdirTemp("", "gracechaos-")
	if err != nil {
		t.Error(err)
		return
	}
	defer os.RemoveAll(dir)
	runtime, err := exec.LookPath(s.Runtime)
	if err != nil {
		t.Error(err)
		return
	}
	place, err := newPlace(bin, dir, runtime, s.LogDisk)
	if err != nil {
		t.Errorf("seed %d: %v", s.Seed, err)
		return
	}
	defer place.close()
	p := &play{schedule: s, place: place}
	wrong := p.run()
	var report strings.Builder
	if wrong != nil {
		fmt.Fprintf(&report, "%v\n", wrong)
	}
	for i, f := range p.facts {
		if f.made == 0 {
			continue
		}
		complaints := f.judge()
		if len(complaints) == 0 {
			continue
		}
		fmt.Fprintf(&report, "container %d (%s):\n    %s\n", i, f.id, strings.Join(complaints, "\n    "))
		fmt.Fprintf(&report, "  its program ran at %.3f, heard SIGTERM at %.3f, ended at %.3f with %s; %d lines, %d TERM, %d USR1\n",
			f.ran.Seconds(), time.Duration(f.Heard).Seconds(), f.ended.Seconds(), f.status, f.Lines[0], f.Terms, f.Users)
		for _, a := range f.acts {
			fmt.Fprintf(&report, "    %s\n", a)
		}
		fmt.Fprintf(&report, "  its journal:\n%s", shortened(f.story))
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	all.schedules++
	for _, f := range p.facts {
		all.containers++
		all.kills += f.kills
		all.lines += f.Lines[0] + f.Lines[1]
		for _, a := range f.acts {
			if all.longest != nil {
				all.count[a.Do]++
				all.longest[a.Do] = max(all.longest[a.Do], a.end-a.begin-f.wait(a))
			}
		}
	}
	if report.Len() > 0 {
		if all.failed++; all.failed <= 10 {
			t.Errorf("GRACERUN_SEED=%d:\n%s%s", s.Seed, s, report.String())
		}
	} else if testing.Verbose() && (all.longest == nil || os.Getenv("GRACERUN_SEED") != "") {
		t.Logf("held:\n%s", s)
	}
}

// shortened leaves out the machine of each record, and records in which nothing
// happened.
func shortened(story string) string {
	var b strings.Builder
	for line := range strings.Lines(story) {
		fields := strings.Split(strings.TrimSpace(line), " | ")
		if len(fields) == 4 && (fields[2] != "" || !strings.HasSuffix(fields[0], "recovered")) {
			fmt.Fprintf(&b, "    %s\n", strings.Join(fields[:3], " | "))
		}
	}
	return b.String()
}

func (all *tally) report(took time.Duration) {
	all.t.Logf("%d schedules, %d containers, %d lines of output in %s; %d supervisors were killed; %d schedules broke the promise",
		all.schedules, all.containers, all.lines, took.Round(time.Second), all.kills, all.failed)
	var names []deed
	for name := range all.count {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		all.t.Logf("%16s %6d times, at most %s", name, all.count[name], all.longest[name].Round(time.Millisecond))
	}
	if all.failed > 10 {
		all.t.Errorf("%d of %d schedules broke the promise", all.failed, all.schedules)
	}
}
