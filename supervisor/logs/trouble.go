package logs

import (
	"errors"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// Pauses before a log that cannot be written is tried again.
const (
	firstPause = 100 * lifecycle.Millisecond
	lastPause  = 5 * lifecycle.Second
)

// trouble is the state of a log that cannot be written.
type trouble struct {
	err      error // nil: it can, or it is being tried
	warned   bool
	cautious bool // it has not been written since: try with little
	pause    lifecycle.Duration
	retry    lifecycle.Instant
}

// begin reports whether this is news.
func (t *trouble) begin(err error) (news bool) {
	t.pause = min(max(2*t.pause, firstPause), lastPause)
	t.retry = loop.Now().After(t.pause)
	news = !t.warned
	t.err, t.warned, t.cautious = err, true, true
	return news
}

// end reports whether this is news.
func (t *trouble) end() (news bool) {
	news = t.warned
	*t = trouble{}
	return news
}

// isDue reports whether the log is in trouble and is to be tried again now. If it is
// to be later, Tick comes again then.
func (t *trouble) isDue(l *Logs, now lifecycle.Instant) bool {
	if t.err == nil {
		return false
	}
	if now < t.retry {
		l.wake(t.retry)
		return false
	}
	return true
}

// explain gives an error in the words of strerror(3): Go's begin with a small
// letter.
func explain(err error) string {
	text := err.Error()
	if errno := unix.Errno(0); errors.As(err, &errno) && text[0] >= 'a' && text[0] <= 'z' {
		return string(text[0]-'a'+'A') + text[1:]
	}
	return text
}

// words is an error as conmon's pexit prints it.
func words(what string, err error) error { return errors.New(what + " " + explain(err)) }
