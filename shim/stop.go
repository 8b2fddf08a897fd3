package shim

import (
	"errors"
	"time"

	"gracerun.io/runtime"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/settings"
)

// stop is `stop [--timeout GRACE] [--signal SIGNAL] ID`: one call that owns the
// whole stop. It prints how the container ended ("code=0", "signal=9", "unknown")
// and exits with the status that a shell would give to such an end, or 255 where
// nobody knows it.
func (c *call) stop() int {
	var graceText, signalText string
	args, ok := c.scan([]flag{
		{name: "timeout", short: "t", takesValue: true, text: &graceText},
		{name: "signal", short: "s", takesValue: true, text: &signalText},
	})
	if !ok || len(args) != 1 {
		return c.misused()
	}
	ev := lifecycle.Event{Kind: lifecycle.StopRequest, Grace: lifecycle.Duration(control.OwnGrace)}
	ev.By = c.caller()
	if graceText != "" {
		grace, err := settings.ParseGrace(graceText)
		if err != nil {
			return c.fail(errors.New("stop container " + args[0] + ": --timeout " + graceText + ": " + err.Error()))
		}
		ev.Grace = lifecycle.Duration(min(grace, time.Duration(lifecycle.Never)))
	}
	if signalText != "" {
		sig, err := signals.Parse(signalText)
		if err != nil {
			return c.fail(errors.New("stop container " + args[0] + ": --signal: " + err.Error()))
		}
		ev.Signal = sig
	}
	reply, err := c.stopAndWait(args[0], ev)
	if err == nil && reply.Answer == control.NotFound {
		err = runtime.ErrNotExist
	}
	switch {
	case err == runtime.ErrNotExist:
		return c.fail(errors.New("stop container " + args[0] + ": " + err.Error() + elsewhere(args[0])))
	case err != nil:
		return c.fail(errors.New("stop container " + args[0] + ": " + err.Error()))
	case reply.Answer != control.Ended && reply.Answer != control.NotRunning:
		return c.fail(errors.New("stop container " + args[0] + ": " + explain(reply)))
	}
	write(1, append(control.AppendStatus(nil, reply.Exit), '\n'))
	switch reply.Exit.Kind {
	case lifecycle.StatusCode:
		return int(reply.Exit.Value)
	case lifecycle.StatusSignal:
		return 128 + int(reply.Exit.Value)
	}
	return 255
}

// elsewhere names the roots under which there is a container of that id, for who has
// given another one, or none.
func elsewhere(id string) string {
	base, err := statedir.Base()
	if err != nil {
		return ""
	}
	all, err := history.List(base)
	if err != nil {
		return ""
	}
	text := ""
	for i := range all {
		if k := &all[i]; k.ID == id && !k.Gone && k.Record != nil {
			root := "without --root"
			if k.Record.RuntimeRoot != "" {
				root = "with --root " + k.Record.RuntimeRoot
			}
			text += "; there is one " + root
		}
	}
	return text
}

// stopAndWait stops the container by way of its supervisor or alone, and gives the
// reply. Of a container that is being made or taken away nothing may be known for
// a moment: it is asked for again until it is there, or not.
func (c *call) stopAndWait(id string, ev lifecycle.Event) (reply control.Reply, err error) {
	for deadline := time.Now().Add(settling); time.Now().Before(deadline); time.Sleep(pause) {
		var dir *statedir.Dir
		adopted := false
		if dir, err = c.open(id); err == runtime.ErrNotExist {
			dir, err = c.adoptStranger(id)
			adopted = err == nil
		}
		if err == errUnknown {
			continue
		}
		if err != nil {
			return reply, err
		}
		reply, err = c.request(dir, id, ev, "it is stopped without it")
		if adopted {
			// Whoever made it will delete it without us.
			if journal.Lock(dir.FD()) == nil {
				_ = c.retire(dir)
			}
		}
		if err == errUnknown {
			switch lockWithin(dir.FD(), patience) {
			case nil:
				journal.Unlock(dir.FD())
			case errBusy:
				err = hasNotEnded("its create")
			}
		}
		again := err == errUnknown && !isSettled(dir)
		dir.Close()
		if !again {
			break
		}
	}
	var bad *unusable
	switch {
	case errors.As(err, &bad):
		err = errors.New(bad.Error() + ": `gracerun kill` leaves it to the runtime")
	case err == errUnknown && c.isIncomplete(id):
		err = errors.New("what gracerun has to know of it is not there (no room when it was created, or a runtime that is not known): " +
			"`gracerun kill` leaves it to the runtime")
	case err == errUnknown:
		err = runtime.ErrNotExist
	}
	return reply, err
}

// isIncomplete tells whether there is a container, but not all that is to be known
// of it.
func (c *call) isIncomplete(id string) bool {
	dir, err := c.open(id)
	if err != nil {
		return false
	}
	defer dir.Close()
	return c.isKnown(dir, id)
}

// pause is how long somebody else is given for the next thing he does.
const pause = 5 * time.Millisecond

// adoptStranger makes a state directory for a container of the wrapped runtime
// that was made without gracerun: for as long as it is stopped it has a machine,
// which others who signal it by way of gracerun find. The error is errUnknown if
// somebody else has just made one.
func (c *call) adoptStranger(id string) (*statedir.Dir, error) {
	program, err := c.program()
	if err != nil {
		return nil, err
	}
	where, err := c.runtimeDir(program, id)
	if err != nil {
		return nil, err
	}
	if !oci.Has(where) {
		return nil, runtime.ErrNotExist
	}
	dir, err := statedir.Create(c.root, id)
	if err == runtime.ErrExist {
		return nil, errUnknown
	}
	if err != nil {
		return nil, err
	}
	if err = journal.Lock(dir.FD()); err == nil {
		err = c.adopt(dir, id, program, false)
		if err != nil {
			_ = dir.Remove()
		}
		journal.Unlock(dir.FD())
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}
