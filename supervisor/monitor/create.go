package monitor

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gracerun.io/faults"
	"gracerun.io/runtime/cgroup"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/recovery"
)

// create is the runtime's work: to create or restore the container, or to run
// the process of an exec.
type create struct {
	runtime child // pid 0: it does not run
	ended   bool  // and it was successful; a terminal is awaited
	wait    loop.Timer
	failed  bool
	killed  bool // the runtime was, by us or another
	remains bool // the runtime has made a container, or was killed when it may have
	removal loop.Timer

	overflow overflow
}

// begin starts the runtime, or for --exec-attach, waits for the client first.
func (c *Container) begin() {
	c.s.creating++
	err := c.streams.make(c)
	if err == nil {
		err = c.clients.listen(c)
	}
	if err != nil {
		c.createFailed(err.Error(), err.Error())
		return
	}
	if c.o.ExecAttach {
		c.notes.debug("sending attach message to parent")
		c.parent.attached(c)
		if c.parent.start > 0 {
			// What the process writes is to reach the client from the first byte on.
			c.notes.debug("exec with attach is waiting for start message from parent")
			err := c.s.loop.Add(c.parent.start, loop.Readable, loop.HandlerFunc(func(uint32) {
				_, _ = readOnce(c.parent.start)
				c.notes.debug("exec with attach got start message from parent")
				c.parent.closeStart(c)
				c.runRuntime()
			}))
			if err != nil {
				c.createFailed("", "start-pipe read failed "+err.Error())
			}
			return
		}
	}
	c.runRuntime()
}

// runRuntime starts the runtime.
func (c *Container) runRuntime() {
	argv := c.o.RuntimeCommand(c.clients.consolePath())
	c.notes.trace("calling runtime args: " + strings.Join(argv, " ") + " ")
	argv = c.shorten(argv)
	c.deposit.make(c) // what there is, so that somebody cleans up after us
	c.memo.SetStage(recovery.Making)
	point := faults.Point("runtime.create")
	if c.o.Exec {
		point = "runtime.exec"
	}
	c.faulty(point, 0, func() int32 {
		env := c.env
		files := [3]int{0, 1, 2} // passthrough: the caller's own
		if !c.streams.passthrough {
			files = c.streams.theirs
		}
		argv, env, err := c.listenPID(argv, env)
		if err == nil {
			c.create.runtime, err = c.s.start(argv, env, files, true, c.o.Exec && c.o.Timeout > 0) // see killGroup
		}
		c.streams.handedOver(c)
		if err != nil {
			// execv in a forked child would have ended it with this status.
			c.createFailed("", "run "+c.o.Runtime+": "+cmdline.Text(err))
			return 0
		}
		if err := c.s.waitFor(c.create.runtime, c.runtimeEnded); err != nil {
			c.createFailed("", "wait for the runtime: "+err.Error())
		}
		c.watchForOverflow()
		return 0
	}, func(errno int32) {
		if errno != 0 {
			c.createFailed("", "run "+c.o.Runtime+": "+cmdline.Text(unix.Errno(errno)))
		}
	})
}

// listenPID arranges for the runtime to have its own number as LISTEN_PID, if
// that was meant for this process (sd_listen_fds(3)). Only the runtime's process
// itself knows the number before it runs: it is this program first.
func (c *Container) listenPID(argv, env []string) ([]string, []string, error) {
	text, ok := syscall.Getenv("LISTEN_PID")
	if !ok {
		return argv, env, nil
	}
	pid := number(text)
	if pid <= 0 {
		return nil, nil, note("Invalid LISTEN_PID " + text[:min(len(text), 10)])
	}
	if !c.o.ReplaceListenPID && pid != unix.Getpid() {
		return argv, env, nil
	}
	return append([]string{selfPath}, argv...), append(env[:len(env):len(env)], stageVariable+"="+listenStage), nil
}

// execListening becomes the program of the arguments, with LISTEN_PID.
func execListening(argv []string) int {
	argv = argv[1:]
	env := append(without(without(syscall.Environ(), "LISTEN_PID"), stageVariable), "LISTEN_PID="+strconv.Itoa(unix.Getpid()))
	if len(argv) > 0 {
		_ = syscall.Exec(argv[0], argv, env)
	}
	return 127
}

// abortCreate ends a create that was to be stopped and does not end by itself.
func (c *Container) abortCreate() {
	switch {
	case c.create.failed:
	case c.create.runtime.pid != 0:
		_ = process.Pidfd(c.create.runtime.pidfd).Send(9)
	default: // it waits for a client that has not come
		c.createFailed("", "stopped before it was created")
	}
}

// runtimeEnded takes the end of the runtime and finds out what it has made.
func (c *Container) runtimeEnded() {
	c.s.loop.Arm(&c.create.overflow.timer, lifecycle.Never)
	p := c.create.runtime
	c.create.runtime = child{}
	status, err := process.Pidfd(p.pidfd).Reap()
	unix.Close(p.pidfd)
	if err != nil {
		c.createFailed("", "Failed to wait for `runtime "+c.command()+"`: "+err.Error())
		return
	}
	code := exitCode(status)
	c.create.killed = status.Signal != 0
	// The exit status of a detached exec says nothing; that there is no number
	// of a process does.
	if c.o.Exec && code != 0 && !c.hasPid() {
		c.runtimeSucceeded() // which says what is missing
		return
	}
	if !c.o.Exec && code != 0 {
		c.create.remains = c.create.killed
		why := "Failed to create container: exit status " + strconv.Itoa(code)
		if c.machine.State() == lifecycle.Killing {
			why = "Failed to create container: it was stopped before it was there"
		}
		c.createFailed(c.complaint(), why)
		return
	}
	c.adopt()
	if c.o.Terminal && c.streams.ours[1] < 0 {
		// It was sent before the runtime ended, and may be seen after.
		c.create.ended = true
		c.create.wait.Fire = func() { c.noTerminal() }
		c.s.loop.Arm(&c.create.wait, loop.Now().After(terminalPatience))
		return
	}
	c.runtimeSucceeded()
}

// terminalPatience is how long after a runtime's end its terminal may be seen.
const terminalPatience = lifecycle.Second

func (c *Container) noTerminal() {
	const problem = "Runtime did not set up terminal"
	told := c.complaint()
	if told == "" || !c.o.Exec {
		told = problem
	}
	c.create.remains = !c.o.Exec
	c.createFailed(told, problem)
}

// runtimeSucceeded finds out what the runtime has made.
func (c *Container) runtimeSucceeded() {
	c.create.ended = false
	c.s.loop.Arm(&c.create.wait, lifecycle.Never)
	text, err := readFile(c.o.ContainerPIDFile)
	pid := number(strings.TrimSpace(string(text)))
	if err == nil && pid <= 0 {
		// CRI-O makes an empty file for the runtime to write to.
		err = note("it holds no process number")
	}
	if err != nil {
		problem := "Failed to open file “" + c.o.ContainerPIDFile + "”: " + cmdline.Text(err)
		complaint := c.complaint()
		if complaint == "" {
			complaint = problem
		}
		c.create.remains = !c.o.Exec
		c.createFailed(complaint, "Failed to read pidfile: "+problem)
		return
	}
	pidfd, err := process.Open(pid)
	if err != nil {
		c.create.remains = !c.o.Exec
		c.createFailed("container process "+strconv.Itoa(pid)+" is gone", "Failed to look after process "+strconv.Itoa(pid)+": "+err.Error())
		return
	}
	c.created(pid, pidfd)
}

// hasPid reports whether the runtime has written a process number.
func (c *Container) hasPid() bool {
	text, err := readFile(c.o.ContainerPIDFile)
	return err == nil && number(strings.TrimSpace(string(text))) > 0
}

func (c *Container) command() string {
	switch {
	case c.o.Exec:
		return "exec"
	case c.o.Restore != "":
		return "restore"
	}
	return "create"
}

// longestComplaint is how much of it the caller is told, as by conmon.
const longestComplaint = 8191

// complaint is what the runtime has written to stderr.
func (c *Container) complaint() string {
	if c.streams.ours[2] < 0 {
		return ""
	}
	said := c.create.overflow.said
	if said == nil {
		buf := make([]byte, longestComplaint)
		n, err := unix.Read(c.streams.ours[2], buf)
		if err != nil || n <= 0 {
			return ""
		}
		said = buf[:n]
	}
	text := string(said)
	c.notes.warn("runtime stderr: " + text)
	return text
}

// created begins to look after init. As a child that nobody else can reap, it
// has its number until its end is seen.
func (c *Container) created(pid int, pidfd process.Pidfd) {
	c.notes.debug("container PID: " + strconv.Itoa(pid))
	c.init.pid, c.init.pidfd = pid, pidfd
	var id process.Identity
	if c.record != nil {
		var err error
		if id, err = pidfd.Identity(pid); err == nil {
			c.record.Init = id.String()
			c.writeRecord()
		}
	}
	if stat, err := pidfd.Stat(pid); err == nil {
		c.start.executed = !stat.Forked
	}
	c.findCgroup()
	c.noteInit(id)
	c.parent.created(c, pid)
	c.watchOOM()
	c.census = c.cgroup.OpenCensus()
	c.streams.watch(c)
	if c.o.Timeout > 0 {
		at := loop.Now().After(lifecycle.Duration(c.o.Timeout) * lifecycle.Second)
		c.memo.SetTimeout(at)
		c.s.loop.Arm(&c.timeout, at)
	}
	c.deposit.make(c)
	c.tell(lifecycle.Event{Kind: lifecycle.CreateDone})
	if c.o.Exec || c.o.Restore != "" {
		c.tell(lifecycle.Event{Kind: lifecycle.StartDone})
	} else if c.start.executed {
		c.s.loop.Defer(c.lookForStart) // somebody has started it who did not wait for the create
	}
	if c.cgroup.Dir == "" {
		c.lookIfEmpty() // nobody in there is known to be the container's
	}
	c.s.creating--
	if err := c.s.waitFor(child{pid, int(pidfd)}, c.initExited); err != nil {
		c.notes.warn("container " + c.o.ID + ": " + err.Error())
	}
	c.s.reap()
}

// findCgroup finds the cgroup that is the container's own. One in which the
// supervisor is too (Podman's --cgroups=disabled), or other processes, is not.
func (c *Container) findCgroup() {
	if c.o.Exec {
		return
	}
	g, err := cgroup.Of(c.init.pid)
	if err != nil || g.Dir == "" {
		return
	}
	own, err := cgroup.Of(unix.Getpid())
	if err != nil || own.Dir == g.Dir || strings.HasPrefix(own.Dir, g.Dir+"/") {
		return
	}
	if pids, err := g.Pids(); err != nil || c.o.Restore == "" && (len(pids) != 1 || pids[0] != c.init.pid) {
		return
	}
	c.cgroup = g
}

// createFailed is the end of a create that made nothing, or nothing that can be
// supervised: the caller is told, and
// the exit command runs, as with conmon. told is the message for the caller, who else hears why.
func (c *Container) createFailed(told, why string) {
	if c.create.failed {
		return
	}
	c.create.failed = true
	if told == "" {
		told = why
	}
	c.s.creating--
	c.parent.failed(c, told)
	c.exitCode = c.notes.fail(why)
	if c.dir != nil {
		c.keepState(false) // there is nothing to be deleted
	}
	c.tell(lifecycle.Event{Kind: lifecycle.CreateDone, Errno: int32(unix.EIO)})
	c.s.loop.Defer(func() {
		c.s.reap()
		over := func() { c.runExitCommand(nil) }
		switch {
		case c.create.remains:
			c.removeRemains(over)
		case c.create.killed:
			c.within(removalPatience, over, c.endOrphans)
		default:
			over()
		}
	})
}

// removeRemains removes what a runtime that was killed, by us or with its
// supervisor, has made, or what nobody can look after, and then calls over: the
// runtime's own children, if it was killed and they are ours, and by its delete the
// rest. The machine is told before, since a gracerun that deletes asks it.
func (c *Container) removeRemains(over func()) {
	c.within(removalPatience, over, func(done func()) {
		if !c.create.killed {
			c.deleteRemains(done)
			return
		}
		c.endOrphans(func() { c.deleteRemains(done) })
	})
}

// removalPatience is how long what a create has left may take to go. A hook of the
// runtime's delete can hang, or a process not die.
const removalPatience = 30 * lifecycle.Second

// within calls over when that is done, or when it takes too long.
func (c *Container) within(limit lifecycle.Duration, over func(), do func(done func())) {
	timer, ended := &c.create.removal, false
	end := func() {
		if !ended {
			ended = true
			c.s.loop.Arm(timer, lifecycle.Never)
			over()
		}
	}
	timer.Fire = func() {
		c.notes.warn("container " + c.o.ID + ": what its create has left has not gone in " + limit.String() + ": waited for " + c.s.waitedFor() +
			". Look what holds it up, and then run " + strings.Join(c.deleteCommand(), " "))
		end()
	}
	c.s.loop.Arm(timer, loop.Now().After(limit))
	do(end)
}

// endOrphans kills what a runtime that was killed leaves behind: an init that is
// half made, a hook. As a subreaper this process becomes the parent of those whose
// parent dies, and nobody else can reap them: the numbers stay theirs. Of what a
// predecessor's runtime has left nothing is known but to the runtime.
func (c *Container) endOrphans(over func()) {
	if len(c.s.containers) > 1 {
		over() // whose they are is not known
		return
	}
	left := 0
	for _, pid := range c.s.orphans() {
		pidfd, err := process.Open(pid)
		if err != nil {
			continue
		}
		if err = pidfd.Send(9); err == nil {
			err = c.s.waitFor(child{pid, int(pidfd)}, func() {
				_, _ = pidfd.Reap()
				pidfd.Close()
				if left--; left == 0 {
					c.endOrphans(over) // those that were theirs are ours by now
				}
			})
		}
		if err != nil {
			pidfd.Close()
			continue
		}
		left++
	}
	if left == 0 {
		over()
	}
}

// deleteRemains has the runtime delete the container.
func (c *Container) deleteRemains(over func()) {
	p, err := c.s.start(c.deleteCommand(), c.env, [3]int{0, 1, 2}, true, false)
	if err == nil {
		err = c.s.waitFor(p, func() {
			status, err := process.Pidfd(p.pidfd).Reap()
			unix.Close(p.pidfd)
			if code := exitCode(status); err == nil && code != 0 {
				c.notes.warn("container " + c.o.ID + ": " + strings.Join(c.deleteCommand(), " ") + ": exit status " + strconv.Itoa(code) +
					": what was made of the container may be left")
			}
			over()
		})
	}
	if err != nil {
		c.notes.warn("container " + c.o.ID + ": delete what was made of it: " + cmdline.Text(err))
		c.s.loop.Defer(over)
	}
}

func (c *Container) deleteCommand() []string {
	return append(append([]string{c.o.Runtime}, c.o.RuntimeArgs...), "delete", "--force", c.o.ID)
}

// number reads decimal digits; 0 is what is none.
func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

// note is an error with a text.
type note string

func (n note) Error() string { return string(n) }
