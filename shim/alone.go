package shim

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/breach"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/hostclock"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/recovery"
)

// alone steps the machine of a container that no gracemon watches over: one that
// conmon or containerd's shim runs, or whose gracemon has died.
//
// Each call of gracerun is the machine's edge for as long as it holds the lock
// of the state directory, with the journal as the machine's memory. All that is
// asked of it is done and answered under the lock, so that what a later call
// finds unanswered was asked of one that died. The machine's timer runs where
// somebody waits: with a `kill` that is held and with `stop`. When nobody does,
// an instant that has passed is caught up with by the next call, which changes
// nothing for the lapse of a window, the only thing that can then be due.
type alone struct {
	call      *call
	dir       *statedir.Dir
	container *oci.Container
	pidfd     process.Pidfd     // -1 once init is known to be gone
	orphaned  bool              // it has a gracemon, or had one, which records the exit
	record    lifecycle.Instant // until when that is waited for; 0: it is not
	beside    *beside           // it does not answer; nil: there is none

	locked  bool
	journal *journal.Writer
	machine *lifecycle.Machine
	self    lifecycle.RequestID
	waiting int               // the descriptor that says so; -1 while it does not wait
	asked   lifecycle.Instant // when the request was made
	limit   lifecycle.Instant // until when it is waited for
	quiet   lifecycle.Instant // when the caller is to be told that its SIGKILL is held; 0: it is not
	answer  *lifecycle.Effect // its reply
	killing span              // how long it has been killed, in vain
	defers  lifecycle.Instant // since when it leaves it to others to tell of the end; 0: it does not
}

// errDeleted: the container was deleted while somebody waited for it.
var errDeleted = errors.New("container was deleted")

// errSupervised: while this call had no supervisor to ask, one has come. The
// machine is its own again.
var errSupervised = errors.New("the container has a supervisor again")

// askAlone makes a request of the machine and waits for the reply.
func (c *call) askAlone(dir *statedir.Dir, id string, ev lifecycle.Event) (control.Reply, error) {
	return c.askBeside(dir, id, nil, ev)
}

// askBeside is askAlone for a container whose supervisor does not answer.
func (c *call) askBeside(dir *statedir.Dir, id string, b *beside, ev lifecycle.Event) (control.Reply, error) {
	for range maxDeaths {
		reply, err := c.askMachine(dir, id, b, ev)
		if err != errSupervised {
			return reply, err
		}
		reply, err = c.ask(dir, requestOf(ev))
		if b = nil; errors.As(err, &b) {
			continue // it does not answer again
		}
		if err != control.ErrNoSupervisor {
			return reply, err // else it has come to its end
		}
	}
	return control.Reply{}, control.ErrNoSupervisor
}

func (c *call) askMachine(dir *statedir.Dir, id string, b *beside, ev lifecycle.Event) (control.Reply, error) {
	a, err := c.attend(dir, id, b)
	if err != nil {
		return control.Reply{}, err
	}
	defer a.leave()
	ev.Request = a.self
	a.asked, a.limit = now(), lifecycle.Never
	switch {
	case mayBeHeld(requestOf(ev)):
		a.quiet = a.asked.After(lifecycle.Duration(silence))
	case ev.Kind == lifecycle.SignalRequest && ev.Signal != signals.KILL:
		a.limit = a.asked.After(lifecycle.Duration(patience))
	}
	a.step(ev)
	if err := a.wait(); err != nil {
		return control.Reply{}, err
	}
	return control.ReplyOf(*a.answer), nil
}

// requestOf is the request of a supervisor that means the same. A signal that was
// sent meanwhile is in its journal: it is joined, or waited for.
func requestOf(ev lifecycle.Event) control.Request {
	if ev.Kind == lifecycle.StopRequest {
		return control.Request{Verb: control.Stop, Signal: ev.Signal, Grace: ev.Grace, By: ev.By}
	}
	return control.Request{Verb: control.Signal, Signal: ev.Signal, All: ev.All, Force: ev.Force, Grace: control.OwnGrace, By: ev.By}
}

// attend takes the lock and the machine, up to date with what has happened. With a
// supervisor that does not answer it is the machine of a fork of the journal.
func (c *call) attend(dir *statedir.Dir, id string, b *beside) (*alone, error) {
	k, err := c.find(dir, id)
	if err == nil {
		err = k.err
	}
	if err != nil {
		return nil, whyNotAttended(err)
	}
	c.belongsTo(k.Container)
	a := &alone{call: c, dir: dir, container: k.Container, pidfd: k.init, waiting: -1, beside: b, orphaned: b != nil}
	if err := a.enter(); err != nil {
		k.close()
		return nil, whyNotAttended(err)
	}
	return a, nil
}

// unusable is why the machine cannot be stepped: what is kept of the container, by
// another version perhaps, cannot be read. Nothing was done to it yet.
type unusable struct{ why error }

func (u *unusable) Error() string { return u.why.Error() }

// Unwrap gives why.
func (u *unusable) Unwrap() error { return u.why }

func whyNotAttended(err error) error {
	switch err {
	case errUnknown, errSupervised:
		return err
	case errDeleted:
		return errUnknown
	}
	return &unusable{err}
}

// freeRequest gives a name for this call's request: the number of its process, for
// who reads the journal, or the next one that nobody in the machine has. One who
// waits there has died, or lives in another pid namespace.
func freeRequest(m *lifecycle.Machine, others ...lifecycle.RequestID) lifecycle.RequestID {
	taken := append(append(m.Callers(), m.Starting()), others...)
	id := lifecycle.FirstRequest + lifecycle.RequestID(unix.Getpid()) - 1
	for slices.Contains(taken, id) {
		id++
	}
	return id
}

// enter takes the lock and catches up.
func (a *alone) enter() error {
	switch err := lockWithin(a.dir.FD(), patience); {
	case err == errBusy:
		return errors.New("its state directory was locked for " + patience.String() + ": does a create of it hang?")
	case err != nil:
		return err
	}
	if a.beside == nil {
		switch inCharge(a.dir) {
		case supervised:
			journal.Unlock(a.dir.FD())
			return errSupervised
		case orphaned, ended:
			a.orphaned = true
		}
	}
	if a.journal == nil || !a.journal.IsCurrent() {
		a.close()
		var err error
		a.journal, a.machine, err = a.resume()
		if err != nil {
			journal.Unlock(a.dir.FD())
			if a.beside != nil && a.beside.forked && errors.Is(err, unix.ENOENT) && !isRemoved(a.dir) {
				return errSupervised
			}
			if errors.Is(err, unix.ENOENT) {
				return errDeleted
			}
			return err
		}
	}
	a.locked = true
	if a.self == 0 {
		a.self = freeRequest(a.machine)
	}
	a.catchUp()
	return nil
}

// resume gives the machine and the journal that it is to be stepped in.
func (a *alone) resume() (*journal.Writer, *lifecycle.Machine, error) {
	if a.beside != nil {
		return a.beside.resume(a.dir)
	}
	return journal.Resume(a.dir.FD())
}

// exit gives the lock back. Machine and journal are kept: they are good when the
// lock is taken again if nobody else has stepped the machine meanwhile.
func (a *alone) exit() {
	if a.locked {
		a.locked = false
		journal.Unlock(a.dir.FD())
	}
}

func (a *alone) close() {
	if a.journal != nil {
		a.journal.Close()
		a.journal = nil
	}
}

// leave ends it all.
func (a *alone) leave() {
	a.close()
	a.exit()
	if a.pidfd >= 0 {
		a.pidfd.Close()
	}
	if a.waiting >= 0 {
		unix.Close(a.waiting)
	}
	if a.beside != nil {
		a.beside.leave()
	}
}

// catchUp tells the machine what has happened since its last step, in the order
// of lifecycle.Order.
func (a *alone) catchUp() {
	if a.isOver() || a.beside != nil && a.machine.Exited() {
		return
	}
	if a.beside != nil && !a.machine.Created() {
		// The supervisor was stuck before it could say so: there is an init.
		a.step(lifecycle.Event{Kind: lifecycle.CreateDone})
	}
	if a.hasExited() {
		a.initExited()
	}
	for _, e := range a.machine.Unanswered() {
		errno := int32(unix.EINTR) // whoever was to do it has died
		if a.beside != nil && e.Kind == lifecycle.Deliver {
			errno = a.beside.delivery(e)
		}
		a.step(answer(e, errno))
	}
	if frozen, err := a.container.Cgroup.Frozen(); err == nil && frozen != a.machine.Frozen() {
		a.step(lifecycle.Event{Kind: lifecycle.Freezer, Frozen: frozen})
	}
	a.lookForStart()
	if now() >= a.machine.Armed() && !a.isOver() {
		a.step(lifecycle.Event{Kind: lifecycle.Deadline})
	}
}

// isOver: the exit is recorded, or will be by another.
func (a *alone) isOver() bool {
	s := a.machine.State()
	return s == lifecycle.Stopped || s == lifecycle.Failed
}

func (a *alone) hasExited() bool {
	if a.pidfd < 0 {
		return true
	}
	exited, err := a.pidfd.Exited()
	return err == nil && exited
}

// initExited tells the machine of init's end. Its output and its exit file are
// somebody else's business; a gracemon's successor will do it all.
func (a *alone) initExited() {
	if a.orphaned || a.machine.State() == lifecycle.Draining {
		return
	}
	if a.pidfd < 0 && a.leavesItToOthers() {
		return // who came in time can be told the status
	}
	a.step(lifecycle.Event{Kind: lifecycle.InitExited, Status: a.exitStatus()})
}

// leavesItToOthers tells whether one who came before this call, and had a pidfd of
// init in time, is to tell the machine of its end. One who is alive and does not, as
// if it were stopped, keeps nobody waiting for ever.
func (a *alone) leavesItToOthers() bool {
	if !a.othersWait() {
		return false
	}
	if a.defers == 0 {
		a.defers = now()
	}
	return now() < a.defers.After(lifecycle.Duration(patience))
}

// callersFile, in the state directory, is never written to. Who waits for a reply
// has that byte of it locked which has the number of its request, and does not
// have it any more when it has died: the number of a process would tell nothing,
// once another process has it.
const callersFile = "callers"

// beginToWait lets others know that this call will be there to hear its reply.
func (a *alone) beginToWait() error {
	fd, err := unix.Openat(a.dir.FD(), callersFile, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, byteOf(a.self)); err != nil {
		unix.Close(fd)
		return err
	}
	a.waiting = fd
	return nil
}

// othersWait tells whether a live call waits for a reply, other than this one.
func (a *alone) othersWait() bool {
	callers := a.machine.Callers()
	if len(callers) == 0 {
		return false
	}
	fd, err := unix.Openat(a.dir.FD(), callersFile, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false // nobody has ever waited
	}
	defer unix.Close(fd)
	for _, id := range callers {
		lock := byteOf(id)
		if id != a.self && unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, lock) == nil && lock.Type != unix.F_UNLCK {
			return true
		}
	}
	return false
}

func byteOf(id lifecycle.RequestID) *unix.Flock_t {
	return &unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: int64(id), Len: 1}
}

// step steps the machine, does what it asks for and tells it what became of it.
func (a *alone) step(ev lifecycle.Event) {
	effects, err := a.journal.Step(a.machine, now(), ev)
	if err != nil {
		a.call.warn(err.Error())
	}
	var answers []lifecycle.Event
	for _, e := range effects {
		answers = append(answers, a.perform(e)...)
	}
	for _, ev := range answers {
		a.step(ev)
	}
}

// perform does one thing that the machine asks for, and gives what is to be told
// of it.
func (a *alone) perform(e lifecycle.Effect) []lifecycle.Event {
	switch e.Kind {
	case lifecycle.Deliver:
		return []lifecycle.Event{answer(e, errnoOf(a.deliver(e)))}
	case lifecycle.Thaw:
		return []lifecycle.Event{answer(e, errnoOf(a.container.Cgroup.Thaw()))}
	case lifecycle.DrainStreams:
		// The output is with whoever made the container, and what is left in the
		// cgroup the runtime kills at delete.
		return []lifecycle.Event{{Kind: lifecycle.CgroupEmpty}, {Kind: lifecycle.StreamsDrained}}
	case lifecycle.RecordExit:
		return []lifecycle.Event{answer(e, errnoOf(a.recordExit(e)))}
	case lifecycle.RunExitCommand:
		return []lifecycle.Event{{Kind: lifecycle.ExitCommandDone}}
	case lifecycle.RecordBreach:
		breach.Of(a.id(), "gracerun", a.machine, e, now()).Send()
	case lifecycle.Reply:
		if e.Request == a.self && a.answer == nil {
			a.answer = &e
		}
	}
	return nil
}

// answer is the event that tells what became of an effect.
func answer(e lifecycle.Effect, errno int32) lifecycle.Event {
	switch e.Kind {
	case lifecycle.Thaw:
		return lifecycle.Event{Kind: lifecycle.ThawDone, Errno: errno}
	case lifecycle.RecordExit:
		return lifecycle.Event{Kind: lifecycle.ExitRecorded, Errno: errno}
	}
	return lifecycle.Event{Kind: lifecycle.Delivered, Request: e.Request, Signal: e.Signal, Errno: errno}
}

// deliver sends a signal. A process that has exited takes every signal without an
// error: it has to be asked.
func (a *alone) deliver(e lifecycle.Effect) error {
	if a.hasExited() {
		return unix.ESRCH
	}
	switch {
	case e.Target == lifecycle.ToInit && e.Signal == signals.KILL:
		return a.container.Cgroup.KillContainer(a.pidfd, a.container.Init.Pid)
	case e.Target == lifecycle.ToInit:
		return a.pidfd.Send(e.Signal)
	}
	if a.container.Cgroup.Dir == "" {
		return a.deliverByRuntime(e)
	}
	except := 0
	if e.Target == lifecycle.ToOthers {
		except = a.container.Init.Pid
	}
	_, err := a.container.Cgroup.Signal(e.Signal, except)
	return err
}

// deliverByRuntime is for `kill --all` of a container without a cgroup: what it
// means there is for the runtime to say.
func (a *alone) deliverByRuntime(e lifecycle.Effect) error {
	if e.Target == lifecycle.ToOthers {
		return nil
	}
	args := append(a.call.globals[:len(a.call.globals):len(a.call.globals)], "kill", "--all", a.id(), strconv.Itoa(int(e.Signal)))
	status, err := a.call.through("runtime.kill", e.Signal, func() (int, error) { return a.call.spawn(args) })
	if err == nil && status != 0 {
		err = unix.EIO // the runtime has said more
	}
	return err
}

func (a *alone) id() string { return idOf(a.dir) }

// idOf is the id of the container whose state directory that is.
func idOf(dir *statedir.Dir) string {
	path := dir.Path()
	return path[bytes.LastIndexByte([]byte(path), '/')+1:]
}

// errnoOf gives the errno for an event, 0 if all went well.
func errnoOf(err error) int32 {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.Is(err, process.ErrGone):
		return lifecycle.ESRCH
	case errors.As(err, &errno):
		return int32(errno)
	}
	return int32(unix.EIO)
}

// recordExit adds the end to the container's record. One that cannot be read will not
// get better: the journal has the end, too, and nobody is to wait for ever.
func (a *alone) recordExit(e lifecycle.Effect) error {
	r, err := a.dir.ReadRecord()
	if errors.Is(err, unix.ENOENT) {
		return nil // it is being deleted
	}
	if err != nil {
		a.call.warn("container " + a.id() + ": its end is not recorded: " + err.Error())
		return nil
	}
	r.Exit = statedir.Exit{
		Status: string(control.AppendStatus(nil, e.Status)),
		Reason: e.Reason.String(),
		At:     time.Now().UTC().Format(time.RFC3339Nano),
	}
	return a.dir.WriteRecord(r)
}

// exitStatus is what the kernel tells to who is not the parent: of a zombie to who
// might trace it, of one that was reaped where the kernel is recent and the pidfd
// was open before.
func (a *alone) exitStatus() lifecycle.Status {
	if a.pidfd < 0 {
		return lifecycle.Status{}
	}
	status, err := a.pidfd.ZombieStatus(a.container.Init.Pid)
	if err != nil && a.pidfd.AwaitReaped(reapTimeout) {
		status, err = a.pidfd.ExitInfo()
	}
	switch {
	case err != nil || !status.Known:
		return lifecycle.Status{}
	case status.Signal != 0:
		return lifecycle.Signaled(status.Signal)
	}
	return lifecycle.Exited(uint8(status.Code))
}

// reapTimeout is how long init's parent may take to reap a zombie that the kernel
// says nothing about.
const reapTimeout = time.Second

// wait gives up the lock until something happens that can bring the answer: init
// exits, the timer is due, or another call steps the machine.
func (a *alone) wait() error {
	var watch int
	for a.answer == nil {
		if watch == 0 {
			var err error
			if watch, err = watchDir(a.dir); err != nil {
				return err
			}
			defer unix.Close(watch)
			// Without, others tell of the end, who may not know how it was.
			_ = a.beginToWait()
			// What happened before the watch began is seen by one more round.
		} else {
			due := min(a.machine.Armed(), a.limit)
			if a.quiet != 0 {
				due = min(due, a.quiet)
			}
			if a.record != 0 {
				due = min(due, a.record)
			}
			if now() >= a.limit {
				return errors.New("it was not delivered for " + patience.String() + ": it waits for a start that does not end, or for a thaw")
			}
			if !a.hasExited() && a.killing.isTooLong(a.machine.State() == lifecycle.Killing) {
				return &undying{a.container.Init.Pid}
			}
			a.exit()
			if err := a.sleep(watch, due); err != nil {
				return err
			}
			err := a.enter()
			if err == errDeleted {
				a.answer = a.ended()
				return nil
			}
			if err != nil {
				return err
			}
		}
		if a.answer == nil {
			a.lookForAnswer()
		}
		if a.answer == nil && a.quiet != 0 && now() >= a.quiet {
			a.quiet = 0
			if end := a.machine.Deadline(); end != lifecycle.Never {
				a.call.sayHeld(a.id(), lifecycle.Duration(end-now()))
			}
		}
	}
	return nil
}

// sleep waits for init's end, a change in the directory, or the instant.
func (a *alone) sleep(watch int, due lifecycle.Instant) error {
	fds := []unix.PollFd{{Fd: int32(watch), Events: unix.POLLIN}, {Fd: int32(a.pidfd), Events: unix.POLLIN}}
	if a.isOverOrExited() || a.record != 0 {
		// Its end has been seen, and would be seen for ever. Who was to tell of it
		// may die before.
		fds = fds[:1]
		due = min(due, now().After(lifecycle.Second))
	}
	if a.machine.Starting() != 0 {
		due = min(due, now().After(startPause))
	}
	var timeout *unix.Timespec
	if due != lifecycle.Never {
		left := unix.NsecToTimespec(int64(max(0, due-now())))
		timeout = &left
	}
	if _, err := unix.Ppoll(fds, timeout, nil); err != nil && err != unix.EINTR {
		return err
	}
	drain(watch)
	return nil
}

func (a *alone) isOverOrExited() bool {
	return a.pidfd < 0 || a.isOver() || a.machine.State() == lifecycle.Draining
}

// lookForAnswer finds in the journal what another call has answered for the
// machine, and answers what nobody else will.
func (a *alone) lookForAnswer() {
	if a.orphaned && a.hasExited() {
		if e := a.ended(); e.Status.Kind != lifecycle.StatusUnknown || !a.awaitsRecord() {
			a.answer = e
		}
		return
	}
	if e, found := journal.FindReply(a.dir.FD(), a.self, a.asked); found {
		a.answer = &e
	}
}

// awaitsRecord tells whether the container's supervisor, or a successor, is to say how
// it ended: one that is stuck just now may be the only one who can know.
func (a *alone) awaitsRecord() bool {
	if !recovery.Exists(a.dir.FD()) {
		return false
	}
	if a.record == 0 {
		a.record = now().After(lifecycle.Duration(patience))
	}
	return now() < a.record
}

// ended is the answer to one who waited for the end, when the machine gives none
// any more.
func (a *alone) ended() *lifecycle.Effect {
	status := a.exitStatus()
	switch {
	case status.Kind != lifecycle.StatusUnknown || a.machine == nil:
	case a.machine.Exited():
		status = a.machine.Status()
	case a.beside != nil:
		status = a.beside.exitStatus()
	}
	if status.Kind == lifecycle.StatusUnknown {
		// A supervisor that has gone on meanwhile may have recorded it.
		if r, err := a.dir.ReadRecord(); err == nil {
			status, _ = control.ParseStatus(r.Exit.Status)
		}
	}
	return &lifecycle.Effect{Kind: lifecycle.Reply, Request: a.self, Outcome: lifecycle.Ended, Status: status}
}

// watchDir gives an inotify descriptor that becomes readable when a file of the
// directory changes, or the directory goes.
func watchDir(dir *statedir.Dir) (int, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return -1, err
	}
	const changes = unix.IN_MODIFY | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, "/proc/self/fd/"+strconv.Itoa(dir.FD()), changes); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func now() lifecycle.Instant { return hostclock.Now() }
