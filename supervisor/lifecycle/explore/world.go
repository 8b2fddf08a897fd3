// Package explore puts a lifecycle machine into a world that does to it
// whatever a real one can: requests at any time, exits at any time, deliveries
// that are slow, fail or hang, a runtime that hangs, a timer that is early or
// late, a freezer, the OOM killer, a grandchild that holds the output open, and
// the supervisor's own death.
//
// Exhaust visits every state that the moves of such a world lead to, Simulate
// walks it at random by a seed. Both check each step against the invariants.
package explore

import (
	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/lifecycle/internal/pack"
	"gracerun.io/supervisor/lifecycle/invariant"
)

// Tick is the unit of time of the worlds: grace periods and pauses are a few
// ticks long, so that every order of instants is met. It is a second for the
// sake of readable stories.
const Tick = lifecycle.Second

// Setup is a world to put a machine into.
type Setup struct {
	Name     string
	Config   lifecycle.Config
	Requests []lifecycle.Event // each comes once, at any time, in any order

	Running    bool // the container runs already; else its create is under way
	Faults     int  // how many times in all an effect or a caller may fail or hang, or the timer be early
	Freezes    int  // how many times somebody freezes the container
	Crashes    int  // how many times the supervisor dies and another goes on
	OOM        bool // the kernel's OOM killer may kill init
	Grandchild bool // init may leave a process behind that holds the output open
	Unknown    bool // init's status may be unknown
	Late       int  // ticks by which the loop may be late
	Slow       int  // ticks that an effect may take
}

// Subject is a machine under exploration: the real one, or a mutant.
type Subject interface {
	Step(now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect
	AppendState(b []byte, now lifecycle.Instant) []byte
	Clone() Subject
}

// Sound is the real machine as a Subject.
type Sound struct{ *lifecycle.Machine }

// Clone implements Subject.
func (s Sound) Clone() Subject { return Sound{s.Machine.Clone()} }

// careless is implemented by a mutant whose edge keeps no note of what must not
// be done a second time by a successor.
type careless interface{ careless() }

// unordered is implemented by a mutant whose loop takes what is ready in any
// order, instead of lifecycle.Order.
type unordered interface{ unordered() }

type moveKind uint8

const (
	wake         moveKind = iota // the loop takes everything that is ready
	wakeReversed                 // the same, in the opposite order (mutants only)
	tick                         // a tick passes
	issue                        // a request comes
	succeed                      // an effect under way is done
	fail                         // an effect under way fails
	hang                         // an effect under way is never answered
	createOK
	createFail
	createHang
	startOK
	startFail
	exitClean   // init exits by itself
	exitLeaving // init exits, a grandchild lives on and holds the output open
	exitOutside // init exits, somebody outside the container holds the output open
	exitUnknown // init exits, nobody can tell how
	die         // init dies of the SIGKILL that reached it
	oomKill     // init dies of the OOM killer's SIGKILL
	drain       // the output ends
	freeze      // somebody freezes the container
	early       // the timer fires before its time
	abandon     // a caller goes away
	crash       // the supervisor dies and another goes on; see the ways
)

// The ways in which a supervisor can die, added up in the argument of crash. An
// effect that it had begun and not ended was not performed; one that was, and
// whose answer the machine had not heard, has left a note that says so.
const (
	noteMissing   uint8 = 1 << iota // unless it died between the call and the note
	statusMissing                   // init exited while nobody watched, and the kernel does not tell how
	tooLate                         // its successor comes after a tick
	crashes
)

// Move is one thing that a world can do next.
type Move struct {
	kind moveKind
	arg  uint8
}

type initState uint8

const (
	noInit initState = iota
	initAlive
	initDying // SIGKILL has reached it
	initGone
)

type createState uint8

const (
	createUnderWay createState = iota
	createHangs
	createEnded
)

type streamState uint8

const (
	streamsOpen streamState = iota
	heldByGrandchild
	heldOutside
	streamsClosed
)

// job is an effect that the edge has begun and not ended.
type job struct {
	effect lifecycle.Effect
	age    uint8
}

const maxPending = 16

// world is the truth around one machine. All of it but the instants
// themselves decides what can happen next.
type world struct {
	setup   *Setup
	subject Subject
	checker *invariant.Checker

	now    lifecycle.Instant
	timer  lifecycle.Instant
	late   uint8 // ticks for which the loop has not looked at what is ready
	issued uint16
	open   uint16 // of those issued: their callers wait for a reply

	faults, freezes uint8
	crashes         uint8
	oomLeft         bool
	create          createState
	starting        lifecycle.RequestID
	init            initState
	dying           uint8 // ticks since SIGKILL reached init
	frozen          bool
	streams         streamState
	left            bool // a process is left in the cgroup

	reached  uint16 // what has reached init: bit 0 the signal of the open stop, above it those of the requests
	doubtful uint16 // of those: a supervisor died before it could note that
	commands uint8  // how often the exit command was run
	broken   *invariant.Violation

	jobs   [maxPending]job
	njobs  int
	ready  [maxPending]lifecycle.Event
	nready int
}

func newWorld(s *Setup, subject Subject) *world {
	w := &world{
		setup: s, subject: subject, checker: invariant.New(s.Config),
		timer: lifecycle.Never, faults: uint8(s.Faults), freezes: uint8(s.Freezes), crashes: uint8(s.Crashes), oomLeft: s.OOM,
	}
	if s.Running {
		w.create, w.init = createEnded, initAlive
		w.step(lifecycle.Event{Kind: lifecycle.CreateDone}, nil)
		w.step(lifecycle.Event{Kind: lifecycle.StartDone}, nil)
	}
	return w
}

func (w *world) clone() *world {
	c := *w
	c.subject = w.subject.Clone()
	c.checker = w.checker.Clone()
	return &c
}

// moves appends to dst everything that can happen next.
func (w *world) moves(dst []Move) []Move {
	pending := w.nready > 0 || w.timer <= w.now
	if pending {
		dst = append(dst, Move{kind: wake})
		if _, ok := w.subject.(unordered); ok {
			dst = append(dst, Move{kind: wakeReversed})
		}
	}
	if w.mayTick(pending) {
		dst = append(dst, Move{kind: tick})
	}
	room := w.nready+2 < maxPending && w.njobs+4 < maxPending
	if !room {
		return dst
	}
	for i := range w.setup.Requests {
		if w.issued&(1<<i) == 0 {
			dst = append(dst, Move{issue, uint8(i)})
		}
		if w.faults > 0 && w.open&(1<<i) != 0 {
			dst = append(dst, Move{abandon, uint8(i)})
		}
	}
	for i := 0; i < w.njobs; i++ {
		dst = append(dst, Move{succeed, uint8(i)})
		if w.faults == 0 {
			continue
		}
		switch w.jobs[i].effect.Kind {
		case lifecycle.Deliver, lifecycle.Thaw:
			dst = append(dst, Move{fail, uint8(i)}, Move{hang, uint8(i)})
		case lifecycle.RecordExit:
			dst = append(dst, Move{fail, uint8(i)})
		}
	}
	return w.appendTruth(dst)
}

// appendTruth appends what the runtime, the kernel and the container can do.
func (w *world) appendTruth(dst []Move) []Move {
	add := func(ok bool, k moveKind) {
		if ok {
			dst = append(dst, Move{kind: k})
		}
	}
	add(w.create == createUnderWay, createOK)
	add(w.create == createUnderWay && w.faults > 0, createFail)
	add(w.create == createUnderWay && w.faults > 0, createHang)
	add(w.starting != 0, startOK)
	add(w.starting != 0 && w.faults > 0, startFail)
	alive := w.init == initAlive && !w.frozen
	add(alive, exitClean)
	add(alive && w.setup.Grandchild, exitLeaving)
	add(alive && w.setup.Grandchild, exitOutside)
	add(alive && w.setup.Unknown, exitUnknown)
	add(alive && w.oomLeft, oomKill)
	add(w.init == initDying && !w.frozen, die)
	add(w.canDrain(), drain)
	add(w.init == initAlive && !w.frozen && w.freezes > 0, freeze)
	add(w.faults > 0 && w.timer != lifecycle.Never && w.timer > w.now, early)
	return w.appendCrashes(dst)
}

func (w *world) appendCrashes(dst []Move) []Move {
	if w.crashes == 0 {
		return dst
	}
	var can uint8 = tooLate
	for _, ev := range w.ready[:w.nready] {
		switch {
		case ev.Kind == lifecycle.Delivered && ev.Errno == 0:
			can |= noteMissing
		case ev.Kind == lifecycle.InitExited && w.setup.Unknown:
			can |= statusMissing
		}
	}
	for way := range crashes {
		if way&^can == 0 {
			dst = append(dst, Move{crash, way})
		}
	}
	return dst
}

func (w *world) canDrain() bool {
	return w.init == initGone && (w.streams == streamsOpen || w.streams == heldByGrandchild && !w.left)
}

// mayTick: time passes, but the loop, the effects and the kernel are only so
// slow. Without this bound nothing could be said of what happens in the end.
func (w *world) mayTick(pending bool) bool {
	if pending && int(w.late) >= w.setup.Late {
		return false
	}
	for i := 0; i < w.njobs; i++ {
		if int(w.jobs[i].age) >= w.setup.Slow {
			return false
		}
	}
	return w.init != initDying || w.frozen || int(w.dying) <= w.setup.Slow
}

// apply makes one move. narrate, if not nil, hears of every step it leads to.
func (w *world) apply(mv Move, narrate narrator) *invariant.Violation {
	switch mv.kind {
	case wake, wakeReversed:
		return w.wake(mv.kind == wakeReversed, narrate)
	case tick:
		w.tick()
	case issue:
		w.issued |= 1 << mv.arg
		ev := w.setup.Requests[mv.arg]
		if ev.Request >= lifecycle.FirstRequest {
			w.open |= 1 << mv.arg
		}
		w.push(ev)
	case abandon:
		w.faults--
		w.open &^= 1 << mv.arg
		w.push(lifecycle.Event{Kind: lifecycle.Abandoned, Request: w.setup.Requests[mv.arg].Request})
	case succeed:
		w.complete(w.endJob(mv.arg))
	case fail:
		w.faults--
		w.fail(w.endJob(mv.arg))
	case hang:
		w.faults--
		w.closeRequest(w.endJob(mv.arg).Request) // its caller waits for as long as the kernel does
	case createOK:
		w.create, w.init = createEnded, initAlive
		w.push(lifecycle.Event{Kind: lifecycle.CreateDone})
	case createFail:
		w.faults--
		w.create = createEnded
		w.push(lifecycle.Event{Kind: lifecycle.CreateDone, Errno: eperm})
	case createHang:
		w.faults--
		w.create = createHangs
	case startOK:
		w.starting = 0
		w.push(lifecycle.Event{Kind: lifecycle.StartDone})
	case startFail:
		w.faults--
		w.starting = 0
		w.push(lifecycle.Event{Kind: lifecycle.StartDone, Errno: eperm})
	case exitClean:
		w.exit(lifecycle.Exited(0), streamsOpen)
	case exitLeaving:
		w.left = true
		w.exit(lifecycle.Exited(0), heldByGrandchild)
	case exitOutside:
		w.exit(lifecycle.Exited(0), heldOutside)
	case exitUnknown:
		w.exit(lifecycle.Status{}, streamsOpen)
	case die:
		w.exit(lifecycle.Signaled(signals.KILL), streamsOpen)
	case oomKill:
		w.oomLeft = false
		w.push(lifecycle.Event{Kind: lifecycle.OOM})
		w.exit(lifecycle.Signaled(signals.KILL), streamsOpen)
	case drain:
		w.streams = streamsClosed
		w.push(lifecycle.Event{Kind: lifecycle.StreamsDrained})
	case freeze:
		w.freezes--
		w.frozen = true
		w.push(lifecycle.Event{Kind: lifecycle.Freezer, Frozen: true})
	case early:
		w.faults--
		w.timer = lifecycle.Never
		w.push(lifecycle.Event{Kind: lifecycle.Deadline})
	case crash:
		return w.crash(mv.arg, narrate)
	}
	return w.broken
}

// crash is the death of the supervisor and what its successor does first: it
// tells what is true and what it has notes of, and does nothing about it; then it
// has everything begun again that is not done.
func (w *world) crash(way uint8, narrate narrator) *invariant.Violation {
	w.crashes--
	if way&tooLate != 0 {
		w.tick()
	}
	var known, abandoned []lifecycle.Event
	for _, ev := range w.ready[:w.nready] {
		switch ev.Kind {
		case lifecycle.StartRequest, lifecycle.SignalRequest, lifecycle.StopRequest, lifecycle.MonitorSignal, lifecycle.Abandoned:
			continue // nobody has heard of it, and its caller sees that
		case lifecycle.Deadline, lifecycle.ThawDone, lifecycle.ExitRecorded, lifecycle.Freezer:
			continue // to be found out anew
		case lifecycle.Delivered:
			if way&noteMissing != 0 {
				w.doubtful |= w.reached & w.bit(ev.Request)
				continue
			}
		case lifecycle.InitExited:
			if way&statusMissing != 0 {
				ev.Status = lifecycle.Status{}
			}
		}
		known = append(known, ev)
	}
	clear(w.ready[:w.nready])
	clear(w.jobs[:w.njobs])
	w.nready, w.njobs, w.late, w.timer = 0, 0, 0, lifecycle.Never
	if w.create != createEnded { // the runtime has died with its parent
		w.create = createEnded
		known = append(known, lifecycle.Event{Kind: lifecycle.CreateDone, Errno: eperm})
	}
	for i := range w.setup.Requests { // one with leave to start has its reply
		if w.open&(1<<i) != 0 {
			abandoned = append(abandoned, lifecycle.Event{Kind: lifecycle.Abandoned, Request: w.setup.Requests[i].Request})
		}
	}
	w.open = 0
	known = append(known, lifecycle.Event{Kind: lifecycle.Freezer, Frozen: w.frozen})
	lifecycle.Order(known)
	for _, ev := range known {
		// What the machine asks for now it will ask for again.
		if v := w.check(ev, w.subject.Step(w.now, ev), narrate); v != nil {
			return v
		}
	}
	for _, ev := range append([]lifecycle.Event{{Kind: lifecycle.Recovered}}, abandoned...) {
		if v := w.step(ev, narrate); v != nil {
			return v
		}
	}
	return w.broken
}

// bit is the place of a delivery in reached.
func (w *world) bit(id lifecycle.RequestID) uint16 {
	if id == lifecycle.ForStop {
		return 1
	}
	for i := range w.setup.Requests {
		if w.setup.Requests[i].Request == id && id >= lifecycle.FirstRequest {
			return 2 << i
		}
	}
	return 0
}

// reach notes that a signal reaches init, which it must once, but for the one
// instant in which nobody can know that it did (I12).
func (w *world) reach(e lifecycle.Effect) {
	bit := w.bit(e.Request)
	if e.Signal != signals.KILL && w.reached&bit != 0 && w.doubtful&bit == 0 {
		w.broken = &invariant.Violation{Invariant: "I12", Text: e.Signal.String() + " reached init a second time after the supervisor had died"}
	}
	w.reached |= bit
}

const eperm = 1

func (w *world) tick() {
	if w.nready > 0 || w.timer <= w.now {
		w.late++
	}
	w.now = w.now.After(Tick)
	for i := 0; i < w.njobs; i++ {
		w.jobs[i].age++
	}
	if w.init == initDying && !w.frozen {
		w.dying++
	}
}

func (w *world) exit(s lifecycle.Status, streams streamState) {
	w.init, w.streams, w.dying = initGone, streams, 0
	w.push(lifecycle.Event{Kind: lifecycle.InitExited, Status: s})
	if !w.left {
		w.push(lifecycle.Event{Kind: lifecycle.CgroupEmpty})
	}
}

func (w *world) push(ev lifecycle.Event) {
	w.ready[w.nready] = ev
	w.nready++
}

func (w *world) endJob(i uint8) lifecycle.Effect {
	e := w.jobs[i].effect
	copy(w.jobs[i:], w.jobs[i+1:w.njobs])
	w.njobs--
	w.jobs[w.njobs] = job{}
	return e
}

// complete gives an effect its consequences in the world.
func (w *world) complete(e lifecycle.Effect) {
	switch e.Kind {
	case lifecycle.Deliver:
		ev := lifecycle.Event{Kind: lifecycle.Delivered, Request: e.Request, Signal: e.Signal}
		switch {
		case w.init != initAlive && w.init != initDying:
			ev.Errno = lifecycle.ESRCH
		case e.Signal == signals.KILL:
			w.init = initDying
		}
		if ev.Errno == 0 {
			w.reach(e)
		}
		w.push(ev)
	case lifecycle.Thaw:
		w.frozen = false
		w.push(lifecycle.Event{Kind: lifecycle.ThawDone})
	case lifecycle.AbortCreate:
		if w.create != createEnded {
			w.create = createEnded
			w.push(lifecycle.Event{Kind: lifecycle.CreateDone, Errno: eperm})
		}
	case lifecycle.KillCgroup:
		w.left = false
		w.push(lifecycle.Event{Kind: lifecycle.CgroupEmpty})
	case lifecycle.RecordExit:
		w.push(lifecycle.Event{Kind: lifecycle.ExitRecorded})
	case lifecycle.RunExitCommand:
		w.runExitCommand()
		w.push(lifecycle.Event{Kind: lifecycle.ExitCommandDone})
	}
}

// runExitCommand leaves a note before it begins, and does nothing where there is
// one already.
func (w *world) runExitCommand() {
	if _, ok := w.subject.(careless); w.commands > 0 && !ok {
		return
	}
	if w.commands++; w.commands > 1 {
		w.broken = &invariant.Violation{Invariant: "I12", Text: "the exit command was run a second time after the supervisor had died"}
	}
}

func (w *world) fail(e lifecycle.Effect) {
	switch e.Kind {
	case lifecycle.Deliver:
		w.push(lifecycle.Event{Kind: lifecycle.Delivered, Request: e.Request, Signal: e.Signal, Errno: eperm})
	case lifecycle.Thaw:
		w.push(lifecycle.Event{Kind: lifecycle.ThawDone, Errno: eperm})
	case lifecycle.RecordExit:
		w.push(lifecycle.Event{Kind: lifecycle.ExitRecorded, Errno: eperm})
	}
}

// wake is one turn of the supervisor's loop: everything that is ready, in order.
func (w *world) wake(reversed bool, narrate narrator) *invariant.Violation {
	var room [maxPending + 1]lifecycle.Event
	batch := append(room[:0], w.ready[:w.nready]...)
	if w.timer <= w.now {
		w.timer = lifecycle.Never
		batch = append(batch, lifecycle.Event{Kind: lifecycle.Deadline})
	}
	clear(w.ready[:w.nready])
	w.nready, w.late = 0, 0
	lifecycle.Order(batch)
	if reversed {
		for i, j := 0, len(batch)-1; i < j; i, j = i+1, j-1 {
			batch[i], batch[j] = batch[j], batch[i]
		}
	}
	for i, ev := range batch {
		if v := w.step(ev, narrate); v != nil {
			return v
		}
		if v := w.exitWins(batch[i+1:]); v != nil {
			return v
		}
	}
	return nil
}

// exitWins: no SIGKILL at a deadline while the exit is there to be seen (I7).
func (w *world) exitWins(rest []lifecycle.Event) *invariant.Violation {
	for _, ev := range rest {
		if ev.Kind != lifecycle.InitExited || w.njobs == 0 {
			continue
		}
		if e := w.jobs[w.njobs-1]; e.age == 0 && e.effect.Kind == lifecycle.Deliver && e.effect.Request == lifecycle.ForKill {
			return &invariant.Violation{Invariant: "I7", Text: "SIGKILL was sent at the deadline to a container whose exit was ready to be seen"}
		}
	}
	return nil
}

func (w *world) step(ev lifecycle.Event, narrate narrator) *invariant.Violation {
	effects := w.subject.Step(w.now, ev)
	for _, e := range effects {
		w.begin(e)
	}
	return w.check(ev, effects, narrate)
}

func (w *world) check(ev lifecycle.Event, effects []lifecycle.Effect, narrate narrator) *invariant.Violation {
	if narrate != nil {
		narrate(w.now, ev, effects)
	}
	v := w.checker.Check(w.now, ev, effects)
	// What reached init before its program ran was the runtime's.
	if !w.checker.Stopping() || ev.Kind == lifecycle.StartDone && ev.Errno == 0 {
		w.reached &^= 1
		w.doubtful &^= 1
	}
	return v
}

// begin lets the edge begin an effect. What cannot fail is done at once.
func (w *world) begin(e lifecycle.Effect) {
	switch e.Kind {
	case lifecycle.Arm:
		w.timer = e.At
	case lifecycle.Reply:
		w.closeRequest(e.Request)
		if e.Outcome == lifecycle.Granted {
			w.starting = e.Request
		}
	case lifecycle.DrainStreams, lifecycle.RecordBreach:
	default:
		w.jobs[w.njobs] = job{effect: e}
		w.njobs++
	}
}

func (w *world) closeRequest(id lifecycle.RequestID) {
	for i := range w.setup.Requests {
		if w.setup.Requests[i].Request == id {
			w.open &^= 1 << i
		}
	}
}

// appendState writes down everything that decides what can happen next.
func (w *world) appendState(b []byte) []byte {
	b = w.subject.AppendState(b, w.now)
	b = append(b, 0xfe)
	b = w.checker.AppendState(b, w.now)
	b = append(b, 0xfe, byte(w.issued), byte(w.issued>>8), byte(w.open), byte(w.open>>8),
		w.faults, w.freezes, w.crashes, byte(w.reached), byte(w.reached>>8), byte(w.doubtful), byte(w.doubtful>>8), w.commands, w.late, w.dying, byte(w.create), byte(w.init), byte(w.streams),
		pack.Bits(w.oomLeft, w.frozen, w.left))
	b = pack.Int(b, int64(w.starting))
	b = pack.Until(b, w.timer, w.now)
	for _, j := range w.jobs[:w.njobs] {
		e := j.effect
		b = append(b, byte(e.Kind), byte(e.Request), byte(e.Signal), byte(e.Target), j.age)
	}
	b = append(b, 0xfe)
	for _, ev := range w.ready[:w.nready] {
		b = append(b, byte(ev.Kind), byte(ev.Request), byte(ev.Signal), byte(ev.Errno), byte(ev.Status.Kind), ev.Status.Value)
	}
	return b
}

// settle lets the world be kind from here on: every effect works, time passes,
// nobody asks for more. Everything that was promised must then come true (I9);
// it returns what did not.
func (w *world) settle(narrate narrator) *invariant.Violation {
	demanded := w.checker.Demanded()
	for range 1000 {
		mv, ok := w.kindest()
		if !ok {
			break
		}
		if v := w.apply(mv, narrate); v != nil {
			return v
		}
	}
	switch {
	case w.create == createHangs && !demanded:
		return nil // a create that hangs is nobody's promise until a stop wants it ended
	case demanded && w.init != initGone && w.create != createEnded, demanded && (w.init == initAlive || w.init == initDying):
		return &invariant.Violation{Invariant: "I9", Text: "the stop never ends"}
	case w.init == initGone && !w.checker.Recorded():
		return &invariant.Violation{Invariant: "I6", Text: "the exit is never recorded"}
	case w.commands == 0 && w.checker.Recorded():
		return &invariant.Violation{Invariant: "I12", Text: "the exit command is never run"}
	case w.open != 0:
		return &invariant.Violation{Invariant: "I5", Text: "a request is never answered"}
	}
	return nil
}

func (w *world) kindest() (Move, bool) {
	switch {
	case w.nready > 0 || w.timer <= w.now:
		return Move{kind: wake}, true
	case w.njobs > 0:
		return Move{kind: succeed}, true
	case w.create == createUnderWay:
		return Move{kind: createOK}, true
	case w.starting != 0:
		return Move{kind: startOK}, true
	case w.init == initDying && !w.frozen:
		return Move{kind: die}, true
	case w.canDrain():
		return Move{kind: drain}, true
	case w.timer != lifecycle.Never:
		return Move{kind: tick}, true
	}
	return Move{}, false
}
