package keeper

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// A supervisor catches TERM, INT and QUIT. It can die of one of them all the same:
// in the millisecond in which its process executes another program, when it wakes
// up or is upgraded, for a Go program unblocks them before it can catch them. What
// the signal asked for, as systemd asks by a TERM for the end of the container, is
// not to be lost with it: the successor gets it in its place.

// caught reports whether a supervisor catches the signal wherever it can.
func caught(sig signals.Signal) bool {
	return sig == signals.TERM || sig == signals.INT || sig == signals.QUIT
}

// death is the end of a supervisor whose container has a successor, or will have.
type death struct {
	s      *server
	pid    int
	pidfd  process.Pidfd
	dir    string
	inode  uint64 // of the state directory: another container may come to have its path
	signal signals.Signal
	tries  int
	timer  loop.Timer
}

// The kernel is asked how a supervisor has ended until it tells, which may be once
// its parent has reaped it; after a pause that doubles, up to a minute and a half.
const (
	askPause = 20 * lifecycle.Millisecond
	maxAsks  = 12
)

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

func inodeOf(path string) uint64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// investigate finds out how a supervisor has ended, however long its parent takes
// to reap it.
func (s *server) investigate(h *hold) {
	if h.pidfd < 0 || h.inode == 0 {
		return
	}
	d := &death{s: s, pid: h.pid, pidfd: h.pidfd, dir: h.dir, inode: h.inode}
	h.pidfd = -1
	d.timer.Fire = d.ask
	s.forgetOld()
	// One that lives can have been here before, if it has connected anew.
	for i := len(s.deaths) - 1; i >= 0; i-- {
		if before := s.deaths[i]; before.pid == d.pid && before.inode == d.inode {
			before.forget()
		}
	}
	s.deaths = append(s.deaths, d)
	if h.died != 0 {
		d.is(h.died)
		return
	}
	// Its descriptors are closed before it is said to have exited.
	err := s.loop.Add(int(d.pidfd), loop.Readable, loop.HandlerFunc(func(uint32) {
		s.loop.Remove(int(d.pidfd))
		d.ask()
	}))
	if err != nil {
		d.forget()
	}
}

// endOf asks the kernel how somebody else's child has ended. A test of older kernels
// replaces it.
var endOf = func(p process.Pidfd, pid int) (process.Status, error) {
	status, err := p.ZombieStatus(pid)
	if err != nil {
		status, err = p.ExitInfo()
	}
	return status, err
}

func (d *death) ask() {
	if d.signal != 0 {
		return // heard meanwhile
	}
	status, err := endOf(d.pidfd, d.pid)
	switch {
	case err == nil:
		d.is(status.Signal)
	case errors.Is(err, process.ErrUnsupported) && d.s.kills == nil, d.tries >= maxAsks:
		d.forget()
	default:
		d.s.loop.Arm(&d.timer, loop.Now().After(askPause<<d.tries))
		d.tries++
	}
}

// is: the supervisor has died of that signal, or of none.
func (d *death) is(sig signals.Signal) {
	if !caught(sig) {
		d.forget()
		return
	}
	d.signal = sig
	for _, h := range d.s.holds {
		if d.inherits(h) {
			d.pass(h)
			return
		}
	}
}

// inherits reports whether that is the successor.
func (d *death) inherits(h *hold) bool {
	return h.pidfd >= 0 && h.pid != d.pid && h.dir == d.dir && h.inode == d.inode
}

// pass gives the successor what its predecessor could not take. If it dies of it
// in turn, there will be another.
func (d *death) pass(h *hold) {
	d.s.say("supervisor " + strconv.Itoa(d.pid) + " of " + d.dir + " died of " + d.signal.String() + " before it could catch it: " +
		strconv.Itoa(h.pid) + " gets it")
	_ = h.pidfd.Send(d.signal)
	d.forget()
}

// succeeded is told when a supervisor has made its deposit.
func (s *server) succeeded(h *hold) {
	for i := len(s.deaths) - 1; i >= 0; i-- {
		if d := s.deaths[i]; d.signal != 0 && d.inherits(h) {
			d.pass(h)
		}
	}
}

func (d *death) forget() {
	s := d.s
	for i := range s.deaths {
		if s.deaths[i] == d {
			s.deaths = append(s.deaths[:i], s.deaths[i+1:]...)
			break
		}
	}
	s.loop.Arm(&d.timer, lifecycle.Never)
	s.loop.Remove(int(d.pidfd))
	d.pidfd.Close()
}

// forgetOld lets go of those whose container is gone.
func (s *server) forgetOld() {
	for i := len(s.deaths) - 1; i >= 0; i-- {
		if d := s.deaths[i]; inodeOf(d.dir) != d.inode {
			d.forget()
		}
	}
}

// --- kernels that keep no exit status

// watchKills listens for deaths by these signals where nobody could be asked
// afterwards: before Linux 6.15, as root.
func (s *server) watchKills(h *hold) {
	if s.kills != nil || h.pidfd < 0 {
		return
	}
	if _, err := endOf(h.pidfd, h.pid); !errors.Is(err, process.ErrUnsupported) {
		return
	}
	w, err := process.WatchKills(signals.TERM, signals.INT, signals.QUIT)
	if err != nil {
		return // another user's keeper does without
	}
	if err := s.loop.Add(w.FD(), loop.Readable, loop.HandlerFunc(func(uint32) { s.heard() })); err != nil {
		w.Close()
		return
	}
	s.kills = w
}

// heard takes what the kernel says of any process of the host.
func (s *server) heard() {
	for {
		pid, sig, err := s.kills.Next()
		if errors.Is(err, process.ErrNone) {
			return
		}
		if err != nil {
			continue // some were lost: they are not known
		}
		// The end of its connection may have been seen already, or may not.
		for _, h := range s.holds {
			if h.pid == pid && h.pidfd >= 0 {
				h.died = sig
			}
		}
		for _, d := range s.deaths {
			if d.pid == pid && d.signal == 0 {
				d.is(sig)
				break // the list is another now
			}
		}
	}
}
