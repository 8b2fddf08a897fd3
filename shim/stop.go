package shim

import (
	"errors"
	"time"

	"gracerun.io/runtime"
	"gracerun.io/runtime/bundle"
	"gracerun.io/signals"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
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
		return c.fail(errors.New("usage: gracerun stop [--timeout GRACE] [--signal SIGNAL] ID"))
	}
	ev := lifecycle.Event{Kind: lifecycle.StopRequest, Grace: lifecycle.Duration(control.OwnGrace)}
	if graceText != "" {
		grace, err := bundle.ParseGrace(graceText)
		if err != nil {
			return c.fail(errors.New("--timeout " + graceText + ": " + err.Error()))
		}
		ev.Grace = lifecycle.Duration(min(grace, time.Duration(lifecycle.Never)))
	}
	if signalText != "" {
		sig, err := signals.Parse(signalText)
		if err != nil {
			return c.fail(errors.New("--signal: " + err.Error()))
		}
		ev.Signal = sig
	}
	dir, err := c.open(args[0])
	if err != nil {
		return c.fail(errors.New("stop container " + args[0] + ": " + err.Error()))
	}
	reply, err := c.ask(dir, control.Request{Verb: control.Stop, Signal: ev.Signal, Grace: ev.Grace})
	if err == control.ErrNoSupervisor {
		reply, err = c.askAlone(dir, args[0], ev)
	}
	switch {
	case err != nil:
		return c.fail(errors.New("stop container " + args[0] + ": " + err.Error()))
	case reply.Answer == control.NotFound:
		return c.fail(errors.New("stop container " + args[0] + ": " + runtime.ErrNotExist.Error()))
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
