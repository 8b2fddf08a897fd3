package monitor

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// timedOutMessage is what CRI-O compares with.
const timedOutMessage = "command timed out"

// noStatus is the exit status where there is none to tell: nobody knows it, or
// the container was killed since its time was up. conmon has the same number.
const noStatus = -1

// exitNumber is the status as exit files and messages have it.
func (c *Container) exitNumber(s lifecycle.Status) int {
	switch {
	case c.timedOut, s.Kind == lifecycle.StatusUnknown:
		return noStatus
	case s.Kind == lifecycle.StatusSignal:
		return 128 + int(s.Value)
	}
	return int(s.Value)
}

func exitCode(s process.Status) int {
	switch {
	case !s.Known:
		return noStatus
	case s.Signal != 0:
		return 128 + int(s.Signal)
	}
	return s.Code
}

// recordExit tells everybody how the container ended, its log being complete. It
// is tried again if it fails, and gives the errno.
func (c *Container) recordExit(status lifecycle.Status, reason lifecycle.Reason) int32 {
	c.endOutput()
	// The ports that were kept busy for the container are free before anybody
	// hears of its end.
	c.s.letGo(c.parent.sync, c.parent.attach)
	c.exitCode = c.exitNumber(status)
	text := strconv.Itoa(c.exitCode)
	if c.o.PersistDir != "" {
		if errno := c.writeExit(c.o.PersistDir+"/exit", text, "container exit file"); errno != 0 {
			return errno
		}
	}
	if c.o.ExitDir != "" {
		if errno := c.writeExit(c.o.ExitDir+"/"+c.o.ID, text, "exit file"); errno != 0 {
			return errno
		}
	}
	if c.record != nil {
		c.record.Exit = statedir.Exit{
			Status: string(control.AppendStatus(nil, status)),
			Reason: reason.String(),
			At:     time.Now().UTC().Format(time.RFC3339Nano),
		}
		c.writeRecord()
	}
	message := ""
	if c.timedOut {
		message = timedOutMessage
	}
	c.parent.exited(c, c.exitCode, message)
	return 0
}

// endOutput completes the log, once, and then what clients get.
func (c *Container) endOutput() {
	if c.streams.logs != nil {
		c.streams.finish(c)
		c.clients.finish()
	} else if c.clients.server == nil {
		c.clients.finished = true
	}
}

// writeExit writes an exit file. If its directory is gone nobody waits for it.
func (c *Container) writeExit(path, text, what string) int32 {
	err := writeAtomically(path, text)
	if err == nil {
		return 0
	}
	c.notes.warn("Failed to write " + text + " to " + what + ": container " + c.o.ID + ": " + path + ": " + cmdline.Text(err))
	if err == unix.ENOENT || err == unix.ENOTDIR {
		c.exitCode = 1
		return 0
	}
	return errnoOf(err)
}

// runExitCommand runs the exit command, waits for it and ends the supervision.
// The command may come back to ask the supervisor, as `gracerun delete` does.
func (c *Container) runExitCommand(done func()) {
	finish := func() {
		if done != nil {
			done()
		}
		c.finish()
	}
	if c.o.ExitCommand == "" {
		finish()
		return
	}
	run := func() {
		c.s.letGo()
		// It forks twice to leave its caller behind: the second time must not
		// lead back to us.
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
		argv := append([]string{c.o.ExitCommand}, c.o.ExitArgs...)
		p, err := c.s.start(argv, c.env, [3]int{0, 1, 2}, false)
		if err == nil {
			err = c.s.waitFor(p, func() { c.exitCommandEnded(p); finish() })
		}
		if err != nil {
			c.notes.warn("container " + c.o.ID + ": run exit command " + c.o.ExitCommand + ": " + cmdline.Text(err))
			c.exitCode = 1
			finish()
		}
	}
	if c.o.ExitDelay > 0 {
		c.notes.debug("Sleeping for " + strconv.Itoa(c.o.ExitDelay) + " seconds before executing exit command")
		c.at(loop.Now().After(lifecycle.Duration(c.o.ExitDelay)*lifecycle.Second), run)
		return
	}
	run()
}

func (c *Container) exitCommandEnded(p child) {
	status, err := process.Pidfd(p.pidfd).Reap()
	unix.Close(p.pidfd)
	if code := exitCode(status); err == nil && code != 0 {
		c.exitCode = code
	}
}

// finish ends the supervision of the container, once its clients have everything.
func (c *Container) finish() {
	c.endOutput() // if the create failed
	c.clients.leave(c, func() {
		c.server.close()
		if c.dir != nil {
			c.closeState()
		}
		c.s.finished(c)
	})
}

func (c *Container) closeState() {
	if !c.keep {
		if err := c.dir.Remove(); err != nil {
			c.notes.warn("container " + c.o.ID + ": " + err.Error())
		}
	}
	if c.journal != nil {
		c.journal.Close()
	}
	c.dir.Close()
}
