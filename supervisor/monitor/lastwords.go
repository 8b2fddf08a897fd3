package monitor

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// patienceVariable of the environment says how long the supervisor outlives its
// container for a log that cannot be written, as "10m"; "0" for not at all: a full disk
// may have room again, a journald or a file server be back.
const patienceVariable = "GRACEMON_LOG_PATIENCE"

const usualPatienceWithLogs = 30 * lifecycle.Second

func patienceWithLogs() lifecycle.Duration {
	text, _ := unix.Getenv(patienceVariable)
	if text == "0" {
		return 0
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return lifecycle.Duration(d)
	}
	return usualPatienceWithLogs
}

// speakLastWords calls then when the log has all that the container has said, or takes
// too long, or systemd wants this process to end. The exit is known by then: nobody
// waits for it but who waits for the end of the process. What an exec has said is
// read as soon as it has ended, and not later.
func (c *Container) speakLastWords(then func()) {
	if c.lastWords == nil {
		then()
		return
	}
	giveUp, terms := loop.Now().After(patienceWithLogs()), c.terms
	if c.o.Exec {
		giveUp = 0
	}
	var look func()
	look = func() {
		left, now := c.lastWords.Owed(), loop.Now()
		if (left > 0 || c.lastWords.Hangs()) && now < giveUp && c.terms == terms && !c.isReplaced() {
			c.at(now.After(20*lifecycle.Millisecond), look)
			return
		}
		if left > 0 {
			c.lastWords.Forgo()
			text := "container " + c.o.ID + ": the last " + strconv.FormatInt(left, 10) +
				" bytes of its output are lost: its log could not be written"
			c.notes.warn(text)
			if !c.notes.syslog { // of a loss somebody hears whatever was asked for
				syslog(errorPriority, text)
			}
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

// isReplaced reports whether there is another container of that id by now, which may
// write to the same log.
func (c *Container) isReplaced() bool {
	if c.dir == nil {
		return false
	}
	var mine, named unix.Stat_t
	return unix.Fstat(c.dir.FD(), &mine) == nil && unix.Lstat(c.dir.Path(), &named) == nil &&
		(mine.Ino != named.Ino || mine.Dev != named.Dev)
}
