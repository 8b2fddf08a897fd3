package shim

import (
	"time"

	"gracerun.io/signals"
	"gracerun.io/supervisor/breach"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
)

// silence is how long a caller whose SIGKILL is held waits without a word.
const silence = time.Second

// mayBeHeld: the request is SIGKILL, which the policy can hold until the end of a
// grace period.
func mayBeHeld(r control.Request) bool {
	return r.Verb == control.Signal && r.Signal == signals.KILL && !r.Force
}

// sayHeld tells the caller what its SIGKILL waits for.
func (c *call) sayHeld(id string, left lifecycle.Duration) {
	c.warn("container " + id + ": SIGKILL is held by its policy until the grace period is over, in " +
		breach.Seconds(max(left, 0)) + " at the latest; `gracerun kill --force " + id + " KILL` does not wait")
}
