package monitor

import (
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/recovery"
	"gracerun.io/supervisor/settings"
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
//
// First comes the exit file, which is what others wait for; what is left to do is
// done while they read it.
func (c *Container) recordExit(status lifecycle.Status, reason lifecycle.Reason) int32 {
	c.completeOutput()
	// The ports that were kept busy for the container are free before anybody
	// hears of its end.
	c.s.letGo(c.parent.sync, c.parent.attach)
	c.exitCode = c.exitNumber(status)
	errno := c.exits.write(c, strconv.Itoa(c.exitCode))
	c.endOutput()
	if errno != 0 {
		return errno
	}
	if c.record != nil {
		c.record.Exit = statedir.Exit{
			Status: string(control.AppendStatus(nil, status)),
			Reason: c.reasonOf(status, reason),
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

// reasonOf is why it ended, or why nobody knows how.
func (c *Container) reasonOf(status lifecycle.Status, reason lifecycle.Reason) string {
	if status.Kind == lifecycle.StatusUnknown && c.init.unknown != "" {
		return c.init.unknown
	}
	return reason.String()
}

// outputIsReady reports whether the log is complete and on its disk, or nobody is to
// wait for that any longer: then it is completed later. See lastWords.
func (c *Container) outputIsReady() bool {
	if c.streams.late() {
		return false
	}
	c.completeOutput()
	return !c.streams.late()
}

// completeOutput completes the log, as far as it can be, once.
func (c *Container) completeOutput() {
	if c.streams.logs != nil && !c.streams.completed {
		c.streams.complete(c)
		if c.streams.logs.Owed() == 0 {
			c.memo.SetOutputDone()
		}
	}
}

// endOutput completes the log, and gives back what it took, and then completes
// what clients get.
func (c *Container) endOutput() {
	c.completeOutput()
	if c.streams.logs != nil {
		c.streams.close(c)
		c.clients.finish()
	} else if c.clients.server == nil {
		c.clients.finished = true
	}
}

// runExitCommand runs the exit command, waits for it and ends the supervision.
// The command may come back to ask the supervisor, as `gracerun delete` does.
//
// systemd stops the supervisor's scope as soon as the container's is gone (see
// scope.Monitor), by a TERM to all who are in it: so to the command, just when it
// runs. One that has failed of that is run once more.
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
	if begun, owner := c.memo.Command(); begun {
		c.awaitCommand(owner, finish) // a predecessor's
		return
	}
	var run func(again bool)
	run = func(again bool) {
		c.s.letGo()
		// It forks twice to leave its caller behind: the second time must not
		// lead back to us.
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
		argv := append([]string{c.o.ExitCommand}, c.o.ExitArgs...)
		env, files := c.env, [3]int{0, 1, 2}
		if c.memo != nil && !again {
			argv, env, files[0] = append([]string{selfPath}, argv...), append(env[:len(env):len(env)], stageVariable+"="+commandStage), c.memo.FD()
		}
		terms := c.terms
		p, err := c.s.start(argv, env, files, false, false)
		if err == nil {
			err = c.s.waitFor(p, func() {
				code := c.exitCommandEnded(p)
				if code == 0 {
					finish()
					return
				}
				onceMore := func() {
					if c.terms > terms && !again {
						run(true)
						return
					}
					c.exitCode = code
					finish()
				}
				if c.terms > terms || again {
					onceMore()
					return
				}
				// Our own TERM may be on its way.
				c.at(loop.Now().After(lifecycle.Second), onceMore)
			})
		}
		if err != nil {
			c.notes.warn("container " + c.o.ID + ": run exit command " + c.o.ExitCommand + ": " + cmdline.Text(err))
			c.exitCode = 1
			finish()
		}
	}
	if c.o.ExitDelay > 0 {
		c.notes.debug("Sleeping for " + strconv.Itoa(c.o.ExitDelay) + " seconds before executing exit command")
		at := c.memo.CommandAt()
		if at == 0 {
			at = loop.Now().After(lifecycle.Duration(c.o.ExitDelay) * lifecycle.Second)
			c.memo.SetCommandAt(at)
		}
		c.at(at, func() { run(false) })
		return
	}
	run(false)
}

// becomeCommand is a process that is to become the exit command of its arguments:
// if no other is or was one. Its stdin are the notes, where that is noted. So the
// command is run once, whenever supervisors die.
func becomeCommand(args []string) int {
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return 127
	}
	memo, err := recovery.UseNotes(fd)
	if err != nil {
		return 127
	}
	self, _ := process.Identify(unix.Getpid())
	if !memo.ClaimCommand(self) {
		return 0
	}
	null, err := open("/dev/null", unix.O_RDWR, 0)
	if err == nil {
		_ = unix.Dup3(null, 0, 0)
	}
	env := without(syscall.Environ(), stageVariable)
	_ = syscall.Exec(args[1], args[1:], env)
	return 127
}

// awaitCommand waits for the end of an exit command that a predecessor has started.
func (c *Container) awaitCommand(owner process.Identity, ended func()) {
	p, err := process.OpenVerified(owner)
	if err != nil {
		ended() // it has
		return
	}
	err = c.s.loop.Add(int(p), loop.Readable, loop.HandlerFunc(func(uint32) {
		c.s.loop.Remove(int(p))
		p.Close()
		ended()
	}))
	if err != nil {
		p.Close()
		ended()
	}
}

// exitCommandEnded gives the exit code of the exit command, 0 if nobody knows it.
func (c *Container) exitCommandEnded(p child) int {
	status, err := process.Pidfd(p.pidfd).Reap()
	unix.Close(p.pidfd)
	if err != nil {
		return 0
	}
	return exitCode(status)
}

// finish ends the supervision of the container, once its clients have everything.
func (c *Container) finish() {
	c.endOutput() // if the create failed
	c.census.Close()
	c.clients.leave(c, func() {
		c.speakLastWords(func() {
			c.server.close()
			if c.dir != nil {
				c.closeState()
			}
			c.deposit.done(c)
			c.s.finished(c)
		})
	})
}

// retire removes a state directory of the container, and keeps the journal in it.
func (c *Container) retire(dir *statedir.Dir) {
	node, _ := settings.Load()
	warning, err := history.Retire(dir, node.History)
	for _, err := range [...]error{warning, err} {
		if err != nil {
			c.notes.warn("container " + c.o.ID + ": " + err.Error())
		}
	}
}

func (c *Container) closeState() {
	if c.keep {
		recovery.Finish(c.dir.FD())
	} else {
		c.retire(c.dir)
	}
	if c.journal != nil {
		c.journal.Close()
	}
	c.memo.Close()
	c.memo = nil
	c.dir.Close()
}
