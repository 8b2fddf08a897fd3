package monitor

import (
	"errors"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/faults"
	"gracerun.io/internal/inherited"
	"gracerun.io/runtime"
	"gracerun.io/runtime/cgroup"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/keeper"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/ownsignal"
	"gracerun.io/supervisor/pipes"
	"gracerun.io/supervisor/recovery"
)

// A successor is a daemon as its predecessor was: with the same command line,
// environment and directory. It is told of by these.
const (
	dirVariable   = "_GRACEMON_DIR"   // the state directory
	readyVariable = "_GRACEMON_READY" // number of a pipe: a line when it has taken its place, or why not
)

// --- what a supervisor writes down for its successor

// beginMemo writes down how this supervisor was started, and begins its notes.
func (c *Container) beginMemo() {
	if c.journal == nil || c.server.fd == 0 {
		return
	}
	origin := &recovery.Origin{Program: c.s.program, OOMScore: c.s.oomScore, Env: c.env, Args: c.s.args}
	var err error
	if origin.Dir, err = unix.Getwd(); err == nil {
		if text, err := readFile("/proc/self/cgroup"); err == nil {
			origin.Cgroups = strings.Split(strings.TrimSpace(string(text)), "\n")
		}
		if c.memo, err = recovery.CreateNotes(c.dir.FD()); err == nil {
			c.noteSelf()
			err = recovery.WriteOrigin(c.dir, origin)
		}
	}
	if err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error() + ": nobody can go on if its supervisor dies")
	}
}

// noteInit notes who init is.
func (c *Container) noteInit(id process.Identity) {
	if c.memo == nil || id.Pid == 0 {
		return // not known: it has ended, and is seen to at once
	}
	c.memo.SetInit(id, c.start.executed)
	c.memo.SetCgroup(c.cgroup.Dir, c.cgroup.V1)
	c.memo.SetStage(recovery.Made)
}

// mostCrashes is how many supervisors of a container a fault may kill that does not
// say how many: there is to be one that can end it.
const mostCrashes = 100

// unspent leaves those faults out that have struck already: a plan that kills the
// supervisor once must not kill each of its successors.
func (c *Container) unspent(rules []faults.Rule) []faults.Rule {
	var left []faults.Rule
	for _, r := range rules {
		limit := r.Count
		if limit == 0 {
			limit = mostCrashes
		}
		if r.Do == faults.Crash && c.memo.Generation() >= uint64(limit) {
			continue
		}
		left = append(left, r)
	}
	return left
}

// --- the first stage: gracemon --recover

// startSuccessors starts a successor for each container in or below the directory
// whose supervisor is dead, and ends when they have taken their places. "all"
// stands for all state directories of the user.
func startSuccessors(where string) (status int) {
	keeper.RestoreLimit()
	kept := keptDescriptors()
	_, byKeeper := unix.Getenv(keeper.KeptVariable)
	inherited.Close(3) // what else the caller has open is no business of a successor
	var waiting []*successor
	status = each(where, byKeeper, func(path string) error {
		if !byKeeper && needsSuccessor(path) {
			keeper.Await(path, int(answerPatience.Milliseconds()))
		}
		s, err := startSuccessor(path, kept)
		if s != nil {
			waiting = append(waiting, s)
		}
		return err
	})
	for _, s := range waiting {
		if err := s.ready(); err != nil {
			write(2, "gracemon --recover "+s.path+": "+err.Error()+"\n")
			status = 1
		}
	}
	return status
}

// each calls do with every state directory in or below where that belongs to a
// gracemon, and gives the exit status of the program. That there is none is an error
// if where names a place, unless it may have been deleted meanwhile.
func each(where string, mayBeGone bool, do func(path string) error) (status int) {
	if where == "all" {
		mayBeGone = true
		base, err := statedir.Base()
		if err != nil {
			write(2, "gracemon: "+err.Error()+"\n")
			return 1
		}
		where = base
	}
	where = strings.TrimRight(where, "/")
	found := stateDirs(where, 2)
	ended := unix.Access(where+"/"+statedir.RecordName, unix.F_OK) == nil // and has nobody to go on
	if len(found) == 0 && !mayBeGone && !ended {
		text := "no container of gracemon is in it"
		if err := unix.Access(where, unix.F_OK); err != nil {
			text = cmdline.Text(err)
		}
		write(2, "gracemon: "+where+": "+text+"\n")
		return 1
	}
	for _, path := range found {
		if err := do(path); err != nil {
			write(2, "gracemon: "+path+": "+cmdline.Text(err)+"\n")
			status = 1
		}
	}
	return status
}

// stateDirs finds state directories at most so many levels below the path.
func stateDirs(path string, levels int) (found []string) {
	if unix.Access(path+"/"+recovery.OriginName, unix.F_OK) == nil {
		return []string{path}
	}
	fd, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var buf [8192]byte
	for levels > 0 {
		n, err := unix.ReadDirent(fd, buf[:])
		if err != nil || n <= 0 {
			break
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			found = append(found, stateDirs(path+"/"+name, levels-1)...)
		}
	}
	return found
}

// keptDescriptors are those that the keeper has given.
func keptDescriptors() map[string]int {
	text, _ := unix.Getenv(keeper.KeptVariable)
	kept := map[string]int{}
	for entry := range strings.SplitSeq(text, ",") {
		name, digits, _ := strings.Cut(entry, "=")
		if fd := number(digits); fd > 2 {
			unix.CloseOnExec(fd)
			kept[name] = fd
		}
	}
	return kept
}

// needsSuccessor reports whether there is a state directory whose supervisor is dead.
func needsSuccessor(path string) bool {
	dir, err := statedir.OpenPath(path)
	if err != nil {
		return false
	}
	defer dir.Close()
	return !isAlive(dir)
}

// successor is one that was started.
type successor struct {
	path string
	pipe int
}

// startSuccessor starts a successor, if there is need for one.
func startSuccessor(path string, kept map[string]int) (*successor, error) {
	dir, err := statedir.OpenPath(path)
	if err == runtime.ErrNotExist {
		return nil, nil // deleted meanwhile
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if isAlive(dir) {
		return nil, nil
	}
	origin, err := recovery.ReadOrigin(dir)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	defer unix.Close(pipe[1])
	null, err := open("/dev/null", unix.O_RDWR, 0)
	if err != nil {
		unix.Close(pipe[0])
		return nil, err
	}
	defer unix.Close(null)
	files := []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(pipe[1])}
	env := successorEnvironment(origin, path)
	var names []string
	for name, fd := range kept {
		names = append(names, name+"="+strconv.Itoa(len(files)))
		files = append(files, uintptr(fd))
	}
	env = append(env, readyVariable+"=3", keeper.KeptVariable+"="+strings.Join(names, ","))
	attr := &syscall.ProcAttr{Dir: origin.Dir, Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	pid := numberOfDead(dir)
	if err = startAs(pid, origin.Args, attr); err == unix.ENOENT {
		attr.Dir = "/" // its directory is gone
		err = startAs(pid, origin.Args, attr)
	}
	if err != nil {
		unix.Close(pipe[0])
		return nil, err
	}
	return &successor{path, pipe[0]}, nil
}

// successorEnvironment is the predecessor's, without the pipes of its caller.
func successorEnvironment(origin *recovery.Origin, path string) []string {
	env := origin.Env
	for _, name := range [...]string{"_OCI_SYNCPIPE", "_OCI_STARTPIPE", "_OCI_ATTACHPIPE", "LISTEN_PID", "LISTEN_FDS"} {
		env = without(env, name)
	}
	return append(tuned(env, recoverStage), dirVariable+"="+path)
}

// ready waits until it has taken its place, or has died.
func (s *successor) ready() error {
	defer unix.Close(s.pipe)
	said, err := readOnce(s.pipe)
	switch {
	case err != nil:
		return err
	case len(said) == 0:
		return note("the successor of its supervisor died")
	}
	if text := strings.TrimSpace(string(said)); text != "ok" {
		return note(text)
	}
	return nil
}

// isAlive reports whether the container has a supervisor that answers, or might.
//
// That it can be connected to is not enough: the kernel closes the descriptors of
// a dying process in an order of its own, and the end of another connection may
// have been seen before its socket is closed.
func isAlive(dir *statedir.Dir) bool {
	for {
		conn, err := control.Dial(dir.FD())
		if err != nil {
			return err != control.ErrNoSupervisor
		}
		pid, _ := conn.Supervisor()
		if dying, _, err := process.Dying(pid); err == nil && dying {
			conn.Close()
			return false // it may keep its socket open for long
		}
		_, err = conn.Ask(control.Request{Verb: control.State, Grace: control.OwnGrace}, answerPatience)
		conn.Close()
		if err != control.ErrHungUp {
			return true // one that is stopped or stuck has not died
		}
	}
}

const answerPatience = 2 * time.Second

// --- the second stage: the successor

// heritage is what a successor was given, beside what lies in the state directory.
type heritage struct {
	kept    map[string]int
	callers string // of this very process, before it became another program
	clients string // likewise

	oomEvents string            // likewise
	inherited []int             // likewise
	caught    ownsignal.Catcher // likewise, if there was one
}

// take gives a descriptor of that name away, -1 if there is none.
func (h *heritage) take(name string) int {
	if h == nil {
		return -1
	}
	fd, ok := h.kept[name]
	if !ok {
		return -1
	}
	delete(h.kept, name)
	return fd
}

// succeed is the daemon that goes on where another has died.
func succeed(args []string) int {
	h := &heritage{kept: keptDescriptors()}
	// By what its predecessor has caught, some of which it may not have seen to.
	caught, err := ownsignal.Resume(h.take(keeper.Caught), caughtSignals[:]...)
	if err != nil {
		return 1
	}
	h.caught = caught
	nameProcess(args[0])
	unix.Umask(0o022)
	path, _ := syscall.Getenv(dirVariable)
	h.callers, _ = syscall.Getenv(callersVariable)
	h.clients, _ = syscall.Getenv(clientsVariable)
	h.oomEvents, _ = syscall.Getenv(oomVariable)
	list, _ := syscall.Getenv(inheritedVariable)
	for digits := range strings.SplitSeq(list, "/") {
		if fd := number(digits); fd > 2 {
			h.inherited = append(h.inherited, fd)
		}
	}
	h.wake()
	ready := -1
	if text, ok := syscall.Getenv(readyVariable); ok {
		ready = number(text)
		unix.CloseOnExec(ready)
	}
	for _, name := range [...]string{dirVariable, readyVariable, callersVariable, clientsVariable, inheritedVariable, oomVariable, keeper.KeptVariable} {
		_ = syscall.Unsetenv(name)
	}
	tell := func(text string) {
		if ready >= 0 {
			write(ready, text+"\n")
			unix.Close(ready)
			ready = -1
		}
	}
	o, err := cmdline.Parse(args[1:])
	if err == nil {
		err = o.CompleteAgain()
	}
	if err != nil {
		tell("its command line is not understood: " + err.Error())
		return 1
	}
	n := newNotes(o)
	c, err := inherit(path, o, n, h)
	if err != nil || c == nil {
		text := "ok" // there is one already, or there is nothing to go on with
		if err != nil {
			text = err.Error()
			n.fail("container " + o.ID + ": go on after its supervisor's death: " + text)
		}
		tell(text)
		return bitOf(err != nil)
	}
	tell("ok")
	if len(c.s.containers) == 0 {
		return c.exitCode & 0xff // there was nothing left to wait for
	}
	if err := c.s.loop.Run(); err != nil {
		return n.failErr("Failed to wait for events", err)
	}
	return c.exitCode & 0xff
}

func bitOf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// inherit makes the container as its supervisor left it. Without an error and a
// container there is nothing to do.
func inherit(path string, o *cmdline.Options, n *notes, h *heritage) (*Container, error) {
	dir, left, err := h.openState(path)
	if err != nil || dir == nil {
		return nil, err
	}
	// Of several that come at once one goes on. The others wait here, and find it.
	if err := journal.Lock(dir.FD()); err != nil {
		return nil, err
	}
	defer journal.Unlock(dir.FD())
	listening := h.take(controlName)
	if listening < 0 && isAlive(dir) {
		return nil, nil
	}
	origin, err := left.readOrigin(dir)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // deleted while we waited
	}
	if err != nil {
		return nil, err
	}
	s, err := newSupervisor(h.inherited, h.caught)
	if err != nil {
		return nil, err
	}
	s.oomScore, s.program = origin.OOMScore, origin.Program
	same := listening >= 0 // process as before
	if !same {
		keeper.JoinCgroups(origin.Cgroups, false)
	}
	c := &Container{s: s, o: o, notes: n, env: childEnvironment(), dir: dir}
	c.prepare()
	c.parent.none()
	// What was done while the predecessor did not answer: others have seen to it.
	if _, _, err := journal.Join(dir.FD()); err != nil {
		n.warn("container " + o.ID + ": " + err.Error())
	}
	if c.journal, c.machine, err = left.resume(dir.FD()); err != nil {
		return nil, err
	}
	if c.memo, err = left.openNotes(dir.FD()); err != nil {
		return nil, errors.New("read its notes: " + err.Error())
	}
	c.memo.SetBeside(false)
	c.memo.SetStepping(false)
	c.memo.NextGeneration()
	c.noteSelf()
	c.awake(same)
	s.containers = append(s.containers, c)
	if c.record, err = left.readRecord(dir); err != nil {
		n.warn("container " + o.ID + ": " + err.Error())
		_, _ = c.settings()
	} else {
		c.findFaults()
	}
	if err := c.server.resume(c, listening); err != nil {
		return nil, err
	}
	c.server.resumeCallers(h.callers)
	if conn := h.take(keeperName); conn >= 0 {
		c.deposit.resume(c, conn)
	}
	if c.oom.fd = max(0, h.take(oomName)); c.oom.fd != 0 {
		c.oom.events = h.oomEvents
	}
	if !same {
		c.writeMonitorPID()
	}
	if left != nil {
		n.warn("container " + o.ID + ": its state directory " + path + " was removed: gracerun does not reach its supervisor, and nobody goes on if that dies")
	}
	c.goOn(h)
	s.reap() // the program before may not have heard of all of them
	c.restWhenIdle()
	return c, nil
}

// goOn tells the machine what is true, has it begin again what was under way, and
// serves everybody who was served.
func (c *Container) goOn(h *heritage) {
	c.keep, c.timedOut = c.memo.Keep(), c.memo.TimedOut()
	known := c.meetAgain(h)
	if c.memo.OutputDone() {
		c.exitCode = c.exitNumber(c.machine.Status())
		c.clients.finished = true
	} else if err := c.streams.resume(c, h); err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error())
	}
	for _, e := range c.machine.Unanswered() {
		if e.Kind == lifecycle.Deliver {
			known = append(known, c.evidence(e)...)
		}
	}
	if frozen, err := c.cgroup.Frozen(); err == nil && c.init.pid != 0 && frozen != c.machine.Frozen() {
		known = append(known, lifecycle.Event{Kind: lifecycle.Freezer, Frozen: frozen})
	}
	lifecycle.Order(known)
	for _, ev := range known {
		for _, e := range c.take(ev) {
			if e.Kind == lifecycle.Reply { // the rest it asks for again
				c.server.reply(e)
			}
		}
	}
	c.memo.ForgetDeliveries()
	if !c.machine.Created() {
		c.cleanUp()
		return
	}
	if c.init.pid != 0 {
		c.lookAfter(h)
	}
	c.step(lifecycle.Event{Kind: lifecycle.Recovered})
	c.server.awaitCallers()
	c.deposit.make(c)
	c.settle()
}

// meetAgain finds out what became of the create and of init. It gives what the
// machine does not know yet.
func (c *Container) meetAgain(h *heritage) (known []lifecycle.Event) {
	kept := process.Pidfd(h.take(keeper.Init))
	id, executed := c.memo.Init()
	c.start.executed = executed
	dir, v1 := c.memo.Cgroup()
	c.cgroup = cgroup.Cgroup{Dir: dir, V1: v1}
	if c.memo.Stage() != recovery.Made {
		if kept >= 0 {
			kept.Close()
		}
		return nil
	}
	if c.machine.State() == lifecycle.Creating || !c.machine.Created() {
		known = append(known, lifecycle.Event{Kind: lifecycle.CreateDone})
		if c.o.Restore != "" {
			known = append(known, lifecycle.Event{Kind: lifecycle.StartDone})
		}
	}
	if c.cgroup.Dir == "" {
		known = append(known, lifecycle.Event{Kind: lifecycle.CgroupEmpty})
	}
	if c.machine.Exited() {
		if kept >= 0 {
			kept.Close()
		}
		return known
	}
	if status, seen := c.memo.Exit(); seen {
		if kept >= 0 {
			_, _ = kept.Reap() // after an upgrade it is still ours
			kept.Close()
		}
		return append(known, c.exitEvents(status)...)
	}
	if kept < 0 {
		var err error
		if kept, err = process.OpenVerified(id); err != nil {
			c.isUnknown("its supervisor had died, and nobody held on to init when it was reaped (" + err.Error() + ")")
			return append(known, c.exitEvents(lifecycle.Status{})...)
		}
	}
	c.init.pid, c.init.pidfd = id.Pid, kept
	return known
}

// exitEvents are init's end, seen by nobody who could tell the machine.
func (c *Container) exitEvents(status lifecycle.Status) []lifecycle.Event {
	events := []lifecycle.Event{{Kind: lifecycle.InitExited, Status: status}}
	if empty, err := c.cgroup.Empty(); err == nil && empty && c.cgroup.Dir != "" {
		events = append(events, lifecycle.Event{Kind: lifecycle.CgroupEmpty})
	}
	return events
}

// lookAfter watches init and what is around it, as created does.
func (c *Container) lookAfter(h *heritage) {
	// Of somebody else's child an older kernel says once how it ends, to who listens.
	if fd := h.take(exitsName); fd >= 0 {
		c.init.watch = process.ResumeExitWatch(fd, c.init.pid)
	} else if _, err := c.init.pidfd.ExitInfo(); errors.Is(err, process.ErrUnsupported) && !c.ours() {
		if c.init.watch, err = process.WatchExit(c.init.pid); err != nil {
			c.init.watch = nil
			c.notes.warn("container " + c.o.ID + ": its exit status may stay unknown: " + err.Error())
		}
	}
	c.watchOOM()
	c.census = c.cgroup.OpenCensus()
	if at := c.memo.Timeout(); at != 0 {
		c.s.loop.Arm(&c.timeout, at)
	}
	if err := c.s.waitFor(child{c.init.pid, int(c.init.pidfd)}, c.initExited); err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error())
	}
}

// evidence is what is known of a signal that was under way. Only of one that the
// predecessor was about to send when it died nothing is known: if it is pending
// it was sent, and else it is sent again. A container that hears its stop signal
// twice has lost less than one that never hears it.
func (c *Container) evidence(e lifecycle.Effect) []lifecycle.Event {
	ev := lifecycle.Event{Kind: lifecycle.Delivered, Request: e.Request, Signal: e.Signal}
	kind, errno := c.memo.Delivery(e.Request, e.Signal)
	switch kind {
	case recovery.Known:
		if ev.Errno = errno; errno != 0 {
			return nil // to be tried again
		}
		return []lifecycle.Event{ev}
	case recovery.Doubtful:
		if c.init.pid != 0 {
			d, err := process.ReadDispositions(c.init.pid)
			if err == nil && (d.SharedPending.Has(e.Signal) || d.Pending.Has(e.Signal)) {
				return []lifecycle.Event{ev}
			}
		}
		c.notes.warn("container " + c.o.ID + ": its supervisor died as it was about to send " + e.Signal.String() + ": it is sent, perhaps once more")
	}
	return nil
}

// writeMonitorPID tells Podman and CRI-O who looks after the container now.
func (c *Container) writeMonitorPID() {
	if c.o.MonitorPIDFile == "" || c.o.Sync {
		return
	}
	if err := writeAtomically(c.o.MonitorPIDFile, strconv.Itoa(unix.Getpid())); err != nil {
		c.notes.warn("Failed to write conmon pidfile: " + err.Error())
	}
}

// cleanUp ends a create whose supervisor died: its caller has seen the end of its
// pipe, and the runtime died with its parent. What it had made goes.
func (c *Container) cleanUp() {
	c.create.failed = true
	c.exitCode = c.notes.fail("its supervisor died while it was created")
	c.keepState(false)
	c.step(lifecycle.Event{Kind: lifecycle.CreateDone, Errno: int32(unix.EIO)})
	over := func() { c.runExitCommand(nil) }
	if c.memo.Stage() != recovery.Making {
		c.s.loop.Defer(over)
		return
	}
	c.removeRemains(over)
}

// --- streams

// resume reads on where the predecessor has stopped.
func (s *streams) resume(c *Container, h *heritage) error {
	s.ours, s.theirs, s.null = [3]int{-1, -1, -1}, [3]int{-1, -1, -1}, -1
	err := s.openLogs(c)
	if fd := h.take(logName); fd >= 0 {
		unix.Close(fd) // it is open again by now
	}
	if err != nil || s.passthrough {
		return err
	}
	if c.o.Terminal {
		if s.ours[1] = h.take(keeper.Terminal); s.ours[1] < 0 && c.init.pid != 0 {
			c.notes.warn("container " + c.o.ID + ": its terminal hung up when its supervisor died: nobody kept it")
		}
	} else {
		s.ours[1] = c.reopen(h, 1)
	}
	s.ours[2] = c.reopen(h, 2)
	if c.o.Stdin && !c.o.Terminal && c.init.pid != 0 {
		s.ours[0] = c.reopen(h, 0)
	}
	if err := c.clients.resume(c, h); err != nil {
		c.notes.warn("container " + c.o.ID + ": nobody can attach: " + err.Error())
	}
	s.watch(c)
	return nil
}

// reopen gives a stream that the keeper had, or that is found with who has it; -1 for
// a stdin that there is no more.
//
// Of an output that nobody has open any more it gives the end: what was read of it is
// to go to its log all the same.
func (c *Container) reopen(h *heritage, i int) int {
	kept := h.take(streamNames[i])
	inode, ended := c.memo.Pipe(i)
	var err error
	switch {
	case kept >= 0 && ended && i == 0:
		unix.Close(kept) // the predecessor died just before it did
		return -1
	case kept >= 0:
		return kept
	case ended:
		err = pipes.ErrGone
	case inode == 0:
		kept, err = c.openNamed(i)
	case i == 0:
		kept, err = pipes.Find(inode, unix.O_WRONLY, c.processes)
	default:
		kept, err = pipes.Find(inode, unix.O_RDONLY, c.processes)
	}
	if err != nil && err != pipes.ErrGone {
		c.notes.warn("container " + c.o.ID + ": its " + streamNames[i] + " was lost with its supervisor: " + cmdline.Text(err))
	}
	if err != nil && i != 0 {
		if kept, err = pipes.Ended(); err != nil {
			c.notes.warn("container " + c.o.ID + ": " + cmdline.Text(err))
		}
	}
	return kept
}

// openNamed opens the named pipe in the state directory of a container that an older
// gracemon has made. It has such pipes until it ends.
func (c *Container) openNamed(i int) (int, error) {
	flags := unix.O_RDONLY
	if i == 0 {
		flags = unix.O_WRONLY
	}
	fd, err := unix.Openat(c.dir.FD(), streamNames[i], flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	ended := i == 0 && (err == unix.ENOENT || err == unix.ENXIO)
	if ended || err == unix.ENOENT && c.memo.Stage() != recovery.Made { // nor did it ever begin
		return -1, pipes.ErrGone
	}
	return fd, err
}

// processes are those that are known to be the container's.
func (c *Container) processes() (pids []int) {
	if c.init.pid != 0 {
		pids = append(pids, c.init.pid)
	}
	others, err := c.cgroup.Pids()
	if err != nil {
		return pids
	}
	for _, pid := range others {
		if pid != c.init.pid {
			pids = append(pids, pid)
		}
	}
	return pids
}

// resume makes the sockets and FIFOs in the bundle anew.
func (k *clients) resume(c *Container, h *heritage) error {
	if err := k.listenAt(c, h); err != nil {
		return err
	}
	if k.server != nil && c.machine.Started() {
		k.server.Started()
	}
	if master := c.streams.ours[1]; c.o.Terminal && master >= 0 {
		k.terminal(c, master)
	}
	if k.server != nil {
		for _, client := range h.attached() {
			k.server.Take(client)
		}
	}
	return nil
}

// --- callers

// returnPatience is how long the callers of a predecessor have to come back for
// their replies.
const returnPatience = 10 * lifecycle.Second

// resume listens again.
func (s *server) resume(c *Container, listening int) error {
	s.c, s.next = c, lifecycle.FirstRequest
	for _, id := range append(c.machine.Callers(), c.machine.Starting(), c.memo.LastID()) {
		s.next = max(s.next, id+1)
	}
	if listening < 0 {
		fd, err := control.Listen(c.dir.FD())
		if err != nil {
			return err
		}
		listening = fd
	}
	s.fd = listening
	return c.s.loop.Add(s.fd, loop.Readable, loop.HandlerFunc(s.accept))
}

// awaitCallers gives up those who are gone, and waits for the others.
func (s *server) awaitCallers() {
	c := s.c
	for _, id := range c.machine.Callers() {
		if pid := c.memo.Caller(id); !s.has(id) && (pid == 0 || unix.Kill(pid, 0) == unix.ESRCH) {
			c.step(lifecycle.Event{Kind: lifecycle.Abandoned, Request: id})
		}
	}
	s.absent.Fire = func() {
		for _, id := range c.machine.Callers() {
			if !s.has(id) {
				c.tell(lifecycle.Event{Kind: lifecycle.Abandoned, Request: id})
			}
		}
	}
	if len(c.machine.Callers()) > 0 {
		c.s.loop.Arm(&s.absent, loop.Now().After(returnPatience))
	}
	if id := c.machine.Starting(); id != 0 && !s.starting() {
		s.awaitStarter(id)
	}
}

func (s *server) has(id lifecycle.RequestID) bool {
	for _, k := range s.callers {
		if k.request == id || k.granted == id {
			return true
		}
	}
	return false
}

// awaitStarter waits for the one who was given leave to start the container: he
// runs on, and may come back to say how it went.
func (s *server) awaitStarter(id lifecycle.RequestID) {
	c := s.c
	over := func() {
		s.starter = false
		if c.machine.Starting() == id {
			c.startEnded(lifecycle.Event{Kind: lifecycle.Abandoned, Request: id})
		}
	}
	p, err := process.OpenVerified(c.memo.Starter(id))
	if err != nil {
		over()
		return
	}
	s.starter = true
	err = c.s.loop.Add(int(p), loop.Readable, loop.HandlerFunc(func(uint32) {
		c.s.loop.Remove(int(p))
		p.Close()
		over()
	}))
	if err != nil {
		p.Close()
		over()
	}
}
