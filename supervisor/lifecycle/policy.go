package lifecycle

import (
	"errors"
	"strconv"
)

// Policy decides what becomes of a bare kill inside an open grace period.
type Policy uint8

// The policies, by what they let break a grace period.
const (
	// Observe delivers as the OCI spec says, and records the breach.
	Observe Policy = iota
	// Delegate leaves the grace period to its opener: whoever has sent the stop
	// signal, or asked for the stop, may end and shorten it. Against everybody else
	// it is kept.
	Delegate
	// Enforce keeps the grace period against everybody: the stop signal joins,
	// SIGKILL is held.
	Enforce

	policies = int(iota)
)

// rules are what a policy means to the machine. What decides about a caller is
// here, and nowhere else in the machine.
type rules struct {
	name string
	// keeps: the stop signal joins the open grace period, SIGKILL is held until
	// its end, and nothing is started in it.
	keeps bool
	// delegates: but not against the opener, who alone may shorten it, too.
	delegates bool
}

// holds reports whether SIGKILL of a caller is held while a grace period is open.
func (r *rules) holds(isOpener bool) bool { return r.keeps && !(r.delegates && isOpener) }

// mayShorten reports whether a demand of a caller may bring the deadline forward
// that the opener has given.
func (r *rules) mayShorten(isOpener bool) bool { return isOpener || !r.delegates }

var rulesOf = [policies]rules{
	Observe:  {name: "observe"},
	Delegate: {name: "delegate", keeps: true, delegates: true},
	Enforce:  {name: "enforce", keeps: true},
}

// String returns the policy's name, as annotations and configuration have it.
func (p Policy) String() string { return rulesOf[p].name }

// Policies returns all of them.
func Policies() []Policy {
	all := make([]Policy, policies)
	for i := range all {
		all[i] = Policy(i)
	}
	return all
}

// ParsePolicy reads the name of a policy. The error names all there are.
func ParsePolicy(name string) (Policy, error) {
	names := ""
	for p := range rulesOf {
		if rulesOf[p].name == name {
			return Policy(p), nil
		}
		switch p {
		case 0:
		case policies - 1:
			names += " or "
		default:
			names += ", "
		}
		names += rulesOf[p].name
	}
	return 0, errors.New("unknown policy " + strconv.Quote(name) + ": want " + names)
}
