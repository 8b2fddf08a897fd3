package monitor

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs"
	"gracerun.io/supervisor/loop"
)

// streams are the container's stdin, stdout and stderr. A container's are FIFOs
// in its state directory, which it holds open for reading and writing, so that
// they outlive their reader; those of an exec are pipes. With a terminal there is
// one stream for all, and stderr is what the runtime has to complain of.
type streams struct {
	passthrough bool
	ours        [3]int // -1: none
	theirs      [3]int // until the runtime has them
	logs        *logs.Logs
	out, err    *logs.Stream
	ended       [2]bool           // out, err: nobody has it open any more
	completed   bool              // all of it is in the log
	giveUp      lifecycle.Instant // waiting for a slow journald; 0: that has not begun
	null        int
}

// Names in the state directory.
var fifoNames = [3]string{"stdin", "stdout", "stderr"}

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
			return note("Failed to create " + fifoNames[i] + " pipe " + cmdline.Text(err))
		}
		// Whoever the container runs as may open /dev/stdout.
		_ = unix.Fchmod(s.theirs[i], 0o777)
	}
	return nil
}

func (s *streams) openLogs(c *Container) (err error) {
	options := logOptions(c.o, -1)
	if c.dir != nil {
		options.Dir = c.dir.FD()
	}
	options.Loop, options.Warn, options.Fault = c.s.loop, c.notes.warn, c.logFault()
	if s.logs, err = logs.Open(options); err == nil {
		s.passthrough = s.logs.Passthrough()
	}
	return err
}

func (s *streams) makePipe(c *Container, i int) error {
	if c.dir != nil {
		if err := s.makeFIFO(c.dir.FD(), i); err == nil {
			return nil
		}
		// A full state directory: as without one.
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	s.ours[i], s.theirs[i] = fds[0], fds[1]
	if i == 0 {
		s.ours[i], s.theirs[i] = fds[1], fds[0]
	}
	return unix.SetNonblock(s.ours[i], true)
}

// makeFIFO makes a FIFO. Of stdin the container has the reading end only, or it
// would never see its end.
func (s *streams) makeFIFO(dir, i int) error {
	name := fifoNames[i]
	if err := unix.Mkfifoat(dir, name, 0o600); err != nil {
		return err
	}
	const flags = unix.O_CLOEXEC | unix.O_NOFOLLOW
	their, our := unix.O_RDWR, unix.O_RDONLY|unix.O_NONBLOCK
	if i == 0 {
		their, our = unix.O_RDONLY|unix.O_NONBLOCK, unix.O_WRONLY|unix.O_NONBLOCK
	}
	fd, err := unix.Openat(dir, name, flags|their, 0)
	if err != nil {
		return err
	}
	if s.ours[i], err = unix.Openat(dir, name, flags|our, 0); err != nil {
		unix.Close(fd)
		return err
	}
	s.theirs[i] = fd
	return unix.SetNonblock(fd, false)
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

// watch begins to read what the container writes.
func (s *streams) watch(c *Container) {
	if s.passthrough {
		return
	}
	if s.ours[1] >= 0 {
		s.out = s.logs.Stream(logs.Stdout, s.ours[1], c.o.Terminal)
	}
	if s.ours[2] >= 0 {
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
	s.ended[i] = true
	s.tellIfEnded(c)
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
		if stream != nil && !s.ended[i] {
			s.ended[i] = stream.Drain()
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
	if s.logs == nil || s.completed || !s.logs.Late() {
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

// close gives back what the log and the streams took.
func (s *streams) close(c *Container) {
	s.logs.Close()
	s.logs, s.out, s.err = nil, nil, nil
	for i, fd := range s.ours {
		if fd >= 0 {
			c.s.loop.Remove(fd)
			unix.Close(fd)
			s.ours[i] = -1
		}
	}
}
