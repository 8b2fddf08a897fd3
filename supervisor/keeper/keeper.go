// Package keeper is the process that holds a descriptor store for each supervisor,
// and starts a successor when a supervisor dies. systemd holds such a store for a
// service (FileDescriptorStoreMax=), s6 has fd-holders.
//
// There is one keeper per state base, user and mount namespace, whatever the number
// of containers. Each supervisor connects to it and stores
//
//   - init's pidfd: by it the kernel tells how init ended, even if another process
//     has reaped it;
//   - the reading ends of the container's output: without them the kernel drops the
//     content of a pipe when its last writer closes it;
//   - the terminal's master: without it the terminal hangs up;
//   - the writing end of stdin;
//   - the eventfd that counts the signals that the supervisor has caught, some of
//     which it may not have acted on.
//
// When a connection ends without "done", the supervisor is dead. The keeper starts
// `gracemon --recover DIR` with the stored descriptors, and closes its own copies when
// the successor has stored them anew.
//
// The socket is SOCK_SEQPACKET; a packet is one line of words, with descriptors:
//
//	hold DIR NAME...    store these descriptors, in place of those with the same names (one for each name)
//	drop NAME           remove this one
//	done                remove all: the container needs no successor
//	await DIR           (from another process) hang up once there is a successor, or at once if nothing is stored for that container
//
// The keeper has one reply: "full", if it has no room for a descriptor store
// (room.go). The supervisor then uses another keeper. A packet outlives its sender
// once it is sent. The process that starts a keeper makes its socket first, so that
// nothing waits for a process to start. If the keeper dies, the supervisors see the
// end of the connection, start another one, and store their descriptors again.
//
// TERM, INT, QUIT and HUP do not end a keeper that holds anything: a signal to all
// processes of a user or of a node reaches the supervisors, too, and some may need a
// successor then. The keeper ends as soon as it holds nothing.
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

// listener is the descriptor of the keeper's socket.
const listener = 3

const (
	maxPacket = 5120 // a path and a few words
	maxFDs    = 8

	// linger is how long a keeper that holds nothing waits before it ends.
	linger = 5 * lifecycle.Second

	// The keeper tries again to start a successor, with a pause that doubles. It gives
	// a container up after maxEnded successors that failed. A process that cannot be
	// started at all does not count.
	firstPause = 100 * lifecycle.Millisecond
	lastPause  = 10 * lifecycle.Second
	maxEnded   = 20
)

type server struct {
	loop    *loop.Loop
	base    string
	program *program.Program
	say     func(string)
	stores  []*store
	room    room
	signals ownsignal.Catcher
	leaves  bool // it ends as soon as it holds nothing
	idle    loop.Timer
	retry   loop.Timer
}

// store is the descriptor store of one supervisor.
type store struct {
	s     *server
	conn  int // to the supervisor; -1: it is dead
	pid   int // the supervisor's
	pidfd process.Pidfd
	limit unix.Rlimit // the supervisor's RLIMIT_NOFILE
	dir   string
	await string // not a supervisor: a process that waits for the successor of this container
	names []string
	fds   []int
	gone  bool // removed

	child child // its successor's first stage
	tries int
	ended int // successors that were started and failed
	pause lifecycle.Duration
	timer loop.Timer
}

type child struct{ pid, pidfd int }

// Main runs the keeper's process and returns when it holds nothing any more. path is
// where gracemon is installed; say reports to the operator.
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
	// The keeper outlives the process that started it, and leaves its cgroup and directory.
	_ = unix.Chdir("/")
	leaveCgroup()
	unix.CloseOnExec(listener)
	inherited.Close(listener + 1) // descriptors that the supervisor inherited from its caller
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

// leave has the keeper end once it holds nothing.
func (s *server) leave() {
	s.signals.Take()
	if s.leaves = true; len(s.stores) == 0 {
		s.endIfIdle()
		return
	}
	s.say("gracemon --keeper got a signal to end: it ends after the containers whose descriptors it holds")
}

func (s *server) listen() {
	if err := s.loop.Add(listener, loop.Readable, loop.HandlerFunc(func(uint32) { s.accept() })); err != nil {
		s.say("gracemon --keeper: wait for supervisors: " + err.Error())
		s.loop.Arm(&s.retry, loop.Now().After(lifecycle.Second))
	}
}

// accept accepts all connections, and reports whether there were any.
func (s *server) accept() (any bool) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch err {
		case nil:
			any = true
			s.serve(fd)
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EAGAIN:
			return any
		default: // such as EMFILE: they wait in the backlog
			s.say("gracemon --keeper: " + err.Error())
			s.loop.Remove(listener)
			s.loop.Arm(&s.retry, loop.Now().After(lifecycle.Second))
			return any
		}
	}
}

// serve serves a connection of the same user or of root.
func (s *server) serve(fd int) {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || int(peer.Uid) != unix.Geteuid() && peer.Uid != 0 {
		unix.Close(fd)
		return
	}
	st := &store{s: s, conn: fd, pid: int(peer.Pid), pidfd: openPeer(fd, int(peer.Pid)), child: child{pidfd: -1}}
	st.timer.Fire = st.restart
	if err := s.loop.Add(fd, loop.Readable, loop.HandlerFunc(st.ready)); err != nil {
		s.say("gracemon --keeper: wait for a supervisor: " + err.Error())
		unix.Close(fd)
		st.pidfd.Close()
		return
	}
	s.stores = append(s.stores, st)
	s.loop.Arm(&s.idle, lifecycle.Never)
}

// openPeer opens a pidfd of the process at the other end of a connection, or returns
// -1. The connection is checked afterwards: while it stands, the pid is not reused.
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

// ready handles all packets.
func (st *store) ready(uint32) {
	for st.conn >= 0 {
		words, fds, err := receive(st.conn)
		switch {
		case err == errTruncated:
			st.refuse()
			return
		case err == unix.EAGAIN:
			return
		case err == unix.EINTR:
		case err != nil || words == nil:
			st.supervisorDied()
			return
		default:
			st.handle(words, fds)
		}
	}
}

// receive returns the words and descriptors of a packet; no words at the end.
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

// handle handles a packet. It ignores unknown packets and closes their descriptors.
func (st *store) handle(words []string, fds []int) {
	switch {
	case words[0] == "hold" && len(words) == 2+len(fds):
		if st.dir == "" {
			dir := unescape(words[1])
			if !st.s.hasRoom(dir) {
				closeAll(fds)
				st.refuse()
				return
			}
			st.dir = dir
			_ = unix.Prlimit(st.pid, unix.RLIMIT_NOFILE, nil, &st.limit)
			st.s.replace(st)
		}
		for i, name := range words[2:] {
			st.put(name, fds[i])
		}
		return
	case words[0] == "drop" && len(words) == 2:
		st.drop(words[1])
	case words[0] == "done":
		st.forget()
	case words[0] == "await" && len(words) == 2 && st.dir == "":
		st.await = unescape(words[1])
		st.s.declareDead(st.await)
		st.s.hangUp()
	}
	closeAll(fds)
}

func (st *store) put(name string, fd int) {
	st.drop(name)
	st.names, st.fds = append(st.names, name), append(st.fds, fd)
}

func (st *store) drop(name string) {
	for i := range st.names {
		if st.names[i] == name {
			unix.Close(st.fds[i])
			st.names = append(st.names[:i], st.names[i+1:]...)
			st.fds = append(st.fds[:i], st.fds[i+1:]...)
			return
		}
	}
}

// replace removes the descriptor store of the predecessor.
func (s *server) replace(by *store) {
	for i := len(s.stores) - 1; i >= 0; i-- {
		if st := s.stores[i]; st != by && st.dir == by.dir {
			st.forget()
		}
	}
}

// forget closes the connection and everything that is stored.
func (st *store) forget() {
	s := st.s
	for i := range s.stores {
		if s.stores[i] == st {
			s.stores = append(s.stores[:i], s.stores[i+1:]...)
			break
		}
	}
	closeAll(st.fds)
	if st.pidfd >= 0 {
		st.pidfd.Close()
		st.pidfd = -1
	}
	st.names, st.fds, st.gone = nil, nil, true
	if st.conn >= 0 {
		s.loop.Remove(st.conn)
		unix.Close(st.conn)
		st.conn = -1
	}
	s.loop.Arm(&st.timer, lifecycle.Never)
	if st.dir != "" {
		s.loop.Defer(s.hangUp)
	}
	if len(s.stores) == 0 {
		wait := linger
		if s.leaves {
			wait = 0
		}
		s.loop.Arm(&s.idle, loop.Now().After(wait))
	}
}

// hangUp ends the connections that wait for a successor, if it is there or will not be.
func (s *server) hangUp() {
waiting:
	for i := len(s.stores) - 1; i >= 0; i-- {
		w := s.stores[i]
		if w.await == "" {
			continue
		}
		for _, st := range s.stores {
			if st.dir == w.await && (st.conn < 0 || st.hungUp()) {
				continue waiting
			}
		}
		w.forget()
	}
}

// declareDead treats a supervisor as dead that was killed and cannot end, since a
// system call does not return: its connection stays open until then.
func (s *server) declareDead(dir string) {
	for i := len(s.stores) - 1; i >= 0; i-- {
		st := s.stores[i]
		if st.dir != dir || st.conn < 0 || st.hungUp() {
			continue
		}
		if dying, _, err := process.Dying(st.pid); err == nil && dying {
			st.supervisorDied()
		}
	}
}

// hungUp reports whether the supervisor has closed its connection, which the loop may not have seen yet.
func (st *store) hungUp() bool {
	fds := []unix.PollFd{{Fd: int32(st.conn), Events: unix.POLLRDHUP}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLRDHUP) != 0
}

// supervisorDied handles the end of a connection.
func (st *store) supervisorDied() {
	st.s.loop.Remove(st.conn)
	unix.Close(st.conn)
	st.conn = -1
	if st.dir == "" {
		st.forget()
		return
	}
	st.restart()
}

// restart starts a successor of the dead supervisor.
func (st *store) restart() {
	st.tries++
	if st.tries == 1 {
		st.s.say("supervisor " + strconv.Itoa(st.pid) + " of " + st.dir + " is dead: starting its successor")
	}
	files := []uintptr{0, 1, 2}
	var kept []string
	for i, name := range st.names {
		kept = append(kept, name+"="+strconv.Itoa(len(files)))
		files = append(files, uintptr(st.fds[i]))
	}
	env := append(syscall.Environ(), KeptVariable+"="+strings.Join(kept, ","), LimitVariable+"="+limitText(st.limit))
	attr := &syscall.ProcAttr{Dir: "/", Env: env, Files: files, Sys: &syscall.SysProcAttr{PidFD: &st.child.pidfd}}
	pid, why, err := st.s.program.Start([]string{st.s.program.Path(), "--recover", st.dir}, attr)
	st.child.pid = pid
	if why != nil && st.tries == 1 {
		st.s.say(st.s.program.Path() + ": " + why.Error() + ": starting the keeper's own gracemon for " + st.dir + " instead")
	}
	if err == nil {
		err = st.s.loop.Add(st.child.pidfd, loop.Readable, loop.HandlerFunc(func(uint32) { st.restarted() }))
	}
	if err != nil {
		st.s.say("start gracemon --recover " + st.dir + ": " + err.Error())
		st.again()
	}
}

// restarted handles the end of the successor's first stage. The successor has taken
// over by then, or the container needed none.
func (st *store) restarted() {
	status, err := process.Pidfd(st.child.pidfd).Reap()
	st.s.loop.Remove(st.child.pidfd)
	unix.Close(st.child.pidfd)
	st.child = child{pidfd: -1}
	switch {
	case st.gone: // the successor has stored its descriptors
	case err == nil && status.Signal == 0 && status.Code == 0:
		st.forget()
	default:
		st.ended++
		st.again()
	}
}

func (st *store) again() {
	if st.ended >= maxEnded {
		st.s.say("no successor can take over " + st.dir + ": giving up; try gracemon --recover " + st.dir)
		st.forget()
		return
	}
	st.pause = min(max(2*st.pause, firstPause), lastPause)
	st.s.loop.Arm(&st.timer, loop.Now().After(st.pause))
}

// endIfIdle ends the process, unless somebody connects at the last moment.
func (s *server) endIfIdle() {
	if len(s.stores) > 0 {
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
	// Later connections end, and their supervisors start another keeper.
	removeOwn()
	s.loop.Stop()
}
