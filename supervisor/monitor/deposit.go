package monitor

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/keeper"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// keeperVariable of the environment says "off" where containers are to do without
// a keeper: what a supervisor alone has open is then lost with it.
const keeperVariable = "GRACEMON_KEEPER"

// deposit is what the keeper holds for the container.
type deposit struct {
	c     *Container
	conn  int // 0: none
	nth   int // keeper: those before have no room
	tries int // to start a keeper
	waits int // for another process that does it just now
	since lifecycle.Instant
	retry loop.Timer
}

// make deposits all that is not found again by its path, or not in time.
func (d *deposit) make(c *Container) {
	if off, _ := unix.Getenv(keeperVariable); off == "off" || c.dir == nil || c.memo == nil {
		return
	}
	d.c, d.retry.Fire = c, d.again
	d.again()
}

// A keeper that is busy is asked again after a pause that doubles, for a second or
// so. After that it is as good as none.
const (
	firstWait = 5 * lifecycle.Millisecond
	maxWaits  = 8
)

func (d *deposit) again() {
	err := d.connect()
	if err == nil {
		err = d.give()
	}
	switch {
	case err == nil:
		d.waits = 0
		d.c.s.loop.Arm(&d.retry, lifecycle.Never)
	case err == keeper.ErrBusy && d.waits < maxWaits:
		d.c.s.loop.Arm(&d.retry, loop.Now().After(firstWait<<d.waits))
		d.waits++
	default:
		if d.tries == 1 {
			d.c.notes.warn("container " + d.c.o.ID + ": no keeper: " + cmdline.Text(err) +
				": if this supervisor dies, unread output and the exit status may be lost")
		}
		d.later()
	}
}

// connect finds the keeper, or starts it.
func (d *deposit) connect() (err error) {
	if d.conn > 0 {
		return nil
	}
	if d.conn, err = keeper.Connect(d.nth, d.c.s.program, d.tries); err != nil {
		d.conn = 0
		return err
	}
	return d.c.s.loop.Add(d.conn, loop.Readable, loop.HandlerFunc(d.ended))
}

// resume takes the connection that this process had before an upgrade.
func (d *deposit) resume(c *Container, conn int) {
	d.c = c
	if c.s.loop.Add(conn, loop.Readable, loop.HandlerFunc(d.ended)) != nil {
		unix.Close(conn)
		return
	}
	d.conn = conn
}

// give sends the descriptors. They are dup'ed by that: ours stay.
func (d *deposit) give() error {
	c := d.c
	var names []string
	var fds []int
	add := func(name string, fd int) {
		if fd >= 0 {
			names, fds = append(names, name), append(fds, fd)
		}
	}
	add(keeper.Init, int(c.init.pidfd))
	if c.o.Terminal {
		add(keeper.Terminal, c.streams.ours[1])
	} else {
		add(keeper.Stdout, c.streams.ours[1])
	}
	add(keeper.Stderr, c.streams.ours[2])
	if c.clients.server != nil && !c.o.Terminal {
		add(keeper.Stdin, c.clients.server.Input())
	}
	add(keeper.Caught, c.s.signals.FD())
	if fd := c.streams.keepLog(); fd >= 0 {
		add(logName, fd)
		defer unix.Close(fd)
	}
	d.since = loop.Now()
	return keeper.Store(d.conn, c.dir.Path(), names, fds)
}

// ended: the keeper is gone, and another one is started, by whoever comes first; or it
// has no room, and the next one has.
func (d *deposit) ended(uint32) {
	if keeper.IsFull(d.conn) && d.nth < keeper.MostKeepers-1 {
		d.close()
		d.nth++
		d.again()
		return
	}
	d.nth = 0
	d.later()
}

func (d *deposit) later() {
	if d.conn > 0 && loop.Now() > d.since.After(10*lifecycle.Second) {
		d.tries = 0 // it has worked well
	}
	d.close()
	pause := lifecycle.Duration(0)
	if d.tries > 0 {
		pause = lifecycle.Second << min(d.tries, 6)
	}
	d.tries++
	d.c.s.loop.Arm(&d.retry, loop.Now().After(pause))
}

// drop lets the keeper forget one of them.
func (d *deposit) drop(name string) {
	if d.conn > 0 {
		_ = keeper.Remove(d.conn, name)
	}
}

// done lets the keeper forget the container.
func (d *deposit) done(c *Container) {
	if d.conn > 0 {
		_ = keeper.Done(d.conn)
	}
	d.close()
	c.s.loop.Arm(&d.retry, lifecycle.Never)
}

func (d *deposit) close() {
	if d.conn > 0 {
		d.c.s.loop.Remove(d.conn)
		unix.Close(d.conn)
		d.conn = 0
	}
}
