package monitor

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/attach"
	"gracerun.io/supervisor/keeper"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs"
	"gracerun.io/supervisor/loop"
)

// clients are those who come to the container's streams from outside, and the
// ways in which they do.
type clients struct {
	server   *attach.Server  // nil without a bundle, as of a legacy exec
	control  *attach.Control // nil likewise
	notify   *attach.Notify  // nil unless --sdnotify-socket
	console  *attach.Console // nil unless the runtime is to send a terminal
	held     bool            // a client that sets the pace is behind
	finished bool            // they have got everything
	linger   loop.Timer
}

// listen makes the sockets and FIFOs in the bundle.
func (k *clients) listen(c *Container) (err error) {
	if c.o.Terminal {
		if k.console, err = attach.ListenConsole(c.s.loop, c.terminalCame, c.notes.warn); err != nil {
			return err
		}
	}
	return k.listenAt(c, nil)
}

// listenAt makes those that have their place, where clients look for them, or
// takes them from the program that this process ran before.
func (k *clients) listenAt(c *Container, h *heritage) (err error) {
	o, warn := c.o, c.notes.warn
	if o.NotifySocket != "" {
		k.notify, err = attach.ListenNotify(c.s.loop, o.Bundle, o.NotifySocket, warn)
		switch {
		case err == nil:
		case h == nil:
			return err
		default:
			// By now the directory is the container's, which can have put anything there.
			warn("container " + o.ID + ": its notifications are lost: " + err.Error())
		}
	}
	if o.Bundle == "" || c.streams.passthrough {
		return nil
	}
	k.server, err = attach.Listen(c.s.loop, attach.Config{
		Place:    attach.Place{Bundle: o.Bundle, FullAttach: o.FullAttach, SocketDir: o.SocketDir, UUID: o.UUID},
		Terminal: o.Terminal, Stdin: o.Stdin, LeaveStdinOpen: o.LeaveStdinOpen,
		Listening:   max(h.take(attachName), 0),
		InputClosed: c.inputClosed,
		Room:        func() { k.room(c) }, Warn: warn,
	})
	if err != nil {
		return err
	}
	if fd := c.streams.ours[0]; fd >= 0 {
		k.server.SetStdin(fd)
		c.streams.ours[0] = -1
	}
	config := attach.ControlConfig{Bundle: o.Bundle, Keep: h != nil, Terminal: o.Terminal, Reopen: c.streams.logs.Reopen, Warn: warn}
	if fds := [2]int{h.take(ctlName), h.take(winszName)}; fds[0] >= 0 && fds[1] >= 0 {
		k.control, err = attach.AdoptControl(c.s.loop, config, fds)
	} else {
		k.control, err = attach.OpenControl(c.s.loop, config)
	}
	return err
}

// inputClosed: the container's input ends, and is not to be opened anew by whoever
// goes on: a reader that has not seen its end would wait for ever.
func (c *Container) inputClosed() {
	c.memo.EndPipe(0)
	c.deposit.drop(keeper.Stdin)
	if c.dir != nil {
		_ = unix.Unlinkat(c.dir.FD(), streamNames[0], 0) // see openNamed
	}
}

// consolePath is where the runtime sends the terminal, "" if it is to send none.
func (k *clients) consolePath() string {
	if k.console == nil {
		return ""
	}
	return k.console.Path()
}

// terminalCame takes the master of the container's terminal.
func (c *Container) terminalCame(master int) {
	c.streams.ours[1] = master
	c.clients.terminal(c, master)
	if c.create.ended {
		c.runtimeSucceeded()
	}
}

// terminal has what clients send go to the terminal, and sizes apply to it.
func (k *clients) terminal(c *Container, master int) {
	if k.control != nil {
		k.control.SetTerminal(master)
	}
	if k.server == nil {
		return
	}
	in, err := unix.FcntlInt(uintptr(master), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		c.notes.warn("Failed to dup console file descriptor: " + err.Error())
		return
	}
	k.server.SetStdin(in)
}

// connect has the clients get what the container writes.
func (k *clients) connect(c *Container) {
	if k.server == nil {
		return
	}
	for _, s := range []struct {
		stream *logs.Stream
		name   attach.Stream
	}{{c.streams.out, attach.Stdout}, {c.streams.err, attach.Stderr}} {
		if s.stream == nil {
			continue
		}
		s.stream.Sink = func(data []byte) {
			k.server.Output(s.name, data)
			if k.server.Full() && !k.held {
				k.held = true
				c.s.loop.Defer(func() { c.streams.hold() })
			}
		}
	}
}

// room: the client that was behind is so no more.
func (k *clients) room(c *Container) {
	if k.held {
		k.held = false
		c.streams.release(c)
	}
}

// patienceWithClients is how long the supervisor outlives the container for
// clients that have not read all of its output.
const patienceWithClients = 30 * lifecycle.Second

// finish gives the clients the end of the streams, once there is nothing more.
func (k *clients) finish() {
	if k.server == nil {
		k.finished = true
		return
	}
	k.server.Finish(func() {
		k.finished = true
		if k.linger.Fire != nil {
			k.linger.Fire()
		}
	})
}

// leave calls then when the clients have got everything, or take too long.
func (k *clients) leave(c *Container, then func()) {
	if k.finished {
		k.close()
		then()
		return
	}
	k.linger.Fire = func() {
		k.linger.Fire = nil
		c.s.loop.Arm(&k.linger, lifecycle.Never)
		c.s.loop.Defer(func() { k.close(); then() })
	}
	c.s.loop.Arm(&k.linger, loop.Now().After(patienceWithClients))
}

func (k *clients) close() {
	if k.server != nil {
		k.server.Close()
	}
	if k.control != nil {
		k.control.Close()
	}
	if k.notify != nil {
		k.notify.Close()
	}
	if k.console != nil {
		k.console.Close()
	}
}
