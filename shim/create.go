package shim

import (
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/scope"
	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/journal"
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
	dir, config, isSupervised, status := c.place(n)
	if dir == nil {
		return status
	}
	return c.make(n, dir, program, isSupervised, c.prepareScope(dir, n.id, program, config, isSupervised))
}

// make runs the wrapped runtime's create, or its detached run, and takes down what
// it has made.
func (c *call) make(n creation, dir *statedir.Dir, program string, isSupervised bool, unit *scope.Scope) int {
	var begin func()
	if !isSupervised {
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
		if !isSupervised {
			_ = dir.Remove()
		}
		if err != nil {
			return c.fail(errors.New("create container " + n.id + ": " + err.Error()))
		}
		return status
	}
	switch err := c.adopt(dir, n.id, program, isSupervised); {
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
func (c *call) place(n creation) (dir *statedir.Dir, config *bundle.Config, isSupervised bool, status int) {
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
		if inCharge(dir) == orphaned && c.supervisorIsDead(dir) {
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

// isStale tells whether the directory is of no use to anybody. If it is, it is
// locked.
func (c *call) isStale(dir *statedir.Dir, id string) bool {
	if inCharge(dir) == supervised {
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

// beginJournal begins the journal of a container that is being created, by what
// its annotations are as far as is known before. Should that fail, it is tried
// again by record, which says so.
func (c *call) beginJournal(dir *statedir.Dir) {
	stop, _, err := c.settings().StopOf(c.spec.Annotations)
	if err == nil {
		c.journal, _ = journal.Create(dir.FD(), stop.Machine())
	}
}
