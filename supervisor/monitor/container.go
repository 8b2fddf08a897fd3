package monitor

import (
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/faults"
	"gracerun.io/runtime"
	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/cgroup"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/keeper"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/recovery"
	"gracerun.io/supervisor/settings"
)

// Container is one container that is supervised, or one process that is run in
// a container (--exec), which has no state directory, no journal and no control
// socket: those of the container are its supervisor's.
type Container struct {
	s     *Supervisor
	o     *cmdline.Options
	notes *notes
	env   []string // of the runtime and of the exit command

	dir     *statedir.Dir // nil: without
	keep    bool          // the state directory is the runtime's to remove
	record  *statedir.Record
	machine *lifecycle.Machine
	journal *journal.Writer // nil: without
	memo    *recovery.Notes // for a successor; nil: there can be none
	faults  *faults.Injector
	hung    []func() // what a fault keeps from ever being done or answered

	events      []lifecycle.Event // not told to the machine yet
	settling    []lifecycle.Event // being told; the room of both is used again
	settleLater func()            // settle, made once
	stepping    bool              // and that is noted
	timer       loop.Timer

	parent  parent  // the caller's pipes
	create  create  // until the runtime has ended
	wrapped wrapped // likewise
	streams streams // stdin, stdout, stderr
	// lastWords is the log of a container that has ended, if it is not complete.
	lastWords *logs.Logs
	exits     exitFiles
	clients   clients
	init      init_
	cgroup    cgroup.Cgroup  // zero: none of its own
	freezer   cgroup.Freezer // of it, once somebody has asked
	asked     bool
	census    cgroup.Census // of it
	emptied   bool          // nobody is left in the cgroup, and the machine knows
	oom       oom
	server    server
	deposit   deposit // with the keeper

	start    start
	timeout  loop.Timer
	timedOut bool
	exitCode int // of gracemon
	terms    int // how many TERMs gracemon has got
}

// init_ is the first process of the container, or the process of an exec.
type init_ struct {
	pid     int           // 0 before it exists and after its end
	pidfd   process.Pidfd // -1 likewise
	retry   loop.Timer    // to ask again for its exit status
	retries int
	unknown string             // why nobody can tell how it ended
	watch   *process.ExitWatch // nil unless it is needed to know that
}

// newContainer prepares everything that the create needs. Without a container
// the program is to end with that code.
func newContainer(s *Supervisor, o *cmdline.Options, n *notes) (*Container, int) {
	c := &Container{s: s, o: o, notes: n, env: childEnvironment()}
	c.prepare()
	if err := c.parent.open(o); err != nil {
		return nil, n.fail(err.Error())
	}
	config, err := c.settings()
	if err != nil {
		text := "create container " + o.ID + ": " + err.Error()
		c.parent.failed(c, text)
		return nil, n.fail(text)
	}
	if !o.Exec {
		c.openState()
	}
	c.machine = lifecycle.New(config)
	if c.dir != nil {
		c.beginJournal(config)
		c.beginMemo()
	}
	return c, 0
}

func (c *Container) prepare() {
	c.init.pidfd = -1
	c.settleLater = c.settle
	c.timer.Fire = func() { c.tell(lifecycle.Event{Kind: lifecycle.Deadline}) }
	c.init.retry.Fire = c.initExited
	c.timeout.Fire = c.timeIsUp
	c.start.timer.Fire = c.lookAgainForStart
}

// settings reads from the bundle how the container is to be stopped, and makes
// its record. What is wrong with config.json is for the runtime to say.
func (c *Container) settings() (lifecycle.Config, error) {
	config := lifecycle.DefaultConfig()
	if c.o.Exec {
		// What the process has written is in its pipe when its exit is seen, and
		// what others write into it later is not its output.
		config.Drain = 0
		return config, nil
	}
	c.record = &statedir.Record{
		ID: c.o.ID, Bundle: c.o.Bundle, Created: time.Now().UTC().Format(time.RFC3339Nano),
		Runtime: c.o.Runtime, RuntimeArgs: c.o.RuntimeArgs, RuntimeRoot: c.o.RuntimeRoot(),
		Terminal: c.o.Terminal,
	}
	spec, err := bundle.Load(c.o.Bundle, oci.RulesOf(c.o.Runtime))
	if err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error())
	} else {
		c.record.Rootfs, c.record.OCIVersion = spec.Rootfs, spec.OCIVersion
		c.record.CgroupsPath, c.record.Annotations = spec.CgroupsPath, spec.Annotations
		c.record.Terminal = spec.Terminal
		c.wrapped.spec = spec
	}
	stop, err := c.stopSettings()
	c.record.StopSignal, c.record.Grace, c.record.Policy = stop.Signal, stop.Grace, stop.Policy.Known().String()
	c.findFaults()
	return stop.Machine(), err
}

// stopSettings gives what the owner of the node and the container's annotations make
// of its stop. The error is that of the owner's file: no container is made by half of
// it. Of a wrong annotation gracerun, where it is the runtime, fails the create.
func (c *Container) stopSettings() (settings.Stop, error) {
	node, wrong := settings.Load()
	c.wrapped.node = node
	stop, warnings, err := node.StopOf(c.record.Annotations)
	c.wrapped.warnings = len(warnings) > 0 || err != nil
	for _, w := range warnings {
		c.notes.warn("container " + c.o.ID + ": " + w)
	}
	if err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error() +
			": it is stopped as the node has it, with " + stop.Signal.String() + " and " + stop.Grace.String())
	}
	return stop, wrong
}

// openState makes the state directory and listens in it. Without one everything
// works that conmon does; that it is not there is said.
func (c *Container) openState() {
	dir, err := statedir.Create(c.record.RuntimeRoot, c.o.ID)
	if err == runtime.ErrExist {
		dir, err = c.takeOver()
	}
	if err != nil {
		c.notes.warn("container " + c.o.ID + " has no state directory: " + err.Error() +
			": gracerun cannot ask its supervisor, and it is lost with it")
		return
	}
	c.dir = dir
	if err := c.server.listen(c); err != nil {
		// Without it the rest is of no use, and in the way of a gracerun that makes
		// do with less.
		c.notes.warn("container " + c.o.ID + " has no state directory: " + err.Error() +
			": gracerun cannot ask its supervisor, and it is lost with it")
		_ = dir.Remove()
		dir.Close()
		c.dir = nil
		return
	}
	c.writeRecord()
	if c.o.Name != "" {
		if err := dir.WriteFile(history.NameFile, []byte(c.o.Name+"\n")); err != nil {
			c.notes.warn("container " + c.o.ID + ": " + err.Error() + ": it is not found by its name")
		}
	}
}

// takeOver replaces a state directory that nobody needs any more: its supervisor
// died, and so did its container.
func (c *Container) takeOver() (*statedir.Dir, error) {
	old, err := statedir.Open(c.record.RuntimeRoot, c.o.ID)
	if err == runtime.ErrNotExist {
		return statedir.Create(c.record.RuntimeRoot, c.o.ID) // it was removed just now
	}
	if err != nil {
		return nil, err
	}
	defer old.Close()
	if conn, err := control.Dial(old.FD()); err == nil {
		defer conn.Close()
		reply, err := conn.Ask(control.Request{Verb: control.State}, settling)
		if err != nil && err != control.ErrHungUp || err == nil && reply.Phase != lifecycle.Stopped.String() {
			return nil, runtime.ErrExist
		}
		// It has recorded its exit, and waits for its exit command. That may wait in
		// turn for whoever makes the container anew, as `podman restart` does.
		c.retire(old)
		return statedir.Create(c.record.RuntimeRoot, c.o.ID)
	}
	// What its supervisor had promised is done first, by the successor that the
	// keeper finds for it, or one of ours.
	if needsSuccessor(old.Path()) {
		keeper.Await(old.Path(), int(answerPatience.Milliseconds()))
	}
	if s, err := startSuccessor(old.Path(), nil); err == nil && s != nil {
		_ = s.ready()
	}
	if !endsSoon(old) {
		return nil, runtime.ErrExist
	}
	if dir, err := statedir.Create(c.record.RuntimeRoot, c.o.ID); err != runtime.ErrExist {
		return dir, err
	}
	var st unix.Stat_t
	record, err := old.ReadRecord()
	switch {
	case err == nil && alive(record):
		return nil, runtime.ErrExist
	case err != nil && unix.Fstat(old.FD(), &st) == nil && time.Since(time.Unix(st.Mtim.Unix())) < settling:
		return nil, runtime.ErrExist // its owner has just made it
	}
	c.retire(old)
	return statedir.Create(c.record.RuntimeRoot, c.o.ID)
}

// endsSoon waits for a supervisor whose container has ended until it has recorded
// that, and reports whether it has, or there is none.
func endsSoon(dir *statedir.Dir) bool {
	for deadline := loop.Now().After(lifecycle.Duration(settling)); ; time.Sleep(5 * time.Millisecond) {
		conn, err := control.Dial(dir.FD())
		if err != nil {
			return true
		}
		reply, err := conn.Ask(control.Request{Verb: control.State}, settling)
		conn.Close()
		switch {
		case err != nil && err != control.ErrHungUp:
			return false
		case err == nil && reply.Phase == lifecycle.Stopped.String():
			return true
		case err == nil && reply.Phase != lifecycle.Draining.String(), loop.Now() >= deadline:
			return false
		}
	}
}

// settling is how long a state directory may be without a record and a socket,
// and a supervisor without an answer.
const settling = 10 * time.Second

func alive(r *statedir.Record) bool {
	id, err := process.ParseIdentity(r.Init)
	if err != nil {
		return false
	}
	p, err := process.OpenVerified(id)
	if err != nil {
		return false
	}
	defer p.Close()
	exited, err := p.Exited()
	return err != nil || !exited
}

func (c *Container) writeRecord() {
	if c.dir == nil {
		return
	}
	if err := c.dir.WriteRecord(c.record); err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error())
	}
}

func (c *Container) beginJournal(config lifecycle.Config) {
	w, err := journal.Create(c.dir.FD(), config)
	if err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error() + ": there is no journal of it")
		return
	}
	c.journal = w
}

// --- steps

// tell has the machine hear of an event, together with what else becomes ready
// at the same time.
func (c *Container) tell(ev lifecycle.Event) {
	if len(c.events) == 0 {
		c.s.loop.Defer(c.settleLater)
	}
	c.events = append(c.events, ev)
}

// settle steps the machine through what has happened, in the order that it owes
// to the container: an exit before a deadline.
func (c *Container) settle() {
	nested := c.beginSteps()
	for len(c.events) > 0 {
		batch := c.events
		c.events, c.settling = c.settling[:0], batch
		lifecycle.Order(batch)
		for _, ev := range batch {
			if c.isWithdrawn(ev) {
				continue
			}
			c.look(ev.Kind)
			c.step(ev)
		}
	}
	c.endSteps(nested)
}

func (c *Container) step(ev lifecycle.Event) {
	nested := c.beginSteps()
	// They are the machine's until its next step, which an effect never takes.
	for _, e := range c.take(ev) {
		c.perform(e)
	}
	c.awaitStart()
	c.endSteps(nested)
}

// take steps the machine, and keeps it in the journal.
func (c *Container) take(ev lifecycle.Event) (effects []lifecycle.Effect) {
	if c.memo.Beside() {
		c.join()
	}
	now := loop.Now()
	if c.journal == nil {
		effects = c.machine.Step(now, ev)
	} else {
		var err error
		effects, err = c.stepJournal(now, ev)
		if err != nil {
			c.notes.warn("container " + c.o.ID + ": " + err.Error())
		}
	}
	if ev.Kind == lifecycle.Delivered {
		c.memo.Answered(ev.Request, ev.Signal)
	}
	return effects
}

// look brings the machine up to date before it decides what a caller wants.
func (c *Container) look(kind lifecycle.EventKind) {
	switch kind {
	case lifecycle.SignalRequest, lifecycle.StopRequest, lifecycle.MonitorSignal, lifecycle.StartRequest:
		c.lookAtFreezer()
		c.lookForStart()
	}
}

func (c *Container) lookAtFreezer() {
	if c.init.pid == 0 {
		return
	}
	var err error
	if !c.asked {
		c.asked = true
		c.freezer, err = c.cgroup.OpenFreezer()
	}
	frozen := false
	if err == nil {
		frozen, err = c.freezer.Frozen()
	}
	if err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error())
		return
	}
	if frozen != c.machine.Frozen() {
		c.step(lifecycle.Event{Kind: lifecycle.Freezer, Frozen: frozen})
	}
}

// ownSignal takes a signal that the supervisor process received.
func (c *Container) ownSignal(sig signals.Signal) {
	if sig == signals.TERM {
		c.terms++
	}
	kind := lifecycle.MonitorSignal
	if c.o.Exec {
		// There is no grace period here that could be kept: it is passed on.
		kind = lifecycle.SignalRequest
	}
	c.tell(lifecycle.Event{Kind: kind, Request: lifecycle.FromMonitor, Signal: sig})
}

// timeIsUp is --timeout: the container is killed.
func (c *Container) timeIsUp() {
	if c.init.pid == 0 {
		return
	}
	c.notes.info("Timed out, killing main loop")
	c.timedOut = true
	c.memo.SetTimedOut()
	c.tell(lifecycle.Event{Kind: lifecycle.StopRequest, Request: lifecycle.FromMonitor, Grace: 0})
}

// --- init's end

// initExited is told when init can be reaped, or its status be asked for.
func (c *Container) initExited() {
	status, err := c.exitStatus()
	if errors.Is(err, process.ErrRunning) || errors.Is(err, process.ErrNotReaped) && c.init.retries < 100 {
		// Its parent has not reaped it yet, and only then does the kernel tell.
		c.init.retries++
		c.s.loop.Arm(&c.init.retry, loop.Now().After(20*lifecycle.Millisecond))
		return
	}
	if err != nil {
		c.isUnknown(err.Error())
	}
	c.checkOOM()
	c.closeOOM()
	c.freezer.Close()
	ev := lifecycle.Event{Kind: lifecycle.InitExited}
	if err == nil {
		ev.Status = statusOf(status)
		c.notes.info("container " + strconv.Itoa(c.init.pid) + " exited with status " + strconv.Itoa(exitCode(status)))
	}
	c.memo.SetExit(ev.Status)
	c.init.pidfd.Close()
	c.init.pid, c.init.pidfd = 0, -1
	if c.init.watch != nil {
		c.init.watch.Close()
		c.init.watch = nil
	}
	c.s.loop.Arm(&c.init.retry, lifecycle.Never)
	c.s.loop.Arm(&c.timeout, lifecycle.Never)
	c.tell(ev)
	c.lookIfEmpty()
}

// exitStatus reads how init ended, and reaps it if that is ours to do. The status
// is noted before: afterwards the kernel may tell nobody.
func (c *Container) exitStatus() (process.Status, error) {
	status, err := c.init.pidfd.Peek()
	if err == nil {
		c.memo.SetExit(statusOf(status))
		_, _ = c.init.pidfd.Reap()
		return status, nil
	}
	if !errors.Is(err, process.ErrNotChild) {
		return status, err
	}
	// Of somebody else's child there is a zombie to look at, or what the kernel
	// keeps for who had it open when it was reaped.
	if status, err = c.init.pidfd.ZombieStatus(c.init.pid); err == nil {
		return status, nil
	}
	status, err = c.init.pidfd.ExitInfo()
	if c.init.watch != nil && errors.Is(err, process.ErrUnsupported) {
		status, err = c.init.watch.Status()
	}
	return status, err
}

func statusOf(s process.Status) lifecycle.Status {
	switch {
	case !s.Known:
		return lifecycle.Status{}
	case s.Signal != 0:
		return lifecycle.Signaled(s.Signal)
	}
	return lifecycle.Exited(uint8(s.Code))
}

// isUnknown takes note of why nobody can tell how init ended.
func (c *Container) isUnknown(why string) {
	c.init.unknown = why
	c.notes.warn("container " + c.o.ID + ": exit status is unknown: " + why)
}

// lookIfEmpty tells the machine, once, if nobody is left in the container's
// cgroup. Nobody comes into one whose init is gone.
func (c *Container) lookIfEmpty() {
	if c.emptied {
		return
	}
	c.emptied = c.cgroup.Dir == ""
	if !c.emptied {
		var err error
		if c.emptied = c.census.Empty(); !c.emptied {
			c.emptied, err = c.cgroup.Empty()
		}
		if err != nil {
			c.notes.warn("container " + c.o.ID + ": " + err.Error())
		}
	}
	if c.emptied {
		c.s.loop.Defer(c.census.Close) // not on the way to the exit file
		c.tell(lifecycle.Event{Kind: lifecycle.CgroupEmpty})
	}
}
