// Package keeper is the process that holds what a dead supervisor cannot give to
// its successor, and starts that successor.
//
// There is one per state base, user and mount namespace, whatever the number of
// containers. Each supervisor connects to it and deposits descriptors: init's
// pidfd, by which the kernel tells how init ended even when somebody else has
// reaped it; the reading ends of the container's output, without which the kernel
// drops what is in the pipe when its last writer closes it; the terminal's master,
// without which the terminal hangs up; the writing end of stdin. When the
// connection ends without a word, the supervisor is dead: the keeper starts
// `gracemon --recover DIR` with the descriptors, and lets go of them when the
// successor has deposited its own; and what counts the signals that the supervisor
// has caught, some of which it may not have seen to.
//
// The socket is SOCK_SEQPACKET; a packet is one line of words, with descriptors:
//
//	hold DIR NAME...    keep these, in the place of those with the same names (one descriptor for each name)
//	drop NAME           let go of this one
//	done                let go of all: there is nothing left to go on with
//	await DIR           from somebody else: hang up once there is a successor, or at once if nothing is kept for that container
//
// One thing is answered: "full", to a deposit for which there is no room (room.go).
// Another keeper then takes it. Who deposits knows that the packet outlives it once it is
// sent; who starts the keeper makes its socket first, so that nobody waits for a
// process to start. If the keeper dies, supervisors see the end of the connection,
// start another one, and deposit again.
//
// TERM, INT, QUIT and HUP do not end a keeper that holds anything: who sends one to all
// processes of a user, or of a node, sends it to the supervisors too, and some of
// these may need a successor then. It ends as soon as it holds nothing.
package keeper

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/inherited"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/ownsignal"
	"gracerun.io/supervisor/program"
)

// KeptVariable tells `gracemon --recover` which descriptors it was given:
// "NAME=NUMBER" for each, separated by commas.
const KeptVariable = "_GRACEMON_KEPT"

// Names of descriptors.
const (
	Init     = "init"
	Stdin    = "stdin"
	Stdout   = "stdout"
	Stderr   = "stderr"
	Terminal = "terminal"
	Caught   = "caught" // of package ownsignal
)

// listener is the number under which the keeper finds its socket.
const listener = 3

const (
	maxPacket = 5120 // a path and a few words
	maxFDs    = 8

	// linger is how long a keeper with nothing to keep waits for more.
	linger = 5 * lifecycle.Second

	// A successor that cannot be started is tried again, with a pause that
	// doubles. A container that nobody can go on with is not kept for ever; but that
	// no process can be started at all is not its fault.
	firstPause = 100 * lifecycle.Millisecond
	lastPause  = 10 * lifecycle.Second
	maxEnded   = 20
)

type server struct {
	loop    *loop.Loop
	base    string
	program *program.Program
	say     func(string)
	holds   []*hold
	room    room
	signals ownsignal.Catcher
	leaves  bool // as soon as it holds nothing
	idle    loop.Timer
	retry   loop.Timer
}

// hold is what is kept for one container.
type hold struct {
	s     *server
	conn  int // -1: the supervisor is dead
	pid   int // of the supervisor
	pidfd process.Pidfd
	limit unix.Rlimit // of its descriptors
	dir   string
	await string // the container whose successor this one waits for: not a supervisor
	names []string
	fds   []int
	gone  bool // let go of

	child child // its successor's first stage
	tries int
	ended int // of those, how many began and did not take its place
	pause lifecycle.Duration
	timer loop.Timer
}

type child struct{ pid, pidfd int }

// Main is the keeper's process: it returns when there is nothing left to keep.
// say is told what an operator should know.
// path is where its program was installed.
func Main(path string, say func(string)) (status int) {
	base, err := statedir.Base()
	if err == nil {
		_, err = unix.GetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	}
	if err != nil {
		say("gracemon --keeper is started by gracemon: " + err.Error())
		return 1
	}
	s := &server{base: base, say: say}
	s.idle.Fire, s.retry.Fire = s.endIfIdle, s.listen
	// It outlives whoever has started it, in no cgroup and no directory of theirs.
	_ = unix.Chdir("/")
	leaveCgroup()
	unix.CloseOnExec(listener)
	inherited.Close(listener + 1) // a caller's of the supervisor that has started it
	_ = unix.SetNonblock(listener, true)
	s.program = program.New(path)
	if s.room, err = makeRoom(); err == nil {
		if s.signals, err = ownsignal.Catch(caught[:]...); err == nil {
			err = ownsignal.Here()
		}
	}
	if err == nil {
		s.loop, err = loop.New()
	}
	if err == nil {
		err = s.loop.Add(s.signals.FD(), loop.Readable, loop.HandlerFunc(func(uint32) { s.leave() }))
	}
	if err == nil {
		s.listen()
		s.loop.Arm(&s.idle, loop.Now().After(linger))
		err = s.loop.Run()
	}
	if err != nil {
		say("gracemon --keeper: " + err.Error())
		return 1
	}
	return 0
}

// leave ends the keeper once it holds nothing.
func (s *server) leave() {
	s.signals.Take()
	if s.leaves = true; len(s.holds) == 0 {
		s.endIfIdle()
		return
	}
	s.say("gracemon --keeper is told to end: it ends when the containers have that it keeps descriptors for")
}

func (s *server) listen() {
	if err := s.loop.Add(listener, loop.Readable, loop.HandlerFunc(func(uint32) { s.accept() })); err != nil {
		s.say("gracemon --keeper: wait for supervisors: " + err.Error())
		s.loop.Arm(&s.retry, loop.Now().After(lifecycle.Second))
	}
}

// accept takes all that have connected. It reports whether there were any.
func (s *server) accept() (any bool) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch err {
		case nil:
			any = true
			s.take(fd)
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EAGAIN:
			return any
		default: // EMFILE and its like: they wait in the backlog
			s.say("gracemon --keeper: " + err.Error())
			s.loop.Remove(listener)
			s.loop.Arm(&s.retry, loop.Now().After(lifecycle.Second))
			return any
		}
	}
}

// take serves a supervisor of the same user, or of root.
func (s *server) take(fd int) {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || int(peer.Uid) != unix.Geteuid() && peer.Uid != 0 {
		unix.Close(fd)
		return
	}
	h := &hold{s: s, conn: fd, pid: int(peer.Pid), pidfd: openPeer(fd, int(peer.Pid)), child: child{pidfd: -1}}
	h.timer.Fire = h.recover
	if err := s.loop.Add(fd, loop.Readable, loop.HandlerFunc(h.ready)); err != nil {
		s.say("gracemon --keeper: wait for a supervisor: " + err.Error())
		unix.Close(fd)
		h.pidfd.Close()
		return
	}
	s.holds = append(s.holds, h)
	s.loop.Arm(&s.idle, lifecycle.Never)
}

// openPeer opens the process at the other end of a connection, -1 if that is not to be
// had. Since it is connected still when it is open, the number is its own.
func openPeer(conn, pid int) process.Pidfd {
	p, err := process.Open(pid)
	if err != nil {
		return -1
	}
	fds := []unix.PollFd{{Fd: int32(conn), Events: unix.POLLRDHUP}}
	for {
		_, err = unix.Poll(fds, 0)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil || fds[0].Revents&(unix.POLLHUP|unix.POLLRDHUP|unix.POLLERR) != 0 {
		p.Close()
		return -1
	}
	return p
}

// ready takes packets until there is none.
func (h *hold) ready(uint32) {
	for h.conn >= 0 {
		words, fds, err := receive(h.conn)
		switch {
		case err == errTruncated:
			h.refuse()
			return
		case err == unix.EAGAIN:
			return
		case err == unix.EINTR:
		case err != nil || words == nil:
			h.orphan()
			return
		default:
			h.obey(words, fds)
		}
	}
}

// receive gives the words of a packet and its descriptors; no words at the end.
func receive(conn int) (words []string, fds []int, err error) {
	var data [maxPacket]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, flags, _, err := unix.Recvmsg(conn, data[:], oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil || n == 0 {
		return nil, nil, err
	}
	if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for i := range messages {
			if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
				fds = append(fds, got...)
			}
		}
	}
	if flags&unix.MSG_CTRUNC != 0 { // this process may not have more
		closeAll(fds)
		return nil, nil, errTruncated
	}
	return strings.Split(string(data[:n]), " "), fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// obey does what a supervisor says. One that speaks another language gets
// nothing, and loses nothing.
func (h *hold) obey(words []string, fds []int) {
	switch {
	case words[0] == "hold" && len(words) == 2+len(fds):
		if h.dir == "" {
			dir := unescape(words[1])
			if !h.s.hasRoom(dir) {
				closeAll(fds)
				h.refuse()
				return
			}
			h.dir = dir
			_ = unix.Prlimit(h.pid, unix.RLIMIT_NOFILE, nil, &h.limit)
			h.s.replace(h)
		}
		for i, name := range words[2:] {
			h.put(name, fds[i])
		}
		return
	case words[0] == "drop" && len(words) == 2:
		h.drop(words[1])
	case words[0] == "done":
		h.letGo()
	case words[0] == "await" && len(words) == 2 && h.dir == "":
		h.await = unescape(words[1])
		h.s.bury(h.await)
		h.s.hangUp()
	}
	closeAll(fds)
}

func (h *hold) put(name string, fd int) {
	h.drop(name)
	h.names, h.fds = append(h.names, name), append(h.fds, fd)
}

func (h *hold) drop(name string) {
	for i := range h.names {
		if h.names[i] == name {
			unix.Close(h.fds[i])
			h.names = append(h.names[:i], h.names[i+1:]...)
			h.fds = append(h.fds[:i], h.fds[i+1:]...)
			return
		}
	}
}

// replace lets go of what was kept for the same container, whose successor this is.
func (s *server) replace(by *hold) {
	for i := len(s.holds) - 1; i >= 0; i-- {
		if h := s.holds[i]; h != by && h.dir == by.dir {
			h.letGo()
		}
	}
}

// letGo forgets the container.
func (h *hold) letGo() {
	s := h.s
	for i := range s.holds {
		if s.holds[i] == h {
			s.holds = append(s.holds[:i], s.holds[i+1:]...)
			break
		}
	}
	closeAll(h.fds)
	if h.pidfd >= 0 {
		h.pidfd.Close()
		h.pidfd = -1
	}
	h.names, h.fds, h.gone = nil, nil, true
	if h.conn >= 0 {
		s.loop.Remove(h.conn)
		unix.Close(h.conn)
		h.conn = -1
	}
	s.loop.Arm(&h.timer, lifecycle.Never)
	if h.dir != "" {
		s.loop.Defer(s.hangUp)
	}
	if len(s.holds) == 0 {
		wait := linger
		if s.leaves {
			wait = 0
		}
		s.loop.Arm(&s.idle, loop.Now().After(wait))
	}
}

// hangUp lets those go who wait for a successor that is there, or will not be.
func (s *server) hangUp() {
waiting:
	for i := len(s.holds) - 1; i >= 0; i-- {
		w := s.holds[i]
		if w.await == "" {
			continue
		}
		for _, h := range s.holds {
			if h.dir == w.await && (h.conn < 0 || h.hungUp()) {
				continue waiting
			}
		}
		w.letGo()
	}
}

// bury takes a supervisor for dead that was killed and cannot end, since the kernel
// does not come back with what it has asked for: its connection stays until then.
func (s *server) bury(dir string) {
	for i := len(s.holds) - 1; i >= 0; i-- {
		h := s.holds[i]
		if h.dir != dir || h.conn < 0 || h.hungUp() {
			continue
		}
		if dying, _, err := process.Dying(h.pid); err == nil && dying {
			h.orphan()
		}
	}
}

// hungUp reports whether the supervisor is dead, which may not have been heard yet.
func (h *hold) hungUp() bool {
	fds := []unix.PollFd{{Fd: int32(h.conn), Events: unix.POLLRDHUP}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLRDHUP) != 0
}

// orphan: the supervisor is dead, or was never one.
func (h *hold) orphan() {
	h.s.loop.Remove(h.conn)
	unix.Close(h.conn)
	h.conn = -1
	if h.dir == "" {
		h.letGo()
		return
	}
	h.recover()
}

// recover starts a successor.
func (h *hold) recover() {
	h.tries++
	if h.tries == 1 {
		h.s.say("supervisor " + strconv.Itoa(h.pid) + " of " + h.dir + " is dead: another one goes on")
	}
	files := []uintptr{0, 1, 2}
	var kept []string
	for i, name := range h.names {
		kept = append(kept, name+"="+strconv.Itoa(len(files)))
		files = append(files, uintptr(h.fds[i]))
	}
	env := append(syscall.Environ(), KeptVariable+"="+strings.Join(kept, ","), LimitVariable+"="+limitText(h.limit))
	attr := &syscall.ProcAttr{Dir: "/", Env: env, Files: files, Sys: &syscall.SysProcAttr{PidFD: &h.child.pidfd}}
	pid, why, err := h.s.program.Start([]string{h.s.program.Path(), "--recover", h.dir}, attr)
	h.child.pid = pid
	if why != nil && h.tries == 1 {
		h.s.say(h.s.program.Path() + ": " + why.Error() + ": another gracemon goes on with " + h.dir + ": that of the keeper")
	}
	if err == nil {
		err = h.s.loop.Add(h.child.pidfd, loop.Readable, loop.HandlerFunc(func(uint32) { h.recovered() }))
	}
	if err != nil {
		h.s.say("start gracemon --recover " + h.dir + ": " + err.Error())
		h.again()
	}
}

// recovered: the first stage of the successor has ended. It has taken its place
// by then, or there was nothing left to go on with.
func (h *hold) recovered() {
	status, err := process.Pidfd(h.child.pidfd).Reap()
	h.s.loop.Remove(h.child.pidfd)
	unix.Close(h.child.pidfd)
	h.child = child{pidfd: -1}
	switch {
	case h.gone: // it has deposited already
	case err == nil && status.Signal == 0 && status.Code == 0:
		h.letGo()
	default:
		h.ended++
		h.again()
	}
}

func (h *hold) again() {
	if h.ended >= maxEnded {
		h.s.say("nobody can go on with " + h.dir + ": it is given up")
		h.letGo()
		return
	}
	h.pause = min(max(2*h.pause, firstPause), lastPause)
	h.s.loop.Arm(&h.timer, loop.Now().After(h.pause))
}

// endIfIdle ends the process, unless somebody comes at the last moment.
func (s *server) endIfIdle() {
	if len(s.holds) > 0 {
		return
	}
	lock, err := lockBase(s.base)
	if err == unix.ENOENT {
		s.loop.Stop() // its directory is gone, and with it the way to it
		return
	}
	if err != nil {
		s.loop.Arm(&s.idle, loop.Now().After(linger))
		return
	}
	defer unix.Close(lock)
	if s.accept() {
		return
	}
	// Whoever connects from here on sees the connection end, and starts another.
	removeOwn()
	s.loop.Stop()
}
