package monitor

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/attach"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/keeper"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/ownsignal"
	"gracerun.io/supervisor/program"
	"gracerun.io/supervisor/recovery"
)

// An upgrade is a recovery without a death: the same process executes the program
// that is now where its own was, and goes on as its own successor, with all the
// descriptors that a dead supervisor would have lost.

// Names of descriptors that only the same process passes on.
const (
	controlName = "control"
	keeperName  = "keeper"
	oomName     = "oom"
	attachName  = "attach"
	ctlName     = "ctl"
	winszName   = "winsz"
	exitsName   = "exits" // init's ExitWatch
)

// logName is a log that is a FIFO, for its reader's sake: the keeper has it too.
const logName = "log"

// oomVariable is the oom.events of the program before. init may have ended since,
// and the kernel has the end of a process in the root of each version 1 hierarchy.
const oomVariable = "_GRACEMON_OOM"

// callersVariable lists the connections of the control socket: number, process,
// request and granted start of each.
const callersVariable = "_GRACEMON_CALLERS"

// clientsVariable lists those who are attached: number of each, and whether it
// sets the pace, receives, sends.
const clientsVariable = "_GRACEMON_CLIENTS"

// inheritedVariable lists what the caller has left open for the container's sake.
const inheritedVariable = "_GRACEMON_INHERITED"

// upgradeAll is gracemon --upgrade.
func upgradeAll(where string) (status int) {
	return each(where, false, func(path string) error {
		dir, err := statedir.OpenPath(path)
		if err != nil {
			return err
		}
		defer dir.Close()
		conn, err := control.Dial(dir.FD())
		if err == control.ErrNoSupervisor {
			return nil // its successor will be of the new program
		}
		if err != nil {
			return err
		}
		defer conn.Close()
		reply, err := conn.Ask(control.Request{Verb: control.Upgrade, Grace: control.OwnGrace}, upgradePatience)
		switch {
		case err != nil:
			return err
		case reply.Answer != control.Done:
			return note("it goes on as it was: " + string(reply.Append(nil)))
		}
		return nil
	})
}

const upgradePatience = 30e9 // nanoseconds

// upgrade answers once the new program has taken over.
func (k *caller) upgrade() {
	c := k.s.c
	switch {
	case c.memo == nil:
		k.say(control.Reply{Answer: control.Refused, Text: "nothing of it is written down: nobody could go on"})
		return
	case c.machine.State() == lifecycle.Creating, c.create.ended:
		k.say(control.Reply{Answer: control.Refused, Text: "it is being created"})
		return
	case c.memo.OutputDone(), c.lastWords != nil, len(c.s.containers) != 1:
		k.say(control.Reply{Answer: control.Refused, Text: "it has ended"})
		return
	}
	if err := program.Check(c.s.program); err != nil {
		k.say(control.Reply{Answer: control.Failed, Errno: errnoOf(err), Text: "execute " + c.s.program + ": " + err.Error()})
		return
	}
	k.whenIdle(0)
}

// whenIdle waits until nothing is on its way to or from an attached client, and
// no output in this process alone, and then upgrades. A client that does not read
// keeps the container from it.
func (k *caller) whenIdle(tries int) {
	c := k.s.c
	switch {
	case !k.stays():
		return // whoever has asked is gone
	case c.clients.idle() && !c.streams.carry():
		// At the end of the turn the journal says it all.
		c.s.loop.Defer(func() {
			err := c.becomeNew(k)
			if !k.stays() {
				return
			}
			k.say(control.Reply{Answer: control.Failed, Errno: errnoOf(err), Text: "execute " + c.s.program + ": " + err.Error()})
		})
	case tries < 500:
		c.at(loop.Now().After(10*lifecycle.Millisecond), func() { k.whenIdle(tries + 1) })
	case c.streams.carry():
		k.say(control.Reply{Answer: control.Refused, Text: "output that its log has not had is in memory, since the state directory has no room"})
	default:
		k.say(control.Reply{Answer: control.Refused, Text: "an attached client does not read"})
	}
}

func (k *caller) stays() bool {
	for _, other := range k.s.callers {
		if other == k && k.verb == control.Upgrade {
			return true
		}
	}
	return false
}

func (k *clients) idle() bool {
	return (k.server == nil || k.server.Idle()) && (k.control == nil || k.control.Idle())
}

// attached are the clients that were handed over.
func (h *heritage) attached() (clients []attach.Handed) {
	for entry := range strings.SplitSeq(h.clients, ",") {
		if n, ok := numbersOf(entry, 4); ok {
			unix.CloseOnExec(n[0])
			clients = append(clients, attach.Handed{FD: n[0], Paces: n[1] != 0, Receives: n[2] != 0, Sends: n[3] != 0})
		}
	}
	return clients
}

// numbersOf reads so many numbers with slashes between them.
func numbersOf(entry string, count int) (n []int, ok bool) {
	for word := range strings.SplitSeq(entry, "/") {
		value, err := strconv.Atoi(word)
		if err != nil {
			return nil, false
		}
		n = append(n, value)
	}
	return n, len(n) == count
}

func slashed(n ...int) string {
	var b []byte
	for i, value := range n {
		if i > 0 {
			b = append(b, '/')
		}
		b = strconv.AppendInt(b, int64(value), 10)
	}
	return string(b)
}

// becomeNew does not return if it works.
func (c *Container) becomeNew(asked *caller) error {
	c.settle()
	origin, err := recovery.ReadOrigin(c.dir)
	if err != nil {
		return err
	}
	env, passed := c.passOn(asked)
	env = append(successorEnvironment(origin, c.dir.Path()), env...)
	return handOn(passed, func() error { return syscall.Exec(c.s.program, origin.Args, env) })
}

// passOn lists what this process has open and its next program is to have: in
// entries of the environment, and as numbers. asked is who waits for an upgrade.
func (c *Container) passOn(asked *caller, more ...held) (env []string, passed []int) {
	var kept []string
	pass := func(name string, fd int) {
		if fd > 0 {
			kept, passed = append(kept, name+"="+strconv.Itoa(fd)), append(passed, fd)
		}
	}
	if c.init.pid != 0 {
		pass(keeper.Init, int(c.init.pidfd))
	}
	if c.init.watch != nil {
		pass(exitsName, c.init.watch.FD())
	}
	if c.o.Terminal {
		pass(keeper.Terminal, c.streams.ours[1])
	} else {
		pass(keeper.Stdout, c.streams.ours[1])
		if c.clients.server != nil {
			pass(keeper.Stdin, c.clients.server.Input())
		}
	}
	pass(keeper.Stderr, c.streams.ours[2])
	pass(oomName, c.oom.fd)
	pass(keeper.Caught, c.s.signals.FD())
	pass(controlName, c.server.fd)
	pass(keeperName, c.deposit.conn)
	for _, h := range more {
		pass(h.name, h.fd)
	}
	var callers []string
	for _, k := range c.server.callers {
		verb, request := k.verb, k.request
		if k == asked {
			verb, request = control.Upgrade, 0
		}
		passed = append(passed, k.fd)
		callers = append(callers, slashed(k.fd, k.pid, int(verb), int(request), int(k.granted)))
	}
	var clients []string
	if c.clients.server != nil {
		listening, attached := c.clients.server.HandOver()
		pass(attachName, listening)
		for _, a := range attached {
			passed = append(passed, a.FD)
			clients = append(clients, slashed(a.FD, bitOf(a.Paces), bitOf(a.Receives), bitOf(a.Sends)))
		}
	}
	if c.clients.control != nil {
		fds := c.clients.control.HandOver()
		pass(ctlName, fds[0])
		pass(winszName, fds[1])
	}
	return []string{
		keeper.KeptVariable + "=" + strings.Join(kept, ","), callersVariable + "=" + strings.Join(callers, ","),
		clientsVariable + "=" + strings.Join(clients, ","), inheritedVariable + "=" + slashed(c.s.leftOpen()...),
		oomVariable + "=" + c.oom.events,
	}, passed
}

// held is a descriptor with its name.
type held struct {
	name string
	fd   int
}

// handOn executes another program, which has these descriptors, and takes the
// signals that come meanwhile.
func handOn(passed []int, execute func() error) error {
	for _, fd := range passed {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
	}
	err := ownsignal.Held(execute, caughtSignals[:]...)
	for _, fd := range passed {
		unix.CloseOnExec(fd)
	}
	return err
}

// resumeCallers takes the connections of the program before.
func (s *server) resumeCallers(list string) {
	for entry := range strings.SplitSeq(list, ",") {
		n, ok := numbersOf(entry, 5)
		if !ok {
			continue
		}
		unix.CloseOnExec(n[0])
		k := &caller{s: s, fd: n[0], pid: n[1], verb: control.Verb(n[2]), request: lifecycle.RequestID(n[3]), granted: lifecycle.RequestID(n[4])}
		if err := s.watch(k); err == nil && k.verb == control.Upgrade {
			k.done()
		}
	}
}
