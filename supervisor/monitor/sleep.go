package monitor

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/cgroup"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/ownsignal"
	"gracerun.io/supervisor/recovery"
	"gracerun.io/supervisor/slumber"
)

// An idle supervisor sleeps: its process begins anew and stops before the Go
// runtime, in 12 KiB that do nothing but wait for the same descriptors and signals;
// when one of them has something to tell it executes gracemon again. To wake up is
// what it is to go on after an upgrade. Nothing outside can tell one from the
// other: number, program, parent, children, cgroup and sockets stay.

// sleepVariable of the environment says how long a supervisor must have been idle
// before it sleeps, as "10s"; "off" and "0" that it never does.
const sleepVariable = "GRACEMON_SLEEP"

const (
	usualPatience = 10 * lifecycle.Second

	// Who was woken before it had slept as long as it had waited, twice in a row, waits
	// twice as long the next time: a container that writes a line every eleven seconds is
	// not to cost a start of gracemon for each. Once is an event like any other.
	mostPatience = 64 // times the usual

	// One that dies in its sleep has a successor, which dies likewise if something
	// here cannot live with this way to sleep. That many are enough.
	mostSleepsLost = 3
)

// Names of descriptors that one who sleeps has.
const (
	signalsName = "signals" // a signalfd of caughtSignals
	epollName   = "epoll"
)

// rest looks from time to time how long nothing has happened.
type rest struct {
	timer   loop.Timer
	usual   lifecycle.Duration
	every   lifecycle.Duration
	looked  lifecycle.Instant // in that turn of the loop
	since   lifecycle.Instant // nothing had happened then
	refused bool              // and that was said
}

// restWhenIdle begins to look.
func (c *Container) restWhenIdle() {
	r := &c.s.rest
	r.usual, _ = restPatience()
	if r.usual == 0 || c.memo == nil {
		return
	}
	if n := c.memo.SleepsLost(); n >= mostSleepsLost {
		c.notes.warn("container " + c.o.ID + ": " + strconv.FormatUint(n, 10) + " of its supervisors have died in their sleep: this one stays awake")
		return
	}
	r.every = max(c.memo.Patience(), r.usual)
	r.timer.Fire = c.sleepIfIdle
	c.lookAgain()
}

// restPatience is how long a supervisor is to be idle as a rule, 0 for ever; and what
// is wrong with how that was said.
func restPatience() (d lifecycle.Duration, wrong string) {
	text, _ := unix.Getenv(sleepVariable)
	switch text {
	case "":
		return usualPatience, ""
	case "off", "0":
		return 0, ""
	}
	every, err := time.ParseDuration(text)
	if err != nil || every < 0 {
		return usualPatience, sleepVariable + "=" + text + " is not a time such as 10s, nor off: taken for " + usualPatience.String()
	}
	return lifecycle.Duration(every), ""
}

func (c *Container) lookAgain() {
	r := &c.s.rest
	c.s.loop.Arm(&r.timer, loop.Now().After(r.every))
}

// sleepIfIdle is a turn of the loop itself. What counts is when the one before it was.
func (c *Container) sleepIfIdle() {
	r := &c.s.rest
	if len(c.s.containers) == 0 {
		return
	}
	now, since := c.s.loop.Turns()
	if since == r.looked {
		since = r.since // that turn was only to look
	}
	// The turn began before its timers were due.
	if r.looked, r.since = now, since; loop.Now() < since.After(r.every) {
		r.every = max(c.memo.Patience(), r.usual)
		c.s.loop.Arm(&r.timer, since.After(r.every))
		return
	}
	if c.canSleep() {
		err := c.sleep()
		c.memo.SetAsleep(0)
		c.sayRefused(err)
		if err == slumber.ErrEntry {
			return
		}
		// To try more often would only cost.
		r.every = min(2*r.every, mostPatience*r.usual)
	}
	c.lookAgain()
}

// sayRefused says once why it cannot sleep.
func (c *Container) sayRefused(err error) {
	if c.s.rest.refused {
		return
	}
	c.s.rest.refused = true
	say := c.notes.info
	if text, _ := unix.Getenv(sleepVariable); text != "" {
		say = c.notes.warn // it was asked for
	}
	say("container " + c.o.ID + ": its supervisor cannot sleep: " + err.Error())
}

// canSleep reports whether everything that this process knows is written down,
// everything that it waits for can be waited for by another program, and somebody
// sees it if it does not wake up again.
func (c *Container) canSleep() bool {
	switch {
	case c.init.pid == 0 || c.faults != nil || len(c.events) > 0 || c.deposit.conn <= 0:
		return false
	case c.machine.State() != lifecycle.Created && c.machine.State() != lifecycle.Running:
		return false
	case len(c.machine.Callers()) > 0 || c.machine.Starting() != 0:
		return false
	case c.streams.logs == nil || !c.streams.logs.Kept() || c.clients.held || !c.clients.idle():
		return false
	}
	_, passed := c.passOn(nil)
	return c.s.loop.OnlyWaitsFor(append(passed, c.s.direct))
}

// sleep does not return if it works.
func (c *Container) sleep() error {
	if c.sharesProcesses() {
		return note("the container could use up all processes that its cgroup, or its user, may have: waking takes some")
	}
	origin, err := recovery.ReadOrigin(c.dir)
	if err != nil {
		return err
	}
	mask := ownsignal.Mask(caughtSignals[:]...)
	signals, err := unix.Signalfd(-1, &mask, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(signals)
	// The loop's own set: what is not to be waited for at present is not in it.
	epoll := c.s.loop.FD()
	files, closeFiles, err := c.ownFiles()
	if err != nil {
		return err
	}
	defer closeFiles()
	env, passed := c.passOn(nil, append(files, held{signalsName, signals}, held{epollName, epoll})...)
	env = append(successorEnvironment(origin, c.dir.Path()), env...)
	bed := slumber.Bed{Epoll: epoll, Signals: signals, Caught: c.s.signals.FD()}
	c.memo.SetAsleep(loop.Now())
	return handOn(passed, func() error { return bed.Sleep(origin.Args, env) })
}

// wake closes what was there for the sleep only.
func (h *heritage) wake() {
	for _, name := range [...]string{signalsName, epollName} {
		if fd := h.take(name); fd >= 0 {
			unix.Close(fd)
		}
	}
}

// awake takes note of how the sleep was, after a wake or the death of who slept.
func (c *Container) awake(same bool) {
	since := c.memo.Asleep()
	if since == 0 {
		return
	}
	c.memo.SetAsleep(0)
	usual, _ := restPatience()
	waited := max(c.memo.Patience(), usual)
	switch {
	case !same:
		c.memo.LoseSleep()
	case loop.Now() >= since.After(waited):
		c.memo.SetPatience(0)
	case c.memo.Patience() == 0:
		c.memo.SetPatience(usual) // the first time in a row
	default:
		c.memo.SetPatience(min(2*waited, mostPatience*usual))
	}
}

// --- processes

// sharesProcesses reports whether the container can have so many processes that
// there is none left for its supervisor, by whose cgroup or user. A supervisor that
// is awake has all its threads; one that wakes up needs some, and dies without.
func (c *Container) sharesProcesses() bool {
	own, err := readFile("/proc/self/cgroup")
	if err != nil {
		return false
	}
	its, err := readFile("/proc/" + strconv.Itoa(c.init.pid) + "/cgroup")
	if err != nil {
		return false
	}
	controller, mount := "pids", cgroup.Mount+"/pids"
	if cgroup.Unified() {
		controller, mount = "", cgroup.Mount
	}
	ownPath, ok := hierarchy(string(own), controller)
	itsPath, known := hierarchy(string(its), controller)
	if !ok || !known {
		_, limited := userLimit()
		return limited
	}
	limit := func(path string) (int, bool) {
		text, err := readFile(mount + path + "/pids.max")
		if err != nil {
			return 0, false
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text))) // "max" is none
		return n, err == nil
	}
	return sharedLimit(ownPath, itsPath, limit, userLimit)
}

// room is how many processes are to be left for a supervisor that wakes up, and for
// what else there may be.
const room = 32

// sharedLimit looks for a limit of processes that the container can reach, by its
// cgroup or one above, and that is its supervisor's too: every one that they share
// counts, as far as those of the container alone do not keep it away from it.
func sharedLimit(own, its string, limit func(path string) (int, bool), user func() (int, bool)) bool {
	most := 1 << 30 // that the container can have
	for path := its; ; path = path[:strings.LastIndexByte(path, '/')] {
		path = strings.TrimSuffix(path, "/")
		if n, limited := limit(path); limited {
			shared := path == "" || own == path || strings.HasPrefix(own, path+"/")
			if shared && most+room > n {
				return true
			}
			most = min(most, n)
		}
		if path == "" {
			n, limited := user()
			return limited && most+room > n
		}
	}
}

// userLimit is how many processes this user may have, if they are counted
// (RLIMIT_NPROC in getrlimit(2)): those of root in the first user namespace are not.
func userLimit() (n int, limited bool) {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NPROC, &limit) != nil || limit.Cur == unix.RLIM_INFINITY {
		return 0, false
	}
	users, err := readFile("/proc/self/uid_map")
	return int(min(limit.Cur, 1<<30)), err != nil || unix.Geteuid() != 0 || !strings.Contains(string(users), "4294967295")
}
