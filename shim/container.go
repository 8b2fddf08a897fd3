package shim

import (
	"errors"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

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
	isSupervised := inCharge(dir) == supervised
	if !isSupervised {
		if unix.Flock(dir.FD(), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return known{}, errUnknown // its create is under way
		}
		defer journal.Unlock(dir.FD())
	}
	program, err := c.program()
	if err != nil {
		return known{}, err
	}
	if err := c.adopt(dir, id, program, isSupervised); err != nil {
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
	if inCharge(dir) != unsupervised {
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
func (c *call) adopt(dir *statedir.Dir, id, program string, isSupervised bool) error {
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
	if !isSupervised && !dir.HasRecord() {
		if err := c.record(dir, id, container, status); err != nil {
			return err
		}
	}
	oci.AllowDirectStart(dir, container, c.spec)
	// Last: what needs the others looks for this one.
	return oci.WriteContainer(dir, container)
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
