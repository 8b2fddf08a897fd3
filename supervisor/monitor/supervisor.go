package monitor

import (
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/inherited"
	"gracerun.io/signals"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/ownsignal"
	"gracerun.io/supervisor/program"
)

// Supervisor is the daemon's process: what all its containers share.
type Supervisor struct {
	loop    *loop.Loop
	signals ownsignal.Catcher
	direct  int      // a signalfd of the same
	args    []string // the command line
	program string   // where gracemon was installed

	// children are the processes whose end somebody waits for, by number; their
	// pidfds are in the loop. Others are orphans of containers.
	children map[int]func()
	creating int // creates under way: an unknown child may be an init

	containers []*Container
	oomScore   string // what this process was started with
	inherited  []int  // descriptors that the caller has left open for the containers' sake
	rest       rest
}

// supervise is the daemon, or, for --sync, the caller's own child.
func supervise(args []string) int {
	nameProcess(args[0])
	unix.Umask(0o022)
	theirs := inherited.Descriptors(3)
	o, err := cmdline.Parse(args[1:])
	if err == nil {
		_, err = o.Complete()
	}
	if err != nil {
		return err.(*cmdline.Exit).Status // it was right in the foreground
	}
	n := newNotes(o)
	caught, err := ownsignal.Catch(caughtSignals[:]...)
	if err != nil {
		return n.failErr("Failed to start", err)
	}
	s, err := newSupervisor(theirs, caught)
	if err != nil {
		return n.failErr("Failed to start", err)
	}
	s.args = args
	s.program = program.Path(args[0])
	if _, wrong := restPatience(); wrong != "" {
		n.warn("container " + o.ID + ": " + wrong)
	}
	c, code := newContainer(s, o, n)
	if c == nil {
		return code
	}
	s.containers = append(s.containers, c)
	c.begin()
	c.restWhenIdle()
	if err := s.loop.Run(); err != nil {
		return n.failErr("Failed to wait for events", err)
	}
	return c.exitCode & 0xff
}

// nameProcess gives the process the name of its program: started as
// /proc/self/exe it is called "exe".
func nameProcess(path string) {
	name := [16]byte{}
	copy(name[:15], path[strings.LastIndexByte(path, '/')+1:])
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name)), 0, 0, 0)
}

var caughtSignals = [...]signals.Signal{signals.TERM, signals.INT, signals.QUIT, signals.CHLD}

func newSupervisor(theirs []int, caught ownsignal.Catcher) (*Supervisor, error) {
	s := &Supervisor{children: map[int]func(){}, inherited: theirs, signals: caught}
	var err error
	if s.loop, err = loop.New(); err != nil {
		return nil, err
	}
	if err := s.loop.Add(s.signals.FD(), loop.Readable, loop.HandlerFunc(func(uint32) { s.heard(s.signals.Take()) })); err != nil {
		return nil, err
	}
	if s.direct, err = ownsignal.Direct(); err != nil {
		return nil, err
	}
	if err := s.loop.Add(s.direct, loop.Readable, loop.HandlerFunc(func(uint32) { s.heard(ownsignal.TakeDirect(s.direct)) })); err != nil {
		return nil, err
	}
	// The caller waits until nobody has its terminal or its process group any more.
	_, _ = unix.Setsid() // with --sync it may lead a group already
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	s.protect()
	return s, nil
}

// heard takes the signals that the process itself got. TERM is systemd's way to
// stop the scope of the supervisor; INT and QUIT are passed on, as conmon does.
func (s *Supervisor) heard(set ownsignal.Set) {
	for sig, rest := set.Next(); sig != 0; sig, rest = rest.Next() {
		if sig == signals.CHLD {
			s.reap()
			continue
		}
		for _, c := range s.containers {
			c.ownSignal(sig)
		}
	}
}

// waitFor has ended called when the child can be reaped; that is for ended to do.
func (s *Supervisor) waitFor(p child, ended func()) error {
	once := func() {
		delete(s.children, p.pid)
		s.loop.Remove(int(p.pidfd))
		ended()
	}
	s.children[p.pid] = once
	return s.loop.Add(int(p.pidfd), loop.Readable, loop.HandlerFunc(func(uint32) { once() }))
}

// reap ends orphans that were given to this process. It looks at each child that
// has exited before it takes it, since the status of an init must not get lost.
func (s *Supervisor) reap() {
	for {
		pid := exitedChild()
		if pid == 0 {
			return
		}
		if ended, known := s.children[pid]; known {
			ended()
			if exitedChild() == pid {
				return // it is not to be reaped yet
			}
			continue
		}
		if c := s.ofInit(pid); c != nil {
			// A tracer had it first when its end was seen (ptrace(2)).
			c.initExited()
			if exitedChild() == pid {
				return
			}
			continue
		}
		if s.creating > 0 {
			return // seen again when the create has ended
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
}

// ofInit gives the container whose first process that is.
func (s *Supervisor) ofInit(pid int) *Container {
	for _, c := range s.containers {
		if c.init.pid == pid {
			return c
		}
	}
	return nil
}

// exitedChild gives the number of some child that can be reaped, 0 if there is none.
func exitedChild() int {
	const (
		pAll  = 0 // P_ALL
		pidAt = 4 // si_pid, in ints: the union of siginfo_t is aligned to 8 bytes
	)
	var info [32]int32
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, pAll, 0, uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case 0:
			return int(info[pidAt])
		}
		return 0
	}
}

// orphans lists the children that nobody waits for. The keeper, which this process
// may have started, is none.
func (s *Supervisor) orphans() (pids []int) {
	tasks, err := open("/proc/self/task", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(tasks)
	var buf [4096]byte
	for {
		n, err := unix.ReadDirent(tasks, buf[:])
		if err != nil || n <= 0 {
			return pids
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, task := range names {
			text, _ := readFile("/proc/self/task/" + task + "/children")
			for digits := range strings.FieldsSeq(string(text)) {
				pid := number(digits)
				if _, known := s.children[pid]; !known && s.ofInit(pid) == nil && !isKeeper(pid) {
					pids = append(pids, pid)
				}
			}
		}
	}
}

func isKeeper(pid int) bool { return strings.HasSuffix(commandLine(pid), " --keeper") }

// waitedFor names the children that somebody waits for.
func (s *Supervisor) waitedFor() string {
	var names []string
	for pid := range s.children {
		names = append(names, "process "+strconv.Itoa(pid)+" ("+commandLine(pid)+")")
	}
	return strings.Join(names, ", ")
}

func commandLine(pid int) string {
	text, _ := readFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return strings.ReplaceAll(strings.TrimRight(string(text), "\x00"), "\x00", " ")
}

// finished is told by a container that there is nothing left to do for it.
func (s *Supervisor) finished(c *Container) {
	for i := range s.containers {
		if s.containers[i] == c {
			s.containers = append(s.containers[:i], s.containers[i+1:]...)
			break
		}
	}
	if len(s.containers) == 0 {
		s.loop.Stop()
	}
}

// --- programs that are started

// child is a program that this process has started.
type child struct {
	pid   int
	pidfd int
}

// start starts a program with these three descriptors. It gets the OOM score
// that the supervisor was started with: a runtime or a container that cannot be
// killed is not what anybody wants. dies says that it is not to outlive us, leads
// that it gets a process group of its own.
func (s *Supervisor) start(argv, env []string, files [3]int, dies, leads bool) (child, error) {
	p := child{pidfd: -1}
	attr := &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
		Sys:   &syscall.SysProcAttr{PidFD: &p.pidfd, Setpgid: leads},
	}
	if dies {
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	// ForkExec returns when the program runs (vfork), so that this is its score.
	s.unprotect()
	defer s.protect()
	err := ownsignal.Free(func() (err error) {
		p.pid, err = syscall.ForkExec(argv[0], argv, attr)
		return err
	})
	return p, err
}

const oomScoreFile = "/proc/self/oom_score_adj"

// protect keeps the OOM killer away from the supervisor, where that is allowed.
func (s *Supervisor) protect() {
	if s.oomScore == "" {
		text, err := readFile(oomScoreFile)
		if err != nil {
			return
		}
		s.oomScore = strings.TrimSpace(string(text))
	}
	writeOOMScore("-1000")
}

func (s *Supervisor) unprotect() {
	if s.oomScore != "" {
		writeOOMScore(s.oomScore)
	}
}

func writeOOMScore(text string) {
	fd, err := open(oomScoreFile, unix.O_WRONLY, 0)
	if err == nil {
		_, _ = unix.Write(fd, []byte(text)) // not allowed to all
		unix.Close(fd)
	}
}

// --- descriptors of the caller

// leftOpen lists those that another program in this process will have, too.
func (s *Supervisor) leftOpen() (fds []int) {
	for _, fd := range s.inherited {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

// closeInherited closes one of the caller's descriptors, or any other. Its number
// is not the caller's any more: it may be of something else by the time of letGo.
func (s *Supervisor) closeInherited(fd int) {
	unix.Close(fd)
	for i := range s.inherited {
		if s.inherited[i] == fd {
			s.inherited = append(s.inherited[:i], s.inherited[i+1:]...)
			return
		}
	}
}

// letGo closes what the caller has left open for the time that the container
// runs, such as the ports that Podman keeps busy.
func (s *Supervisor) letGo(keep ...int) {
descriptors:
	for _, fd := range s.inherited {
		for _, k := range keep {
			if fd == k {
				continue descriptors
			}
		}
		unix.Close(fd)
	}
	s.inherited = nil
}
