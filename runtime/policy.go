package runtime

import (
	"errors"
	"strconv"
)

// Policy says what happens to bare `kill` calls while a stop is in progress.
type Policy string

const (
	// Observe delivers every signal as the OCI runtime specification says and
	// records what breaks the grace period. It is the default.
	Observe Policy = "observe"

	// Enforce keeps the grace period: the same stop signal joins the stop, and
	// KILL is held until the deadline.
	Enforce Policy = "enforce"
)

// ParsePolicy reads the name of a policy.
func ParsePolicy(text string) (Policy, error) {
	switch p := Policy(text); p {
	case Observe, Enforce:
		return p, nil
	}
	return "", errors.New("unknown policy " + strconv.Quote(text) + ": want observe or enforce")
}
