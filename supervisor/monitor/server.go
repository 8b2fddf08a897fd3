package monitor

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/recovery"
)

// server answers on the control socket.
type server struct {
	c       *Container
	fd      int // 0: none
	callers []*caller
	idle    []*caller  // connections that have ended, for those to come
	packet  [1024]byte // a request or a reply
	peer    control.Peer
	parser  control.Parser
	next    lifecycle.RequestID

	// Of a predecessor's callers: until when those who wait for a reply may come
	// back for it, and whether the one who was given leave to start still runs.
	absent  loop.Timer
	pause   loop.Timer // before callers are accepted again, for whom there was no descriptor
	starter bool
}

// caller is a connection. It has one request open at a time.
type caller struct {
	s       *server
	fd      int
	pid     int                 // of its process, as this one sees it; 0: not at all
	request lifecycle.RequestID // 0: none that waits for the machine
	verb    control.Verb        // of the request
	granted lifecycle.RequestID // a start that has not ended
}

func (s *server) listen(c *Container) error {
	s.c, s.next = c, lifecycle.FirstRequest
	fd, err := control.Listen(c.dir.FD())
	if err != nil {
		return err
	}
	s.fd = fd
	return c.s.loop.Add(fd, loop.Readable, loop.HandlerFunc(s.accept))
}

// accept takes a connection of the same user, or of root.
func (s *server) accept(uint32) {
	fd, err := control.Accept(s.fd)
	switch err {
	case nil:
	case unix.EAGAIN, unix.EINTR, unix.ECONNABORTED:
		return // it has gone again
	default:
		// EMFILE and its like: callers wait in the backlog. Without a pause epoll
		// would report them for ever.
		l := s.c.s.loop
		l.Remove(s.fd)
		s.pause.Fire = func() { _ = l.Add(s.fd, loop.Readable, loop.HandlerFunc(s.accept)) }
		l.Arm(&s.pause, loop.Now().After(acceptPause))
		return
	}
	peer := &s.peer
	if err := peer.Ask(fd); err != nil || int(peer.Uid) != unix.Geteuid() && peer.Uid != 0 {
		unix.Close(fd)
		return
	}
	var k *caller
	if last := len(s.idle) - 1; last >= 0 {
		k, s.idle = s.idle[last], s.idle[:last]
	} else {
		k = new(caller)
	}
	*k = caller{s: s, fd: fd, pid: int(peer.Pid)}
	_ = s.watch(k)
}

const acceptPause = 100 * lifecycle.Millisecond

// watch serves a caller from now on.
func (s *server) watch(k *caller) error {
	err := s.c.s.loop.Add(k.fd, loop.Readable, k)
	if err != nil {
		unix.Close(k.fd)
		return err
	}
	s.callers = append(s.callers, k)
	return nil
}

// Ready reads a request, or the end of the caller.
func (k *caller) Ready(uint32) {
	if c := k.s.c; c.memo.Beside() {
		nested := c.beginSteps()
		c.join()
		c.endSteps(nested)
	}
	packet := k.s.packet[:]
	n, err := unix.Read(k.fd, packet)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
	case err != nil || n == 0:
		k.hangUp()
	case k.request != 0:
		k.hangUp() // it has not waited for the reply
	default:
		// Nothing of the text is kept: a request is numbers, and its caller a copy.
		request, err := k.s.parser.Parse(unsafe.String(&packet[0], n))
		if err != nil {
			k.say(control.Reply{Answer: control.Bad, Text: err.Error()})
			return
		}
		k.take(request)
	}
}

// take does what the caller wants, or has the machine do it.
func (k *caller) take(r control.Request) {
	c := k.s.c
	k.verb = r.Verb
	if r.Force || r.Verb == control.Signal && r.Signal == signals.KILL && c.machine.State() != lifecycle.Stopping {
		c.liftFaults()
	}
	if r.Again && k.resume(r) {
		return
	}
	switch r.Verb {
	case control.Signal:
		k.ask(r, lifecycle.Event{Kind: lifecycle.SignalRequest, Signal: r.Signal, All: r.All, Force: r.Force})
	case control.Stop:
		k.ask(r, lifecycle.Event{Kind: lifecycle.StopRequest, Signal: r.Signal, Grace: r.Grace})
	case control.Start:
		k.ask(r, lifecycle.Event{Kind: lifecycle.StartRequest})
	case control.StartDone:
		k.granted, k.s.starter = 0, false
		ev := lifecycle.Event{Kind: lifecycle.StartDone}
		if r.Status != 0 {
			ev.Errno = int32(unix.EIO)
		}
		c.startEnded(ev)
		k.done()
	case control.PauseDone, control.ResumeDone:
		c.tell(lifecycle.Event{Kind: lifecycle.Freezer, Frozen: r.Verb == control.PauseDone})
		k.done()
	case control.State:
		k.say(c.currentState())
	case control.Keep:
		c.keepState(true)
		k.done()
	case control.Delete:
		k.delete(r)
	case control.Upgrade:
		k.upgrade()
	}
}

// keepState says whether the state directory is the runtime's to remove.
func (c *Container) keepState(keep bool) {
	c.keep = keep
	c.memo.SetKeep(keep)
}

// delete gives leave to delete a container that has ended. Force ends it, and one
// that was never started has nothing to lose.
func (k *caller) delete(r control.Request) {
	c := k.s.c
	c.lookForStart()
	started := c.hasStarted() || c.machine.Starting() != 0
	switch state := c.machine.State(); {
	case state == lifecycle.Failed:
		k.say(control.Reply{Answer: control.NotFound})
	case state == lifecycle.Stopped, state == lifecycle.Draining && c.exits.failed:
		k.say(control.Reply{Answer: control.Granted})
	case r.Force, state == lifecycle.Draining, state == lifecycle.Created && !started:
		k.ask(r, lifecycle.Event{Kind: lifecycle.StopRequest, Grace: 0})
	default:
		k.say(control.Reply{Answer: control.Refused, Text: "it is " + c.currentState().Status})
	}
}

// ask tells the machine of a request. The reply comes as an effect.
func (k *caller) ask(r control.Request, ev lifecycle.Event) {
	k.request = k.s.next
	k.s.next++
	ev.Request = k.request
	if ev.By = r.By; ev.By == nil {
		ev.By = k.s.parser.CallerOf(k.pid) // it asks for itself
	}
	k.s.c.memo.Asked(k.request, k.pid, what(r))
	k.s.c.tell(ev)
}

// what tells requests of one process apart: it has one open at a time.
func what(r control.Request) uint64 { return uint64(r.Verb)<<16 | uint64(r.Signal) }

// resume takes a request up again that was made of a predecessor. It reports
// false if that never heard of it.
func (k *caller) resume(r control.Request) bool {
	c := k.s.c
	id, answer, told := c.memo.LastRequest(k.pid, what(r))
	switch {
	case k.pid == 0 || id == 0:
		return false
	case told && answer.Outcome == lifecycle.Granted && c.machine.Starting() != id:
		return false
	case told:
		k.request = id
		k.s.reply(lifecycle.Effect{Kind: lifecycle.Reply, Request: id, Outcome: answer.Outcome, Status: answer.Status, Errno: answer.Errno})
		return true
	}
	for _, waits := range c.machine.Callers() {
		if waits == id {
			k.request = id
			return true
		}
	}
	return false
}

func (k *caller) done() { k.say(control.Reply{Answer: control.Done}) }

// say sends a reply. A caller who does not take it is gone.
func (k *caller) say(r control.Reply) {
	packet := r.Append(k.s.packet[:0])
	for {
		err := unix.Send(k.fd, packet, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			k.hangUp()
		}
		return
	}
}

// hangUp ends the connection. What was asked for goes on; a start that has not
// been said to have ended is looked after by ourselves.
func (k *caller) hangUp() {
	s := k.s
	for i := range s.callers {
		if s.callers[i] == k {
			s.callers = append(s.callers[:i], s.callers[i+1:]...)
			break
		}
	}
	s.c.s.loop.Remove(k.fd)
	unix.Close(k.fd)
	if k.request != 0 {
		s.c.tell(lifecycle.Event{Kind: lifecycle.Abandoned, Request: k.request})
	}
	if k.granted != 0 {
		s.c.startEnded(lifecycle.Event{Kind: lifecycle.Abandoned, Request: k.granted})
	}
	*k = caller{s: s}
	s.idle = append(s.idle, k)
}

// reply passes on what the machine says to a request.
func (s *server) reply(e lifecycle.Effect) {
	c := s.c
	c.memo.Told(e.Request, recovery.Answer{Outcome: e.Outcome, Status: e.Status, Errno: e.Errno})
	for _, k := range s.callers {
		if k.request != e.Request {
			continue
		}
		k.request = 0
		if e.Outcome == lifecycle.Granted {
			k.granted = e.Request
			if id, err := process.Identify(k.pid); err == nil {
				c.memo.SetStarter(e.Request, id)
			}
		}
		k.say(k.translate(e))
		return
	}
}

// translate adds to the reply what depends on the request.
func (k *caller) translate(e lifecycle.Effect) control.Reply {
	r := control.ReplyOf(e)
	switch {
	case e.Outcome == lifecycle.Ended && k.verb == control.Delete:
		r.Answer = control.Granted
	case e.Outcome == lifecycle.Refused:
		r.Text = k.s.c.whyNotStart()
	}
	return r
}

func (c *Container) whyNotStart() string {
	switch {
	case c.init.pid == 0:
		return "it is not created yet"
	case c.machine.StopSignal() != 0:
		return "it is being stopped"
	case c.hasStarted():
		return "it is running"
	}
	return "it is being started"
}

// starting reports whether a caller has leave to start the container and has
// not said yet what became of it.
func (s *server) starting() bool {
	if s.starter {
		return true
	}
	for _, k := range s.callers {
		if k.granted != 0 {
			return true
		}
	}
	return false
}

// currentState is the reply to State.
func (c *Container) currentState() control.Reply {
	c.lookAtFreezer()
	c.lookForStart()
	m := c.machine
	state := m.State()
	if state == lifecycle.Failed {
		return control.Reply{Answer: control.NotFound}
	}
	r := control.Reply{Answer: control.Current, Pid: c.init.pid, Phase: state.String(), Stop: m.StopSignal()}
	switch {
	case c.init.pid != 0 && m.Frozen():
		r.Status = "paused"
	case state == lifecycle.Draining || state == lifecycle.Stopped:
		r.Status, r.Exit, r.Stop = "stopped", m.Status(), 0
	case c.init.pid == 0:
		r.Status = "creating"
	case c.hasStarted():
		r.Status = "running"
	default:
		r.Status = "created"
	}
	if at := m.Deadline(); at != lifecycle.Never && r.Stop != 0 {
		r.Left = lifecycle.Duration(max(0, at-loop.Now()))
	}
	return r
}

// close ends all connections and the socket.
func (s *server) close() {
	for _, k := range s.callers {
		s.c.s.loop.Remove(k.fd)
		unix.Close(k.fd)
	}
	s.callers = nil
	if s.fd > 0 {
		s.c.s.loop.Arm(&s.pause, lifecycle.Never)
		s.c.s.loop.Remove(s.fd)
		unix.Close(s.fd)
		s.fd = 0
	}
}
