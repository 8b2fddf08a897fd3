package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
	"gracerun.io/signals"
)

// act is a step that was played: what happened, for the oracle.
type act struct {
	step
	begin, end time.Duration // CLOCK_MONOTONIC
	out, said  string        // of a command
	err        error
	cut        bool // its caller was killed
	got        string
}

func (a *act) String() string {
	text := fmt.Sprintf("%9.3f +%7.3f  %2d %s %d", a.begin.Seconds(), (a.end - a.begin).Seconds(), a.Who, a.Do, a.Time)
	if a.out != "" {
		text += fmt.Sprintf(": %.80q", a.out)
	}
	if a.err != nil {
		text += fmt.Sprintf(": %v %.200q", a.err, a.said)
	}
	return text
}

// facts are what became of one container.
type facts struct {
	setup
	id        string
	acts      []*act        // of it, and of the world; by their begin
	kills     int           // of its supervisors, by a step
	made      time.Duration // when its create had returned; 0: it never did
	ran       time.Duration // when its program was seen to run; 0: it never did
	ended     time.Duration // 0: it does not end
	stall     time.Duration // how late the test may have seen what happened
	status    string        // how init really ended, as exit files have it
	exit      string        // the exit files
	persisted string
	commands  int // how often the exit command was run
	counts
	log     []byte // all its files
	deleted *act   // the last delete
	left    []string
	story   string // the journal
}

// play plays a schedule, and gives what became of each container.
type play struct {
	*schedule
	place      *place
	containers []*container
	facts      []*facts
	mu         sync.Mutex
	zero       time.Duration
	stalls     func()
}

// watchStalls watches how long the machine lets the test wait, for all its facts.
func (p *play) watchStalls() {
	longest := testbed.WatchStalls()
	p.stalls = func() {
		stall := longest()
		for _, f := range p.facts {
			f.stall = stall
		}
	}
}

func (p *play) run() error {
	p.watchStalls()
	defer func() { p.stalls() }()
	for i, s := range p.Containers {
		c, err := p.place.make(s)
		if err != nil {
			return err
		}
		p.containers = append(p.containers, c)
		p.facts = append(p.facts, &facts{setup: s, id: c.id})
		defer c.takeAway()
		if err := c.create(); err != nil {
			return fmt.Errorf("container %d: %w", i, err)
		}
		p.facts[i].made = testbed.Now()
	}
	p.zero = testbed.Now()
	var all sync.WaitGroup
	for i, c := range p.containers {
		all.Go(func() {
			until(limit, func() bool {
				if c.counts().Lines[1] > 0 {
					p.facts[i].ran = testbed.Now()
				}
				over, _ := c.init.Exited()
				return over || p.facts[i].ran != 0
			})
		})
	}
	for _, st := range p.steps {
		time.Sleep(p.zero + time.Duration(st.At)*time.Millisecond - testbed.Now())
		all.Go(func() { p.step(st) })
	}
	all.Wait()
	for i := range p.containers {
		all.Go(func() { p.conclude(i) })
	}
	all.Wait()
	for _, f := range p.facts {
		sort.SliceStable(f.acts, func(a, b int) bool { return f.acts[a].begin < f.acts[b].begin })
	}
	if !until(limit, func() bool {
		found := p.place.keepers()
		for _, fd := range found {
			fd.Close()
		}
		return len(found) == 0
	}) {
		_ = signalAll(p.place.keepers(), signals.KILL)
		return errors.New("the keeper is left, without anything to keep")
	}
	return nil
}

// step does one step.
func (p *play) step(st step) {
	a := &act{step: st, begin: testbed.Now()}
	span := time.Duration(st.Time) * time.Millisecond
	if st.Who == world {
		switch st.Do {
		case killKeeper:
			a.err = signalAll(p.place.keepers(), signals.KILL)
		case termKeeper:
			a.err = signalAll(p.place.keepers(), signals.TERM)
		case stopKeeper:
			found := p.place.keepers()
			for _, fd := range found {
				_ = fd.Send(signals.STOP)
			}
			time.Sleep(span)
			_ = signalAll(found, signals.CONT)
		case fullLogs:
			a.err = p.place.logs.fill(span)
		case hangLogs:
			a.err = p.place.logs.hang(span)
		case fullExits:
			a.err = p.place.exits.fill(span)
		case fullState:
			a.err = p.place.state.fill(span)
		case logout:
			found := p.place.keepers()
			for _, c := range p.containers {
				if fd := c.monitor(); fd >= 0 {
					found = append(found, fd)
				}
			}
			a.err = signalAll(found, signals.TERM)
		}
		a.end = testbed.Now()
		p.note(a)
		return
	}
	c := p.containers[st.Who]
	switch st.Do {
	case askState:
		p.call(c, st, undisturbed, "state", c.id)
	case user:
		p.call(c, st, undisturbed, "kill", c.id, "USR1")
	case userCut:
		p.call(c, st, disturbance{after: span + time.Millisecond, sig: unix.SIGKILL}, "kill", c.id, "USR1")
	case userHeld:
		p.call(c, st, disturbance{after: 3 * time.Millisecond, sig: unix.SIGSTOP, hold: span}, "kill", c.id, "USR1")
	case execute:
		p.call(c, st, undisturbed, "exec", c.id, "/inmate", "say", "hello from within")
	case pause:
		p.call(c, st, undisturbed, "pause", c.id)
		time.Sleep(span)
		p.call(c, step{st.At, st.Who, "resume", 0}, undisturbed, "resume", c.id)
	case start, startAgain:
		p.call(c, st, undisturbed, "start", c.id)
	case startHeld:
		p.call(c, st, disturbance{after: 8 * time.Millisecond, sig: unix.SIGSTOP, hold: span}, "start", c.id)
	case createAgain:
		p.call(c, st, undisturbed, "create", "--bundle", c.dir+"/bundle", c.id)
	case upgrade:
		p.watched(c, st, undisturbed, c.command("gracemon", "--upgrade", c.stateDir()))
	case stop:
		p.call(c, st, undisturbed, "stop", "--timeout", fmt.Sprint(span), c.id)
	case stopCut:
		p.call(c, st, disturbance{after: min(span/2, 200*time.Millisecond), sig: unix.SIGKILL}, "stop", "--timeout", fmt.Sprint(span), c.id)
	case stopTerm:
		p.call(c, st, disturbance{after: min(span/2, 200*time.Millisecond), sig: unix.SIGTERM}, "stop", "--timeout", fmt.Sprint(span), c.id)
	case stopHeld:
		p.call(c, st, disturbance{after: 20 * time.Millisecond, sig: unix.SIGSTOP, hold: held}, "stop", "--timeout", fmt.Sprint(span), c.id)
	case term:
		p.call(c, st, undisturbed, "kill", c.id, "TERM")
	case kill:
		p.call(c, st, undisturbed, "kill", c.id, "KILL")
	case force:
		p.call(c, st, undisturbed, "delete", "--force", c.id)
	case killMonitor, stopMonitor, termMonitor:
		p.signalMonitor(c, a, span)
	case reopen:
		a.err = c.moveLog()
		a.end = testbed.Now()
		p.note(a)
	case attach, attachStuck:
		a.got, a.err = c.watch(span, st.Do == attach)
		a.end = testbed.Now()
		p.note(a)
	default:
		panic("no deed " + st.Do)
	}
}

func (p *play) note(a *act) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, f := range p.facts {
		if a.Who == i || a.Who == world {
			f.acts = append(f.acts, a)
		}
	}
}

// disturbance is what happens to a caller: a signal, a while after it was started.
type disturbance struct {
	after time.Duration
	sig   unix.Signal
	hold  time.Duration // after SIGSTOP, until SIGCONT
}

// undisturbed callers are killed if they do not end.
var undisturbed = disturbance{after: hung, sig: unix.SIGKILL}

// held is how long a stop's caller is stopped.
const held = 500 * time.Millisecond

// call calls gracerun.
func (p *play) call(c *container, st step, d disturbance, args ...string) *act {
	return p.watched(c, st, d, c.command("gracerun", append([]string{"--root", c.root()}, args...)...))
}

func (p *play) watched(c *container, st step, d disturbance, cmd *exec.Cmd) *act {
	a := &act{step: st, begin: testbed.Now()}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if a.err = cmd.Start(); a.err == nil {
		ended := make(chan struct{})
		var beside sync.WaitGroup
		beside.Go(func() {
			select {
			case <-time.After(d.after):
				_ = cmd.Process.Signal(d.sig)
				if d.sig == unix.SIGSTOP {
					time.Sleep(d.hold)
					_ = cmd.Process.Signal(unix.SIGCONT)
				} else {
					a.cut = true
				}
			case <-ended:
			}
		})
		a.err = cmd.Wait()
		close(ended)
		beside.Wait()
	}
	a.end, a.out, a.said = testbed.Now(), strings.TrimSpace(out.String()), strings.TrimSpace(said.String())
	p.note(a)
	return a
}

// hung is when a command is taken for one that does not end.
const hung = 2 * time.Minute

func (p *play) signalMonitor(c *container, a *act, span time.Duration) {
	defer func() {
		a.end = testbed.Now()
		p.note(a)
	}()
	fd := c.monitor()
	if fd < 0 {
		a.err = errors.New("no supervisor")
		return
	}
	defer fd.Close()
	switch a.Do {
	case killMonitor:
		if a.err = fd.Send(signals.KILL); a.err == nil {
			c.kills.Add(1)
		}
	case termMonitor:
		a.err = fd.Send(signals.TERM)
	case stopMonitor:
		a.err = fd.Send(signals.STOP)
		time.Sleep(span)
		_ = fd.Send(signals.CONT)
	}
}

// moveLog moves the log away and has it opened anew, as the kubelet does.
func (c *container) moveLog() error {
	from := c.logs.seenAt(c.log())
	if err := os.Rename(from, fmt.Sprintf("%s.moved-%d", from, c.moved.Add(1))); err != nil {
		return err
	}
	fd, err := unix.Open(c.dir+"/bundle/ctl", unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("2 0 0\n"))
	return err
}

// watch attaches for a while, and gives what the container wrote to stdout
// meanwhile, if it reads at all.
func (c *container) watch(span time.Duration, reads bool) (string, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	dir, err := unix.Open(c.dir+"/bundle", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/attach", dir)}); err != nil {
		return "", err
	}
	if !reads {
		time.Sleep(span)
		return "", nil
	}
	var got strings.Builder
	buf := make([]byte, 16<<10)
	for end := testbed.Now() + span; testbed.Now() < end; {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 50); n <= 0 || err != nil {
			continue
		}
		n, err := unix.Read(fd, buf)
		if n <= 0 || err != nil {
			break
		}
		if buf[0] == 2 {
			got.Write(buf[1:n])
		}
	}
	return got.String(), nil
}

// conclude waits for the container's end, looks at what there is, and deletes it.
func (p *play) conclude(i int) {
	c, f := p.containers[i], p.facts[i]
	select {
	case f.ended = <-c.ended:
	case <-time.After(limit):
		return
	}
	f.status = c.realStatus()
	exit, persisted := c.exitFiles()
	until(limit, func() bool {
		fd := c.monitor()
		if fd >= 0 {
			fd.Close()
		}
		return fd < 0 && exists(exit) && c.commands() > 0
	})
	f.exit, f.persisted = readText(exit), readText(persisted)
	f.counts, f.kills = c.counts(), int(c.kills.Load())
	if f.ran == 0 && f.Lines[0] > 0 {
		f.ran = f.ended // too short to be seen
	}
	f.log = c.readLog()
	f.story = readText(c.state.seenAt(c.stateDir()) + "/journal")
	f.deleted = p.call(c, step{Who: i, Do: "delete"}, undisturbed, "delete", c.id)
	f.commands = c.commands()
	for _, path := range append(c.cgroups(), c.state.seenAt(c.stateDir())) {
		if exists(path) {
			f.left = append(f.left, path)
		}
	}
	for _, fd := range c.processes(func(cmdline []byte) bool { return bytes.Contains(cmdline, []byte("\x00"+c.id+"\x00")) }) {
		f.left = append(f.left, "a process that names it")
		fd.Close()
	}
}

// realStatus is how init ended, in the form of exit files; "" if the kernel does not
// tell (before Linux 6.15).
func (c *container) realStatus() string {
	c.init.AwaitReaped(limit)
	s, err := c.init.ExitInfo()
	switch {
	case err != nil || !s.Known:
		return ""
	case s.Signal != 0:
		return fmt.Sprint(128 + int(s.Signal))
	}
	return fmt.Sprint(s.Code)
}

// readLog reads all files of the log, in the order in which they were written.
func (c *container) readLog() (all []byte) {
	entries, err := os.ReadDir(c.logs.seen)
	if err != nil {
		return nil
	}
	var files [][]byte
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), c.id+".log") {
			if text, err := os.ReadFile(c.logs.seen + "/" + e.Name()); err == nil && len(text) > 0 {
				files = append(files, text)
			}
		}
	}
	sort.Slice(files, func(a, b int) bool {
		return bytes.Compare(files[a][:min(35, len(files[a]))], files[b][:min(35, len(files[b]))]) < 0
	})
	return bytes.Join(files, nil)
}

func readText(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}
