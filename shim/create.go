package shim

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/scope"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/recovery"
)

// create is `create [option...] ID`.
func (c *call) create() int {
	n, ok := c.scanCreation()
	if !ok {
		return c.become(c.argv)
	}
	program, err := c.program()
	if err != nil {
		return c.fail(err)
	}
	dir, config, supervised, status := c.place(n)
	if dir == nil {
		return status
	}
	return c.make(n, dir, program, supervised, c.prepareScope(dir, n.id, program, config, supervised))
}

// make runs the wrapped runtime's create, or its detached run, and takes down what
// it has made.
func (c *call) make(n creation, dir *statedir.Dir, program string, supervised bool, unit *scope.Scope) int {
	var begin func()
	if !supervised {
		begin = func() { c.beginJournal(dir) }
	}
	status, err := c.through("runtime.create", 0, func() (int, error) { return c.spawnWhile(c.argv[1:], begin) })
	created := err == nil && status == 0
	if created && !c.verifyScope(n.id, program, unit) {
		created, status = false, 1
		c.end(n.id, "delete", "--force", n.id)
	}
	if !created {
		c.removeScope(unit)
		if !supervised {
			_ = dir.Remove()
		}
		if err != nil {
			return c.fail(errors.New("create container " + n.id + ": " + err.Error()))
		}
		return status
	}
	switch err := c.adopt(dir, n.id, program, supervised); {
	case err == oci.ErrUnknown:
		c.warn("gracerun does not know where " + program + " keeps its state: it is run for each signal")
	case err != nil:
		// The container is there and its runtime can do all with it.
		c.warn("keep what is known of container " + n.id + ": " + err.Error())
	}
	return status
}

// end has the wrapped runtime end a container that must not be.
func (c *call) end(id string, args ...string) {
	if _, err := c.spawn(append(c.globals[:len(c.globals):len(c.globals)], args...)); err != nil {
		c.warn(args[0] + " container " + id + ": " + err.Error())
	}
}

// place makes the state directory of a container that is to be created, locked,
// or finds the one that its supervisor has made. dir is nil if the call has
// ended with that status.
func (c *call) place(n creation) (dir *statedir.Dir, config *bundle.Config, supervised bool, status int) {
	var err error
	if err := statedir.ValidateID(n.id); err != nil {
		return nil, nil, false, c.fail(c.inItsWords(n.id, err))
	}
	config, err = c.load(n)
	if err != nil {
		return nil, nil, false, c.leave(n, err)
	}
	c.spec = config
	_, warnings, err := c.settings().StopOf(config.Annotations)
	if c.wrong != nil {
		err = c.wrong
	}
	if err != nil {
		return nil, nil, false, c.fail(errors.New("create container " + n.id + ": " + err.Error()))
	}
	for _, w := range warnings {
		c.warn("container " + n.id + ": " + w)
	}
	for range 3 {
		dir, err = statedir.Create(c.root, n.id)
		if err == nil {
			if err = journal.Lock(dir.FD()); err == nil {
				return dir, config, false, 0
			}
			break
		}
		if err != runtime.ErrExist {
			break
		}
		if dir, err = c.open(n.id); err != nil {
			continue // just removed
		}
		if c.isCreatedBySupervisor(dir) {
			return dir, config, true, 0
		}
		if isAbandoned(dir) && c.supervisorIsDead(dir) {
			// What there is of it ends as its supervisor would have ended it. It may
			// be this very call's own supervisor that has just died.
			dir.Close()
			err = runtime.ErrExist
			continue
		}
		if !c.isStale(dir, n.id) {
			return nil, nil, false, c.fail(c.inItsWords(n.id, runtime.ErrExist))
		}
		// Nobody works in it and the runtime knows of no such container: it was
		// left by a call that died, or the container was deleted behind our back.
		c.removeScope(scopeOf(dir))
		if err = dir.Remove(); err != nil {
			break
		}
		dir.Close()
		err = runtime.ErrExist
	}
	switch {
	case err == runtime.ErrExist:
		err = c.inItsWords(n.id, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EROFS):
		return nil, nil, false, c.leave(n, err)
	}
	return nil, nil, false, c.fail(err)
}

// load reads the container's configuration as the wrapped runtime does.
func (c *call) load(n creation) (*bundle.Config, error) {
	program, err := c.program()
	if err != nil {
		return nil, err
	}
	return n.load(oci.RulesOf(program))
}

// leave leaves a container to the wrapped runtime alone, since its configuration
// cannot be read, or there is no room for its state. What is wrong with a configuration
// that one says in its own words; and if it takes it all the same, it has the container
// to itself.
func (c *call) leave(n creation, why error) int {
	status, err := c.spawn(c.argv[1:])
	if err != nil {
		return c.fail(err)
	}
	if status == 0 {
		c.warn("container " + n.id + ": " + why.Error() + ": the runtime has taken it, and gracerun does not look after the container")
	}
	return status
}

// inItsWords gives why a create is refused, or a run, as the wrapped runtime says it.
func (c *call) inItsWords(id string, err error) error {
	program, e := c.program()
	switch {
	case e != nil:
		return err
	case oci.StyleOf(program) == oci.Runc:
		name := "runc"
		if strings.HasSuffix(program, "/"+oci.Native) {
			name = oci.Native
		}
		return errors.New(name + " " + c.command + " failed: " + err.Error())
	case err == runtime.ErrExist:
		return errors.New("container `" + id + "` already exists")
	}
	return err
}

// isAbandoned tells whether a supervisor has died that somebody can go on for.
func isAbandoned(dir *statedir.Dir) bool {
	if !recovery.Exists(dir.FD()) {
		return false
	}
	conn, err := connect(dir)
	if err == nil {
		conn.Close()
	}
	return err == control.ErrNoSupervisor
}

// isCreatedBySupervisor tells whether a supervisor has made the directory and
// this very call is its create: it is among our ancestors. It is told that the
// directory is ours to remove, at delete.
func (c *call) isCreatedBySupervisor(dir *statedir.Dir) bool {
	conn, err := connect(dir)
	if err != nil {
		return false
	}
	defer conn.Close()
	pid, err := conn.Supervisor()
	if err != nil || pid != 0 && !isAncestor(pid) {
		return false
	}
	reply, err := conn.Ask(control.Request{Verb: control.State, Grace: control.OwnGrace}, patience)
	if err != nil || reply.Answer != control.Current || reply.Status != "creating" {
		return false
	}
	reply, err = conn.Ask(control.Request{Verb: control.Keep, Grace: control.OwnGrace}, patience)
	return err == nil && reply.Answer == control.Done
}

// isAncestor looks up the line of parents; a wrapper script or two may stand
// between a supervisor and its runtime.
func isAncestor(pid int) bool {
	for parent, steps := unix.Getppid(), 0; parent > 1 && steps < 8; steps++ {
		if parent == pid {
			return true
		}
		text, err := readFile("/proc/" + strconv.Itoa(parent) + "/stat")
		if err != nil {
			return false
		}
		if parent, err = parentOf(text); err != nil {
			return false
		}
	}
	return false
}

// isStale tells whether the directory is of no use to anybody. If it is, it is
// locked.
func (c *call) isStale(dir *statedir.Dir, id string) bool {
	if conn, err := connect(dir); err != control.ErrNoSupervisor {
		if err == nil {
			conn.Close()
		}
		return false
	}
	// A create may be under way, which is to be waited for to know what becomes of it;
	// or somebody removes what is left, file by file, and takes a moment.
	runHasEnded, limit := endOfRun(dir), underWay
	if runHasEnded {
		limit = patience
	}
	if lockWithin(dir.FD(), limit) != nil {
		return false
	}
	if isRemoved(dir) {
		return true
	}
	if isLocked(dir, deleteLock) {
		return false // the runtime may have forgotten it already, and runs its hooks
	}
	if container, err := oci.ReadContainer(dir); err == nil {
		return !container.Known()
	}
	if !runHasEnded && !isSettled(dir) && !dir.HasRecord() {
		return false // perhaps a supervisor has just made it
	}
	program, err := c.program()
	if err != nil {
		return false
	}
	where, err := c.runtimeDir(program, id)
	return err == nil && !oci.Has(where)
}

// underWay is how long a create waits for the end of another of the same id.
const underWay = 2 * time.Second

// settling is how long a state directory may be without a record and a socket
// before its maker is taken for dead.
const settling = 10 * time.Second

// isSettled tells whether nobody has put anything into the directory, or taken
// anything out of it, for so long.
func isSettled(dir *statedir.Dir) bool {
	var st unix.Stat_t
	return unix.Fstat(dir.FD(), &st) == nil && time.Since(time.Unix(st.Mtim.Unix())) >= settling
}

// runtimeDir is where the wrapped runtime keeps a container.
func (c *call) runtimeDir(program, id string) (string, error) {
	return oci.Directory(program, c.root, id)
}

// container gives what is kept of the wrapped runtime's container.
func (c *call) container(dir *statedir.Dir, id string) (*oci.Container, error) {
	k, err := c.find(dir, id)
	if err != nil {
		return nil, err
	}
	k.close()
	return k.Container, nil
}

// known is a container of the wrapped runtime, and its init.
type known struct {
	*oci.Container
	init process.Pidfd // -1 if it is gone, or cannot be told
	err  error         // why it cannot
}

func (k *known) open() {
	k.init, k.err = process.OpenVerified(k.Init)
	if errors.Is(k.err, process.ErrGone) || errors.Is(k.err, process.ErrReused) {
		k.err = nil
	}
}

func (k *known) close() {
	if k.init >= 0 {
		k.init.Close()
	}
}

// hasExited tells whether init has, reaped or not.
func (k *known) hasExited() (bool, error) {
	if k.init < 0 {
		return k.err == nil, k.err
	}
	return k.init.Exited()
}

// find gives what is kept of the wrapped runtime's container. A create that died,
// or one that a supervisor made with another runtime in mind, left nothing: then
// it is made up for. The error is errUnknown if there is nothing to know.
func (c *call) find(dir *statedir.Dir, id string) (k known, err error) {
	if k.Container, err = oci.ReadContainer(dir); err == nil {
		k.open()
		if k.isSucceeded() && discard(dir) {
			k.close()
			return known{}, errUnknown
		}
		return k, nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return known{}, err
	}
	supervised := true
	if conn, err := connect(dir); err == nil {
		conn.Close()
	} else {
		supervised = false
		if unix.Flock(dir.FD(), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return known{}, errUnknown // its create is under way
		}
		defer journal.Unlock(dir.FD())
	}
	program, err := c.program()
	if err != nil {
		return known{}, err
	}
	if err := c.adopt(dir, id, program, supervised); err != nil {
		return known{}, errUnknown
	}
	if k.Container, err = oci.ReadContainer(dir); err != nil {
		return known{}, err
	}
	k.open()
	return k, nil
}

// isSucceeded tells whether the runtime has another container of that id by now:
// this one was deleted and that one made without gracerun. What is known of the
// dead one's init must not be said of the living one.
func (k *known) isSucceeded() bool {
	if exited, err := k.hasExited(); err != nil || !exited {
		return false
	}
	pid, start, err := oci.ReadInit(k.Dir)
	if err != nil {
		return false
	}
	return pid != k.Init.Pid || start != 0 && k.Init.StartTime != 0 && start != k.Init.StartTime
}

// discard takes away the state directory of a container that is no more. One that
// has a supervisor, or had one, is left to it.
func discard(dir *statedir.Dir) bool {
	if unix.Faccessat(dir.FD(), control.Name, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) != unix.ENOENT || recovery.Exists(dir.FD()) {
		return false
	}
	if journal.Lock(dir.FD()) != nil {
		return false
	}
	defer journal.Unlock(dir.FD())
	return dir.Remove() == nil
}

// errUnknown: gracerun knows nothing of the container; the wrapped runtime may.
var errUnknown = errors.New("nothing is known of the container")

// adopt takes down what the wrapped runtime says of a container that it has
// created. What a supervisor writes itself is left to it.
func (c *call) adopt(dir *statedir.Dir, id, program string, supervised bool) error {
	where, err := c.runtimeDir(program, id)
	if err != nil {
		return err
	}
	status, err := oci.ReadStatus(where)
	if err != nil {
		return err
	}
	container, err := oci.NewContainer(program, where, id, status)
	if err != nil {
		return err
	}
	if !supervised && !dir.HasRecord() {
		if err := c.record(dir, id, container, status); err != nil {
			return err
		}
	}
	oci.AllowDirectStart(dir, container, c.spec)
	// Last: what needs the others looks for this one.
	return oci.WriteContainer(dir, container)
}

// beginJournal begins the journal of a container that is being created, by what
// its annotations are as far as is known before. Should that fail, it is tried
// again by record, which says so.
func (c *call) beginJournal(dir *statedir.Dir) {
	stop, _, err := c.settings().StopOf(c.spec.Annotations)
	if err == nil {
		c.journal, _ = journal.Create(dir.FD(), stop.Machine())
	}
}

// record begins the journal, unless that was done, and the record of a container
// without a supervisor.
func (c *call) record(dir *statedir.Dir, id string, container *oci.Container, status *oci.Status) error {
	stop, _, err := c.settings().StopOf(status.Annotations)
	if err != nil {
		return err
	}
	machine := stop.Machine()
	w := c.journal
	if w == nil || w.Config() != machine {
		if w, err = journal.Create(dir.FD(), machine); err != nil {
			return err
		}
	}
	defer w.Close()
	m := lifecycle.New(machine)
	if _, err := w.Step(m, now(), lifecycle.Event{Kind: lifecycle.CreateDone}); err != nil {
		return err
	}
	r := &statedir.Record{
		ID: id, Bundle: status.Bundle, Rootfs: status.Rootfs, OCIVersion: status.OCIVersion,
		Created: status.Created, CgroupsPath: status.CgroupsPath,
		Runtime: container.Program, RuntimeArgs: c.globals, RuntimeRoot: c.root,
		Init:       container.Init.String(),
		StopSignal: stop.Signal, Grace: stop.Grace, Policy: stop.Policy.Known().String(),
		Annotations: status.Annotations,
	}
	config := c.spec
	if config == nil { // it is adopted late
		config, _ = bundle.Load(status.Bundle, oci.RulesOf(container.Program))
	}
	if config != nil {
		r.Terminal = config.Terminal
	}
	return dir.WriteRecord(r)
}

// parentOf reads the number of the parent from /proc/PID/stat: the second field
// after the name, which ends at the last parenthesis (proc(5)).
func parentOf(stat []byte) (int, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, errors.New("not in the format of /proc/PID/stat")
	}
	return strconv.Atoi(string(fields[1]))
}
