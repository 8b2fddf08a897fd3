// Package timeline is what happened around one container, from several points
// of view on one clock, and how to show it: as text, as a page to look at, and
// as a trace for Perfetto.
package timeline

import (
	"slices"
	"time"
)

// Lane is a party on the signal path.
type Lane uint8

// The lanes, in the order in which they are drawn: a stop goes from top to bottom.
const (
	Caller    Lane = iota // CRI-O, Podman, systemd, a person
	Runtime               // gracerun, crun, runc
	Monitor               // gracemon, conmon
	Kernel                // what pidfd and cgroup say
	Container             // what the container saw and did
	lanes
)

var laneNames = [lanes]string{"caller", "runtime", "monitor", "kernel", "container"}

func (l Lane) String() string { return laneNames[l] }

// Kind says what a mark stands for, and so how it is drawn.
type Kind uint8

// The kinds of marks.
const (
	Note   Kind = iota
	Stop        // a stop signal: asked for, sent or received
	Kill        // the same of SIGKILL
	Breach      // something that a grace period should have been spared
	Exit        // init's end and its recording
	kinds
)

var kindNames = [kinds]string{"note", "stop", "kill", "breach", "exit"}

func (k Kind) String() string { return kindNames[k] }

// Mark is one thing that happened.
type Mark struct {
	At   time.Duration // on CLOCK_MONOTONIC
	Lane Lane
	Kind Kind
	Text string // one line
}

// Grace is a grace period: from when the stop signal was heard to the deadline.
type Grace struct {
	From, Deadline time.Duration
}

// Timeline is a story to show. Marks may be in any order.
type Timeline struct {
	Title string
	Marks []Mark
	Grace []Grace // one for each effective deadline there was

	// Wall is the wall-clock time of instant 0, so that marks can be found in other
	// logs; the zero time if it is not known.
	Wall time.Time

	Verdict string // what came of it, in one line; "" if nobody judged
	Bad     bool   // it was harm
}

// Add adds a mark.
func (t *Timeline) Add(at time.Duration, lane Lane, kind Kind, text string) {
	t.Marks = append(t.Marks, Mark{at, lane, kind, text})
}

// sorted gives the marks by time; marks of one instant keep their order.
func (t *Timeline) sorted() []Mark {
	marks := slices.Clone(t.Marks)
	slices.SortStableFunc(marks, func(a, b Mark) int { return int(min(max(a.At-b.At, -1), 1)) })
	return marks
}

// origin is the instant that is shown as zero: the first mark.
func (t *Timeline) origin() time.Duration {
	if marks := t.sorted(); len(marks) > 0 {
		return marks[0].At
	}
	return 0
}

// clock gives the wall-clock time of an instant in UTC, "" if it is not known.
func (t *Timeline) clock(at time.Duration) string {
	if t.Wall.IsZero() {
		return ""
	}
	return t.Wall.Add(at).UTC().Format("15:04:05.000")
}

// day gives the date and zone that belong to clock.
func (t *Timeline) day() string {
	if t.Wall.IsZero() {
		return ""
	}
	return t.Wall.Add(t.origin()).UTC().Format("2006-01-02") + " UTC"
}

// deadline is the last effective deadline, and whether there is one.
func (t *Timeline) deadline() (time.Duration, bool) {
	if len(t.Grace) == 0 {
		return 0, false
	}
	return t.Grace[len(t.Grace)-1].Deadline, true
}

func sortedUnique(at []time.Duration) []time.Duration {
	slices.Sort(at)
	return slices.Compact(at)
}
