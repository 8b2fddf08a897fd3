package chaos

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// schedule is what is done to a few containers that share a keeper, all of it drawn
// from a seed. Its text can be edited and played again (GRACERUN_SCHEDULE).
type schedule struct {
	Seed       uint64
	Runtime    string // runc or crun
	LogDisk    string // tmpfs or ext4, which can hang
	Containers []setup
	steps      []step
}

// setup is one container.
type setup struct {
	Code   int    // with which it exits by itself
	After  int    // milliseconds for which it goes on after SIGTERM; negative: until it is killed
	Pause  int    // milliseconds between its lines
	Grace  int    // milliseconds
	Policy string // observe or enforce
	Sleep  string // GRACEMON_SLEEP
	Faults string // GRACERUN_FAULTS of its supervisor
	Rotate bool   // its log is full again and again
}

func (s *setup) deaf() bool { return s.After < 0 }

// step is something that is done at an instant, beside all that goes on then.
type step struct {
	At   int // milliseconds after the start of all containers
	Who  int // which container; world
	Do   deed
	Time int // milliseconds that it takes, or gives
}

// world is for steps that are about all containers.
const world = -1

type deed string

// The deeds. Time is in brackets.
const (
	askState    deed = "state"
	user        deed = "usr1"           // gracerun kill ID USR1
	userCut     deed = "usr1-cut"       // likewise, the caller is killed (after)
	userHeld    deed = "usr1-held"      // likewise, the caller is stopped (SIGSTOP, for)
	execute     deed = "exec"           // gracerun exec ID
	pause       deed = "pause"          // and resume (after)
	attach      deed = "attach"         // a client reads (for)
	attachStuck deed = "attach-stuck"   // a client does not read (for)
	reopen      deed = "reopen-log"     // by ctl
	startAgain  deed = "start-again"    // is refused
	createAgain deed = "create-again"   // is refused
	killMonitor deed = "monitor-kill"   // kill -9 of the supervisor
	stopMonitor deed = "monitor-stop"   // SIGSTOP, and SIGCONT (after)
	upgrade     deed = "upgrade"        // gracemon --upgrade
	stop        deed = "stop"           // gracerun stop --timeout (time)
	stopCut     deed = "stop-cut"       // likewise, the caller is killed after half of it
	stopTerm    deed = "stop-term"      // likewise, the caller gets SIGTERM
	stopHeld    deed = "stop-held"      // likewise, the caller is stopped for half a second
	startHeld   deed = "start-held"     // gracerun start, the caller is stopped (for)
	term        deed = "term"           // gracerun kill ID TERM
	termMonitor deed = "monitor-term"   // systemd stops its scope
	kill        deed = "kill"           // gracerun kill ID KILL
	force       deed = "delete-force"   // gracerun delete --force
	killKeeper  deed = "keeper-kill"    // of the world
	stopKeeper  deed = "keeper-stop"    // SIGSTOP, and SIGCONT (after)
	termKeeper  deed = "keeper-term"    //
	logout      deed = "logout"         // TERM to the keeper and to all supervisors
	fullLogs    deed = "log-disk-full"  // (for)
	hangLogs    deed = "log-disk-hangs" // (for), as by fsfreeze(8)
	fullExits   deed = "exit-disk-full"
	fullState   deed = "state-disk-full"
	start       deed = "start" // gracerun start, of the schedule itself
)

// isStop: it is a gracerun stop, whose time is the grace.
func (d deed) isStop() bool { return d == stop || d == stopCut || d == stopTerm || d == stopHeld }

// choice is a deed with its weight.
type choice struct {
	deed
	weight, least, most int // Time is from least to most
}

// before and while it is started, while the containers run, and when they are to end.
var (
	early = []choice{
		{askState, 4, 0, 0}, {startAgain, 2, 0, 0}, {startHeld, 2, 50, 500}, {killMonitor, 4, 0, 0}, {stopMonitor, 2, 20, 200}, {upgrade, 2, 0, 0},
		{stop, 2, 300, 1500}, {termMonitor, 1, 0, 0}, {term, 1, 0, 0}, {force, 1, 0, 0}, {createAgain, 1, 0, 0},
	}
	whileRunning = []choice{
		{askState, 6, 0, 0}, {user, 5, 0, 0}, {userCut, 2, 0, 20}, {userHeld, 2, 50, 500}, {execute, 3, 0, 0}, {pause, 3, 50, 400},
		{attach, 3, 100, 1000}, {attachStuck, 2, 200, 1500}, {reopen, 1, 0, 0}, {startAgain, 1, 0, 0}, {createAgain, 1, 0, 0},
		{killMonitor, 5, 0, 0}, {stopMonitor, 3, 50, 600}, {upgrade, 2, 0, 0},
	}
	ofTheWorld = []choice{{killKeeper, 3, 0, 0}, {stopKeeper, 2, 50, 800}, {termKeeper, 1, 0, 0}, {fullLogs, 2, 100, 700}, {fullExits, 2, 100, 700}, {fullState, 2, 100, 500}}
	toTheEnd   = []choice{
		{stop, 8, 300, 1500}, {stopCut, 3, 300, 1500}, {stopTerm, 2, 300, 1500}, {stopHeld, 2, 300, 1500}, {term, 3, 0, 0}, {termMonitor, 4, 0, 0}, {kill, 1, 0, 0}, {force, 1, 0, 0},
		{killMonitor, 4, 0, 0}, {stopMonitor, 2, 50, 600}, {askState, 4, 0, 0}, {pause, 2, 50, 400}, {upgrade, 1, 0, 0},
	}
)

// The schedule begins when all containers are created; starts is until when they are
// started, runs until when they run before it comes to their end, ends how long that
// phase is; in milliseconds.
const (
	starts = 250
	runs   = 1750
	ends   = 1200
)

// faultsOf are the plans that a supervisor can have: it dies at a boundary of what
// it does, or that fails.
func faultsOf() (plans []string) {
	for _, point := range []string{"effect.deliver", "effect.record-exit", "effect.run-exit-command", "effect.reply", "effect.kill-cgroup"} {
		plans = append(plans, point+" do=crash count=1", point+" after do=crash count=1", point+" do=delay delay=150000000 count=2")
	}
	for skip := 2; skip < 14; skip += 2 {
		plans = append(plans, fmt.Sprintf("write.journal do=crash skip=%d count=1", skip), fmt.Sprintf("write.journal after do=crash skip=%d count=1", skip))
	}
	return append(plans, "effect.record-exit do=error errno=28 count=3", "write.log do=error errno=28 count=5", "effect.deliver do=error errno=11 count=1")
}

// draw draws a schedule.
func draw(seed uint64) *schedule {
	r := rand.New(rand.NewPCG(seed, 0x6368616f73))
	s := &schedule{Seed: seed, Runtime: []string{"runc", "crun"}[seed%2], LogDisk: "tmpfs"}
	between := func(least, most int) int { return least + r.IntN(most-least+1) }
	pick := func(choices []choice) choice {
		all := 0
		for _, c := range choices {
			all += c.weight
		}
		n := r.IntN(all)
		for _, c := range choices {
			if n -= c.weight; n < 0 {
				return c
			}
		}
		panic("no choice")
	}
	for range between(1, 3) {
		c := setup{Code: between(3, 102), After: between(0, 300), Pause: between(1, 20), Grace: between(300, 1200), Policy: "observe", Sleep: "off"}
		if r.IntN(3) == 0 {
			c.After = -1
		} else {
			c.Grace += 20_000 // it ends by itself, on a slow machine too
		}
		if r.IntN(3) == 0 {
			c.Policy = "enforce"
		}
		if r.IntN(2) == 0 {
			c.Sleep = "1ms"
		}
		if plans := faultsOf(); r.IntN(4) == 0 {
			c.Faults = plans[r.IntN(len(plans))]
		}
		c.Rotate = r.IntN(4) == 0
		s.Containers = append(s.Containers, c)
	}
	add := func(choices []choice, who, from, to int) {
		c := pick(choices)
		st := step{At: between(from, to), Who: who, Do: c.deed, Time: between(c.least, c.most)}
		if st.Do.isStop() && !s.Containers[who].deaf() {
			st.Time += 20_000
		}
		s.steps = append(s.steps, st)
	}
	for who := range s.Containers {
		s.steps = append(s.steps, step{At: between(0, starts), Who: who, Do: start})
		if r.IntN(3) == 0 {
			for range between(1, 4) {
				add(early, who, 0, starts+50)
			}
		}
		for range between(2, 12) {
			add(whileRunning, who, starts, runs)
		}
		for range between(1, 5) {
			add(toTheEnd, who, runs, runs+ends)
		}
		// However the rest goes, it ends: somebody stops it at last.
		s.steps = append(s.steps, step{At: runs + ends + 300, Who: who, Do: stop, Time: s.Containers[who].Grace})
	}
	if r.IntN(4) == 0 {
		s.LogDisk = "ext4"
		for range between(1, 3) {
			add([]choice{{hangLogs, 1, 100, 1500}}, world, 0, runs+ends)
		}
	}
	for range between(0, 4) {
		add(ofTheWorld, world, 0, runs+ends)
	}
	if r.IntN(6) == 0 {
		s.steps = append(s.steps, step{At: between(runs, runs+ends), Who: world, Do: logout})
	}
	s.steps = slices.DeleteFunc(s.steps, func(st step) bool {
		// It would be another container.
		return st.Do == createAgain && slices.ContainsFunc(s.steps, func(b step) bool { return b.Do == force && b.Who == st.Who })
	})
	slices.SortStableFunc(s.steps, func(a, b step) int { return a.At - b.At })
	return s
}

// write writes it as text.
func (s *schedule) write(w io.Writer) {
	head, _ := json.Marshal(s)
	fmt.Fprintf(w, "%s\n", head)
	for _, st := range s.steps {
		fmt.Fprintf(w, "%5d %2d %s %d\n", st.At, st.Who, st.Do, st.Time)
	}
}

func (s *schedule) String() string {
	var b strings.Builder
	s.write(&b)
	return b.String()
}

// readSchedule reads what write writes, but for empty lines and those that begin
// with #.
func readSchedule(from io.Reader) (*schedule, error) {
	s := &schedule{}
	head := false
	for lines := bufio.NewScanner(from); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if !head {
			head = true
			if err := json.Unmarshal([]byte(line), s); err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			continue
		}
		var st step
		if _, err := fmt.Sscan(line, &st.At, &st.Who, &st.Do, &st.Time); err != nil || st.Who >= len(s.Containers) {
			return nil, fmt.Errorf("%q is no step: %v", line, err)
		}
		s.steps = append(s.steps, st)
	}
	return s, nil
}

// A seed gives the same schedule each time, and its text the same as well.
func TestSchedules(t *testing.T) {
	seen := map[deed]int{}
	for seed := range uint64(300) {
		s := draw(seed)
		if again := draw(seed); s.String() != again.String() {
			t.Fatalf("seed %d gives two schedules:\n%s\n%s", seed, s, again)
		}
		read, err := readSchedule(strings.NewReader("# edited\n\n" + s.String()))
		if err != nil || read.String() != s.String() {
			t.Fatalf("%v: read as\n%s\nwant\n%s", err, read, s)
		}
		for _, st := range s.steps {
			seen[st.Do]++
		}
	}
	for _, choices := range [][]choice{early, whileRunning, ofTheWorld, toTheEnd, {{deed: logout}, {deed: hangLogs}}} {
		for _, c := range choices {
			if seen[c.deed] == 0 {
				t.Errorf("%s is never drawn", c.deed)
			}
		}
	}
}
