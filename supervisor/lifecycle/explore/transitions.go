package explore

import (
	"fmt"
	"io"
	"sort"
	"strings"

	"gracerun.io/supervisor/lifecycle"
)

// Transition is a change of the machine's state.
type Transition struct{ From, To lifecycle.State }

// Transitions counts the changes of state that an exploration saw, and the
// events that caused them. Not for concurrent use.
type Transitions map[Transition]map[lifecycle.EventKind]int

// Watch returns the sound machine as a Subject whose changes of state are
// counted in t.
func (t Transitions) Watch(c lifecycle.Config) func() Subject {
	return func() Subject { return watched{Sound{lifecycle.New(c)}, t} }
}

type watched struct {
	Sound
	seen Transitions
}

// Step implements Subject.
func (w watched) Step(now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
	from := w.State()
	effects := w.Sound.Step(now, ev)
	if to := w.State(); to != from {
		by := w.seen[Transition{from, to}]
		if by == nil {
			by = map[lifecycle.EventKind]int{}
			w.seen[Transition{from, to}] = by
		}
		by[ev.Kind]++
	}
	return effects
}

// Clone implements Subject.
func (w watched) Clone() Subject { return watched{Sound{w.Machine.Clone()}, w.seen} }

// States gives how many states of the machine were seen.
func (t Transitions) States() int {
	seen := map[lifecycle.State]bool{}
	for tr := range t {
		seen[tr.From], seen[tr.To] = true, true
	}
	return len(seen)
}

// Diagram writes the transitions as a Mermaid state diagram, in the order of
// the states of a life.
func (t Transitions) Diagram(out io.Writer) {
	all := make([]Transition, 0, len(t))
	for tr := range t {
		all = append(all, tr)
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i], all[j]
		return a.From < b.From || a.From == b.From && a.To < b.To
	})
	fmt.Fprintf(out, "stateDiagram-v2\n    [*] --> %s\n", lifecycle.Creating)
	for _, tr := range all {
		fmt.Fprintf(out, "    %s --> %s: %s\n", tr.From, tr.To, strings.Join(t.events(tr), ", "))
	}
	fmt.Fprintf(out, "    %s --> [*]\n    %s --> [*]\n", lifecycle.Stopped, lifecycle.Failed)
}

func (t Transitions) events(tr Transition) []string {
	var names []string
	for kind := range t[tr] {
		names = append(names, kind.String())
	}
	sort.Strings(names)
	return names
}
