package monitor

import (
	"strconv"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// patienceWithLogs is how long the supervisor outlives its container for a log that
// cannot be written: a full disk may have room again, a journald be back.
const patienceWithLogs = 30 * lifecycle.Second

// speakLastWords calls then when the log has all that the container has said, or takes
// too long, or systemd wants this process to end. The exit is known by then: nobody
// waits for it but who waits for the end of the process. What an exec has said is
// read as soon as it has ended, and not later.
func (c *Container) speakLastWords(then func()) {
	if c.lastWords == nil {
		then()
		return
	}
	giveUp, terms := loop.Now().After(patienceWithLogs), c.terms
	if c.o.Exec {
		giveUp = 0
	}
	var look func()
	look = func() {
		left, now := c.lastWords.Owed(), loop.Now()
		if left > 0 && now < giveUp && c.terms == terms {
			c.at(now.After(20*lifecycle.Millisecond), look)
			return
		}
		if left > 0 {
			c.notes.warn("container " + c.o.ID + ": the last " + strconv.FormatInt(left, 10) +
				" bytes of its output are lost: its log could not be written")
		}
		if !c.o.NoSyncLog {
			c.lastWords.Sync()
		}
		c.lastWords.Close()
		c.lastWords = nil
		c.memo.SetOutputDone()
		then()
	}
	look()
}
