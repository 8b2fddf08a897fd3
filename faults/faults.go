// Package faults makes the signal path fail on purpose: at a named point, in a
// named way, so that a race can be staged as often as one likes.
//
// gracerun and gracemon carry it and ask it at each point. Without a plan the
// Injector is nil and a question costs a comparison. With one they say so.
// People write plans as YAML (package plan); this package reads the short text
// that plan.Compile makes of them, so that the programs need no YAML.
package faults

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

// Variable is the environment variable with a compiled plan.
const Variable = "GRACERUN_FAULTS"

// Action is what goes wrong.
type Action uint8

// The actions. A point that cannot do one of them refuses the plan.
const (
	None      Action = iota
	Delay            // it takes Rule.Delay longer
	Drop             // it is not done, and said to be done
	Duplicate        // it is done twice
	Error            // it fails with Rule.Errno: before it is done, or after
	Crash            // the program kills itself (SIGKILL)
	Hang             // it never comes back
	Stale            // the answer before this one is given again
	Freeze           // the program stops itself (SIGSTOP); somebody must continue it
	actions
)

var actionNames = [actions]string{"none", "delay", "drop", "duplicate", "error", "crash", "hang", "stale", "freeze"}

func (a Action) String() string { return actionNames[a] }

// ParseAction reads the name of an action.
func ParseAction(name string) (Action, bool) {
	for a := Delay; a < actions; a++ {
		if actionNames[a] == name {
			return a, true
		}
	}
	return None, false
}

// Point is a place on the signal path.
type Point string

// Actions is a set of them, as bits: who lists points in tables pays for none of
// them when a program starts.
type Actions uint16

// Has reports whether the action is in the set.
func (s Actions) Has(a Action) bool { return s>>a&1 != 0 }

// List gives the actions of the set.
func (s Actions) List() (list []Action) {
	for a := range actions {
		if s.Has(a) {
			list = append(list, a)
		}
	}
	return list
}

// Points lists them all, with what can go wrong there and what it is.
var Points = [...]struct {
	Point   Point
	Meaning string
	Actions Actions
}{
	{"runtime.create", "the wrapped runtime's create", call},
	{"runtime.start", "the wrapped runtime's start", call},
	{"runtime.kill", "the wrapped runtime's kill", call},
	{"runtime.state", "the wrapped runtime's state", call | 1<<Stale},
	{"runtime.delete", "the wrapped runtime's delete", call},
	{"runtime.exec", "the wrapped runtime's exec", call},
	{"effect.deliver", "the supervisor sends a signal", effect},
	{"effect.thaw", "the supervisor thaws the cgroup", effect},
	{"effect.abort-create", "the supervisor ends a create", effect},
	{"effect.kill-cgroup", "the supervisor kills what is left in the cgroup", effect},
	{"effect.record-exit", "the supervisor writes the exit file", effect},
	{"effect.run-exit-command", "the supervisor runs the exit command", effect},
	{"effect.reply", "the supervisor answers a caller", 1<<Delay | 1<<Crash | 1<<Freeze | 1<<Drop},
	{"write.log", "the supervisor writes to the log", 1<<Delay | 1<<Error | 1<<Crash | 1<<Freeze},
	{"write.journal", "the supervisor writes to its journal", 1<<Delay | 1<<Error | 1<<Crash | 1<<Freeze},
}

const (
	call   Actions = 1<<Delay | 1<<Drop | 1<<Duplicate | 1<<Error | 1<<Crash | 1<<Hang | 1<<Freeze
	effect Actions = 1<<Delay | 1<<Drop | 1<<Duplicate | 1<<Error | 1<<Crash | 1<<Hang | 1<<Freeze
)

// Can reports whether there is such a point, and whether a can go wrong there.
func (p Point) Can(a Action) (known, able bool) {
	for _, point := range Points {
		if point.Point == p {
			return true, point.Actions.Has(a)
		}
	}
	return false, false
}

// Rule is one fault of a plan.
type Rule struct {
	At     Point
	After  bool           // when it has been done, instead of before
	Signal signals.Signal // only for this signal; 0: for any
	Do     Action
	Delay  time.Duration
	Errno  unix.Errno

	Skip        int     // let the first so many pass
	Count       int     // then strike so often; 0: always
	Probability float64 // strike with this probability; 1: surely
	Seed        uint64  // of the dice
}

// Fault is what an injector has decided for one moment.
type Fault struct {
	Do    Action
	Delay time.Duration
	Errno unix.Errno
}

// Injector strikes by a plan. A nil Injector never does. Not for concurrent use.
type Injector struct {
	rules []armed
	// Say hears of each strike, if it is not nil.
	Say func(what string)
}

type armed struct {
	Rule
	dice           uint64
	passed, struck int
}

// New makes an injector of rules.
func New(rules []Rule) *Injector {
	i := new(Injector)
	for _, r := range rules {
		i.rules = append(i.rules, armed{Rule: r, dice: r.Seed})
	}
	return i
}

// Before asks what goes wrong before the thing at the point is done.
func (i *Injector) Before(at Point, signal signals.Signal) Fault { return i.ask(at, false, signal) }

// After asks what goes wrong once it is done.
func (i *Injector) After(at Point, signal signals.Signal) Fault { return i.ask(at, true, signal) }

// ask lets the first rule strike that wants to. All rules that match count the
// occasion.
func (i *Injector) ask(at Point, after bool, signal signals.Signal) Fault {
	if i == nil {
		return Fault{}
	}
	var fault Fault
	for n := range i.rules {
		r := &i.rules[n]
		if r.At != at || r.After != after || r.Signal != 0 && r.Signal != signal {
			continue
		}
		if !r.strikes() || fault.Do != None {
			continue
		}
		fault = Fault{r.Do, r.Delay, r.Errno}
		if i.Say != nil {
			i.Say(r.String())
		}
	}
	return fault
}

func (r *armed) strikes() bool {
	if r.passed < r.Skip {
		r.passed++
		return false
	}
	if r.Count > 0 && r.struck >= r.Count {
		return false
	}
	if r.Probability < 1 && r.roll() >= r.Probability {
		return false
	}
	r.struck++
	return true
}

// roll is SplitMix64 (Steele, Lea and Flood, 2014): the same seed strikes at
// the same occasions on every machine.
func (r *armed) roll() float64 {
	r.dice += 0x9e3779b97f4a7c15
	z := r.dice
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

// String gives the rule in the words that Parse reads.
func (r Rule) String() string {
	var b strings.Builder
	b.WriteString(string(r.At))
	word := func(w string) { b.WriteByte(' '); b.WriteString(w) }
	if r.After {
		word("after")
	}
	if r.Signal != 0 {
		word("signal=" + r.Signal.String())
	}
	word("do=" + r.Do.String())
	if r.Delay != 0 {
		word("delay=" + strconv.FormatInt(int64(r.Delay), 10))
	}
	if r.Errno != 0 {
		word("errno=" + strconv.Itoa(int(r.Errno)))
	}
	if r.Skip != 0 {
		word("skip=" + strconv.Itoa(r.Skip))
	}
	if r.Count != 0 {
		word("count=" + strconv.Itoa(r.Count))
	}
	if r.Probability != 1 {
		word("probability=" + strconv.FormatFloat(r.Probability, 'g', -1, 64))
	}
	if r.Seed != 0 {
		word("seed=" + strconv.FormatUint(r.Seed, 10))
	}
	return b.String()
}

// Parse reads a compiled plan: rules in words, separated by semicolons.
func Parse(text string) ([]Rule, error) {
	var rules []Rule
	for _, part := range strings.Split(text, ";") {
		words := strings.Fields(part)
		if len(words) == 0 {
			continue
		}
		r := Rule{At: Point(words[0]), Probability: 1}
		for _, w := range words[1:] {
			if !r.set(w) {
				return nil, errors.New("fault plan: " + strconv.Quote(strings.TrimSpace(part)) + ": bad word " + strconv.Quote(w))
			}
		}
		if err := r.Check(); err != nil {
			return nil, errors.New("fault plan: " + strconv.Quote(strings.TrimSpace(part)) + ": " + err.Error())
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func (r *Rule) set(word string) bool {
	key, value, _ := strings.Cut(word, "=")
	var err error
	switch key {
	case "after":
		r.After = true
	case "signal":
		r.Signal, err = signals.Parse(value)
	case "do":
		var ok bool
		r.Do, ok = ParseAction(value)
		return ok
	case "delay":
		var ns int64
		ns, err = strconv.ParseInt(value, 10, 64)
		r.Delay = time.Duration(ns)
	case "errno":
		var n int
		n, err = strconv.Atoi(value)
		r.Errno = unix.Errno(n)
	case "skip":
		r.Skip, err = strconv.Atoi(value)
	case "count":
		r.Count, err = strconv.Atoi(value)
	case "probability":
		r.Probability, err = strconv.ParseFloat(value, 64)
	case "seed":
		r.Seed, err = strconv.ParseUint(value, 10, 64)
	default:
		return false
	}
	return err == nil
}

// Check says what makes no sense in the rule, nil if nothing.
func (r *Rule) Check() error {
	known, able := r.At.Can(r.Do)
	switch {
	case !known:
		return errors.New("unknown point " + strconv.Quote(string(r.At)))
	case r.Do == None:
		return errors.New("do is missing: say what goes wrong")
	case !able:
		return errors.New(r.Do.String() + " cannot be done at " + string(r.At))
	case r.Do == Delay && r.Delay <= 0:
		return errors.New("delay is missing: say how long, such as 200ms")
	case r.Do != Delay && r.Delay != 0:
		return errors.New("delay belongs to \"do: delay\" only")
	case r.Do == Error && (r.Errno <= 0 || r.Errno >= 4096):
		return errors.New("errno is missing: say which error, such as EPERM")
	case r.Do != Error && r.Errno != 0:
		return errors.New("errno belongs to \"do: error\" only")
	case r.After && (r.Do == Drop || r.Do == Duplicate):
		return errors.New(r.Do.String() + " after it was done makes no sense")
	case r.Skip < 0 || r.Count < 0:
		return errors.New("skip and count are not negative")
	case !(r.Probability > 0 && r.Probability <= 1):
		return errors.New("probability is more than 0 and at most 1")
	}
	return nil
}
