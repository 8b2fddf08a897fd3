package shim

import (
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/recovery"
)

// beside is a supervisor that lives and does not answer: one that was stopped, or
// that waits for the kernel. As an error it says so.
//
// Its container is stopped all the same: the machine is stepped in a fork of the
// supervisor's journal, under the lock of the state directory, as that of a container
// without a supervisor is in the journal itself. supervisor/monitor/beside.go has the
// other half, and the order in which each of them does its part. What was asked for
// there is done once, by one of the two; a grace period that this call waits for ends
// when it would have.
type beside struct {
	pid    int    // of the supervisor, 0 if it cannot be seen from here
	why    string // it does not answer, as far as that is known
	notes  *recovery.Notes
	forked bool
}

func (b *beside) Error() string { return "its supervisor" + b.describe() + " does not answer" }

// describe names the process.
func (b *beside) describe() string {
	switch {
	case b.pid == 0 && b.why == "":
		return ""
	case b.pid == 0:
		return ", " + b.why + ","
	case b.why == "":
		return ", process " + strconv.Itoa(b.pid) + ","
	}
	return ", process " + strconv.Itoa(b.pid) + ", " + b.why + ","
}

// prompt is how long a supervisor may take for an answer before it is asked once
// more, as long again, whether it answers at all.
const prompt = 500 * time.Millisecond

// stepPatience is how long a supervisor may take to end a step that it has begun.
const stepPatience = 500 * time.Millisecond

// takeOver has the request that was made on the connection, if there is one, seen to
// without the supervisor, which does not answer. It may have done so by now; else the
// error is the beside, to go on with.
func (c *call) takeOver(conn control.Conn, dir *statedir.Dir, b *beside) (control.Reply, error) {
	if conn >= 0 {
		conn.Withdraw()
	}
	var err error
	b.notes, err = recovery.OpenNotes(dir.FD())
	switch {
	case err == unix.ENOENT && conn >= 0:
		reply, err := conn.Await(patience) // it has come to its end just now
		if err == control.ErrHungUp {
			err = control.ErrNoSupervisor
		}
		return reply, err
	case err != nil:
		return control.Reply{}, errors.New(b.Error() + ", and nobody can act in its place: read its notes: " + err.Error())
	}
	b.notes.SetBeside(true)
	for deadline := time.Now().Add(stepPatience); b.notes.Stepping(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			c.warn("the supervisor" + b.describe() + " was stuck while it did something: that may be done once more")
			break
		}
	}
	if conn >= 0 {
		if reply, err := conn.Await(0); err == nil {
			b.leave()
			return reply, nil
		}
	}
	return control.Reply{}, b
}

// leave gives back what it has open.
func (b *beside) leave() {
	b.notes.Close()
	b.notes = nil
}

// resume gives the fork of the journal, and says that there is one. The caller has
// the lock.
func (b *beside) resume(dir *statedir.Dir) (*journal.Writer, *lifecycle.Machine, error) {
	if b.forked {
		return journal.ResumeFork(dir.FD())
	}
	// Another one may have made it, and the supervisor joined it, since that was noted.
	b.notes.SetBeside(true)
	w, m, err := journal.Fork(dir.FD())
	if err == nil {
		b.forked = true
		poke(dir)
	}
	return w, m, err
}

// poke leaves something to read on the supervisor's socket, by which it finds the
// fork as soon as it goes on.
func poke(dir *statedir.Dir) {
	if conn, err := connect(dir); err == nil {
		_, _ = conn.Ask(control.Request{Verb: control.State, Grace: control.OwnGrace}, 0)
		conn.Close()
	}
}

// delivery is what became of a signal that was under way when the supervisor was
// stuck, as far as it has noted that: 0, or why it was not delivered.
func (b *beside) delivery(e lifecycle.Effect) int32 {
	if evidence, errno := b.notes.Delivery(e.Request, e.Signal); evidence == recovery.Known {
		return errno
	}
	return int32(unix.EINTR)
}

// exitStatus is how init ended, if the supervisor has noted it.
func (b *beside) exitStatus() lifecycle.Status {
	status, _ := b.notes.Exit()
	return status
}

// starterIsDead tells whether the one who was granted the start is gone.
func (b *beside) starterIsDead(request lifecycle.RequestID) bool {
	p, err := process.OpenVerified(b.notes.Starter(request))
	if err != nil {
		return true
	}
	defer p.Close()
	exited, err := p.Exited()
	return err == nil && exited
}
