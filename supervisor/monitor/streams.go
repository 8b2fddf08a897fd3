package monitor

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/keeper"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/pipes"
)

// streams are the container's stdin, stdout and stderr: anonymous pipes. Its end of
// those for output is open for reading and writing, so that they outlive their reader;
// an exec, which has no successor, gets plain ones. With a terminal there is one
// stream for all, and stderr is what the runtime has to complain of.
type streams struct {
	passthrough bool
	ours        [3]int // -1: none
	theirs      [3]int // until the runtime has them
	logs        *logs.Logs
	out, err    *logs.Stream
	ended       [2]bool           // out, err: nobody has it open any more
	completed   bool              // all of it is in the log, or on its way there
	giveUp      lifecycle.Instant // waiting for a slow journald; 0: that has not begun
	null        int
}

// streamNames are those that the keeper knows them by.
var streamNames = [3]string{keeper.Stdin, keeper.Stdout, keeper.Stderr}

// make opens the logs and makes what the runtime will pass on to the container.
func (s *streams) make(c *Container) error {
	s.ours, s.theirs = [3]int{-1, -1, -1}, [3]int{-1, -1, -1}
	var err error
	if s.null, err = open("/dev/null", unix.O_RDWR, 0); err != nil {
		return note("Failed to open /dev/null " + cmdline.Text(err))
	}
	if err := s.openLogs(c); err != nil || s.passthrough {
		return err
	}
	disconnect(s.null)
	for i := range s.theirs {
		s.theirs[i] = s.null
		wanted := i == 2 || !c.o.Terminal && (i == 1 || c.o.Stdin)
		if !wanted {
			continue
		}
		if err := s.makePipe(c, i); err != nil {
			return note("Failed to create " + streamNames[i] + " pipe " + cmdline.Text(err))
		}
		// Whoever the container runs as may open /dev/stdout.
		_ = unix.Fchmod(s.theirs[i], 0o777)
	}
	return nil
}

func (s *streams) openLogs(c *Container) (err error) {
	options := c.o.LogOptions()
	if c.dir != nil {
		options.Dir = c.dir.FD()
	}
	options.Loop, options.Warn, options.Fault = c.s.loop, c.notes.warn, c.logFault()
	if s.logs, err = logs.Open(options); err == nil {
		s.passthrough = s.logs.Passthrough()
	}
	return err
}

// makePipe makes a pipe, and notes which one it is for whoever has to find it again.
func (s *streams) makePipe(c *Container, i int) (err error) {
	if i == 0 {
		s.ours[i], s.theirs[i], err = pipes.Input()
	} else {
		s.ours[i], s.theirs[i], err = pipes.Output(c.memo != nil)
	}
	if err != nil {
		return err
	}
	inode, err := pipes.Inode(s.ours[i])
	c.memo.SetPipe(i, inode)
	return err
}

// disconnect gives up the caller's stdin, stdout and stderr: it waits for their end.
func disconnect(null int) {
	for fd := range 3 {
		_ = unix.Dup3(null, fd, 0)
	}
}

// handedOver closes what the runtime has now.
func (s *streams) handedOver(c *Container) {
	if s.passthrough {
		disconnect(s.null)
	}
	for i, fd := range s.theirs {
		if fd >= 0 && fd != s.null {
			unix.Close(fd)
		}
		s.theirs[i] = -1
	}
	unix.Close(s.null)
}

// keepLog gives what keeps a log that is a FIFO open when this program ends; -1 if
// it is none.
func (s *streams) keepLog() int {
	if s.logs == nil {
		return -1
	}
	return s.logs.Keep()
}

// watch begins to read what the container writes.
func (s *streams) watch(c *Container) {
	if s.passthrough {
		return
	}
	if s.ours[1] >= 0 && s.out == nil {
		s.out = s.logs.Stream(logs.Stdout, s.ours[1], c.o.Terminal)
	}
	if s.ours[2] >= 0 && s.err == nil {
		s.err = s.logs.Stream(logs.Stderr, s.ours[2], false)
	}
	c.clients.connect(c)
	s.release(c)
}

// all gives the streams; those that are not there are nil.
func (s *streams) all() [2]*logs.Stream { return [2]*logs.Stream{s.out, s.err} }

// release reads what the container writes, as it comes.
func (s *streams) release(c *Container) {
	for i, stream := range s.all() {
		if stream == nil || s.ended[i] {
			continue
		}
		if err := stream.Watch(func() { s.end(c, i) }); err != nil {
			c.notes.warn("container " + c.o.ID + ": " + err.Error())
		}
	}
}

// hold stops reading for a while, so that the container waits for its client.
func (s *streams) hold() {
	for _, stream := range s.all() {
		if stream != nil {
			stream.Unwatch()
		}
	}
}

// end is told when nobody has a stream open any more. A terminal can be opened
// again as long as the container runs.
func (s *streams) end(c *Container, i int) {
	if i == 0 && c.o.Terminal && c.init.pid != 0 {
		return
	}
	s.isOver(c, i)
	s.tellIfEnded(c)
}

// isOver takes note that nothing will come any more: no successor has to look for it.
func (s *streams) isOver(c *Container, i int) {
	s.ended[i] = true
	c.memo.EndPipe(i + 1)
}

func (s *streams) tellIfEnded(c *Container) {
	for i, stream := range s.all() {
		if stream != nil && !s.ended[i] {
			return
		}
	}
	c.tell(lifecycle.Event{Kind: lifecycle.StreamsDrained})
}

// drain takes what is there after init's end. What others write later is taken
// as it comes, until their exit is recorded.
func (s *streams) drain(c *Container) {
	for i, stream := range s.all() {
		if stream != nil && !s.ended[i] && stream.Drain() {
			s.isOver(c, i)
		}
	}
	s.tellIfEnded(c)
}

// carry reports whether output would be lost with this process.
func (s *streams) carry() bool { return s.logs != nil && s.logs.Carried() > 0 }

// patienceWithJournal is how long the exit waits for a journald that takes what
// there is, but slowly.
const patienceWithJournal = 30 * lifecycle.Second

// late reports whether the exit must wait until more is in the log.
func (s *streams) late() bool {
	if s.logs == nil {
		return false
	}
	if s.completed {
		return !s.logs.Synced()
	}
	if !s.logs.Late() {
		return false
	}
	now := loop.Now()
	if s.giveUp == 0 {
		s.giveUp = now.After(patienceWithJournal)
	}
	return now < s.giveUp
}

// complete brings all that was written into the log: there will be no more.
func (s *streams) complete(c *Container) {
	s.completed = true
	for i, stream := range s.all() {
		if stream == nil {
			continue
		}
		if !s.ended[i] {
			stream.Drain()
		}
		stream.Unwatch()
	}
	s.logs.Finish()
	if !c.o.NoSyncLog {
		s.logs.Sync()
	}
}

// close gives back what the log and the streams took, but for a log that is not
// complete: see lastWords.
func (s *streams) close(c *Container) {
	if s.logs.Owed() > 0 || s.logs.Hangs() {
		c.lastWords = s.logs
	} else {
		s.logs.Close()
	}
	s.logs, s.out, s.err = nil, nil, nil
	for i, fd := range s.ours {
		if fd >= 0 {
			c.s.loop.Remove(fd)
			unix.Close(fd)
			s.ours[i] = -1
		}
	}
}
