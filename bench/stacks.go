package bench

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What a container costs with a monitor and a runtime as a node has them: made,
// started, executed in, ended and deleted, one after the other and many in a row.

const (
	stackSection = "A container's life under its monitor"
	createWork   = "create until init's pid is told"
	startWork    = "start"
	execWork     = "exec until its exit file is there"
	deleteWork   = "delete"
	rowSection   = "Many containers in a row"
)

func rowWork(n int) string { return fmt.Sprintf("create and start of %d", n) }
func endWork(n int) string {
	return fmt.Sprintf("TERM to the monitors of %d, until the last exit file is there", n)
}
func goneWork(n int) string {
	return fmt.Sprintf("TERM to the monitors of %d, until the last monitor has ended", n)
}

// inARow is how many containers there are.
func (l *lab) inARow() int {
	if l.Quick {
		return 10
	}
	return manyInARow
}

const manyInARow = 200

func (l *lab) lives() error {
	stacks := l.stacks()
	l.progress("life of a container under its monitor: %d stacks", len(stacks))
	interleave(l, "life under a monitor", l.rounds(30), stacks, l.liveUnder)
	n := l.inARow()
	l.progress("%d containers in a row", n)
	rounds := 3
	if l.Quick {
		rounds = 1
	}
	interleave(l, fmt.Sprintf("%d containers in a row", n), rounds, stacks, func(s stack) error { return l.row(s, n) })
	return nil
}

func (l *lab) liveUnder(s stack) error {
	c, err := l.prepare(s.runtime, nil, "serve", "0")
	if err != nil {
		return err
	}
	err = func() error {
		add := func(work string, wall int64) { l.report.add(stackSection, work, s.name, Wall, milliseconds(wall)) }
		wall, err := c.createUnder(s.monitor, filepath.Join(c.bundle, "log"))
		if err != nil {
			return err
		}
		add(createWork, wall)
		used, err := c.start()
		if err != nil {
			return err
		}
		add(startWork, used.wall)
		if wall, err = c.execUnder(s.monitor, 1, "nothing"); err != nil {
			return err
		}
		add(execWork, wall)
		syscall.Kill(c.monitorPid, syscall.SIGTERM)
		if _, err := c.awaitExitFile(); err != nil {
			return err
		}
		c.reapMonitor()
		if used, err = c.call("delete", c.id); err != nil {
			return err
		}
		add(deleteWork, used.wall)
		return nil
	}()
	if err != nil {
		c.end()
		return err
	}
	c.forget()
	return nil
}

// row makes and starts many, one after the other, and ends them all at once as systemd
// ends their monitors' scopes.
func (l *lab) row(s stack, n int) error {
	var all []*container
	defer func() {
		for _, c := range all {
			c.end()
		}
	}()
	for range n {
		c, err := l.prepare(s.runtime, nil, "serve", "0")
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	begin := now()
	for _, c := range all {
		if _, err := c.createUnder(s.monitor, filepath.Join(c.bundle, "log")); err != nil {
			return err
		}
		if _, err := c.start(); err != nil {
			return err
		}
	}
	l.report.add(rowSection, rowWork(n), s.name, Wall, milliseconds(now()-begin))
	cpu, err := cpuOfMonitors(all)
	if err != nil {
		return err
	}
	files, err := watchCount(l.exits, n)
	if err != nil {
		return err
	}
	monitors := make([]int, n)
	for i, c := range all {
		if monitors[i], err = unix.PidfdOpen(c.monitorPid, 0); err != nil {
			return err
		}
		defer unix.Close(monitors[i])
	}
	begin = now()
	for _, pidfd := range monitors {
		if err := unix.PidfdSendSignal(pidfd, unix.SIGTERM, nil, 0); err != nil {
			return err
		}
	}
	var group sync.WaitGroup
	var told int64
	var toldErr error
	group.Go(func() { told, toldErr = files.wait() })
	for _, pidfd := range monitors {
		if err := awaitPidfd(pidfd); err != nil {
			return err
		}
	}
	ended := now()
	group.Wait()
	if toldErr != nil {
		return toldErr
	}
	l.report.add(rowSection, endWork(n), s.name, Wall, milliseconds(told-begin))
	l.report.add(rowSection, goneWork(n), s.name, Wall, milliseconds(ended-begin))
	// Until they are reaped they can be asked what they have used.
	used, err := cpuOfMonitors(all)
	if err != nil {
		return err
	}
	l.report.add(rowSection, goneWork(n), s.name, CPU, milliseconds(used-cpu))
	return nil
}

func awaitPidfd(pidfd int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("a monitor has not ended for %s", patience)
		default:
			return nil
		}
	}
}

// exitCount waits until that many exit files are there.
type exitCount struct {
	fd, n int
}

func watchCount(dir string, n int) (*exitCount, error) {
	w, err := watch(dir, "")
	if err != nil {
		return nil, err
	}
	return &exitCount{w.fd, n}, nil
}

// wait gives the instant of the last one. Monitors write a file of another name first,
// and rename it, which is one event each.
func (e *exitCount) wait() (int64, error) {
	defer unix.Close(e.fd)
	seen := map[string]bool{}
	for give := time.Now().Add(patience); len(seen) < e.n; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}, int(max(0, time.Until(give).Milliseconds())))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return 0, fmt.Errorf("%d exit files of %d (%v)", len(seen), e.n, err)
		}
		buffer := make([]byte, 64<<10)
		if n, err = unix.Read(e.fd, buffer); err != nil {
			return 0, err
		}
		for _, name := range movedNames(buffer[:n]) {
			seen[name] = true
		}
	}
	return now(), nil
}

// movedNames gives the names in a buffer of inotify events that were put in place by a
// rename.
func movedNames(buffer []byte) (names []string) {
	for len(buffer) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(buffer[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buffer[12:]))
		if mask&unix.IN_MOVED_TO != 0 {
			names = append(names, unix.ByteSliceToString(buffer[unix.SizeofInotifyEvent:end]))
		}
		buffer = buffer[end:]
	}
	return names
}
