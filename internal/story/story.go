// Package story tells the journal of a container as a timeline.
package story

import (
	"strings"
	"time"

	"gracerun.io/signals"
	"gracerun.io/supervisor/breach"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/timeline"
)

// Draw adds what the journal says to a timeline: what callers asked for in the
// runtime's lane, what the machine decided in the monitor's, and the end of init
// in the kernel's.
func Draw(t *timeline.Timeline, j *journal.Journal) {
	for _, r := range j.Records {
		at := time.Duration(r.At)
		if lane, kind, text := event(r.Event, j.Config.StopSignal); text != "" {
			t.Add(at, lane, kind, text)
		}
		for _, e := range r.Effects {
			if lane, kind, text := effect(e, j.Config.StopSignal); text != "" {
				t.Add(at, lane, kind, text)
			}
			if in, ok := strings.CutPrefix(e, "arm in="); ok && r.State == lifecycle.Stopping.String() {
				if d, err := lifecycle.ParseDuration(in); err == nil {
					addGrace(t, at, at+time.Duration(d))
				}
			}
		}
	}
}

// addGrace adds a grace period. One that was counted anew, since the signal has
// been heard, takes the place of the provisional one.
func addGrace(t *timeline.Timeline, from, deadline time.Duration) {
	if n := len(t.Grace); n > 0 && from-t.Grace[n-1].From < 100*time.Millisecond {
		t.Grace[n-1] = timeline.Grace{From: from, Deadline: deadline}
		return
	}
	t.Grace = append(t.Grace, timeline.Grace{From: from, Deadline: deadline})
}

func event(line string, stop signals.Signal) (lane timeline.Lane, kind timeline.Kind, text string) {
	name, rest, _ := strings.Cut(line, " ")
	switch name {
	case "signal":
		return timeline.Runtime, kindOf(rest, stop), "asks for " + forPeople(rest)
	case "stop":
		return timeline.Runtime, timeline.Stop, "asks for a stop " + forPeople(rest)
	case "start":
		return timeline.Runtime, timeline.Note, "asks for leave to start, " + forPeople(rest)
	case "abandoned":
		return timeline.Runtime, timeline.Note, "is gone, without its reply: " + rest
	case "monitor-signal":
		return timeline.Monitor, timeline.Stop, "gets " + rest + " itself: joins the stop, or begins one"
	case "delivered":
		if request, errno, failed := strings.Cut(rest, " errno="); failed {
			return timeline.Monitor, timeline.Breach, "could not send " + request + ": errno " + errno
		}
		return 0, 0, "" // the kernel has its own word for it
	case "init-exited":
		return timeline.Kernel, timeline.Exit, "init exited, " + rest
	case "oom":
		return timeline.Kernel, timeline.Breach, "the OOM killer struck"
	case "deadline":
		return timeline.Monitor, timeline.Note, "the timer fires"
	case "":
		return 0, 0, "" // a continued journal begins
	}
	if told, ok := inWords[line]; ok {
		line = told
	}
	return timeline.Monitor, timeline.Note, line
}

// inWords is how the most common events and effects are told.
var inWords = map[string]string{
	"create-done ok":    "the container is created",
	"start-done ok":     "the container is started",
	"freezer frozen":    "sees that it is frozen",
	"freezer thawed":    "sees that it is thawed",
	"thaw":              "thaws it, so that it can act",
	"thaw-done ok":      "it is thawed",
	"streams-drained":   "its last output is in the log",
	"cgroup-empty":      "nobody is left in its cgroup",
	"kill-cgroup":       "kills what is left in its cgroup",
	"exit-recorded ok":  "the exit is recorded",
	"run-exit-command":  "runs the exit command",
	"exit-command-done": "the exit command has ended",
	"recovered":         "the supervisor had died; another goes on",
	"abort-create":      "ends the create",
}

func effect(line string, stop signals.Signal) (lane timeline.Lane, kind timeline.Kind, text string) {
	name, rest, _ := strings.Cut(line, " ")
	switch name {
	case "deliver":
		return timeline.Monitor, kindOf(rest, stop), "sends " + rest
	case "reply":
		return timeline.Runtime, timeline.Note, "is told: " + rest
	case "breach":
		return timeline.Monitor, timeline.Breach, "notes a breach: " + forPeople(rest)
	case "record-exit":
		return timeline.Monitor, timeline.Exit, "records the exit: " + rest
	case "arm", "drain-streams":
		return 0, 0, "" // the deadline is drawn by itself
	}
	if told, ok := inWords[line]; ok {
		line = told
	}
	return timeline.Monitor, timeline.Note, line
}

// forPeople tells of a caller and of what was left of the grace period in words.
func forPeople(words string) string {
	list := strings.Fields(words)
	for i, w := range list {
		if left, ok := strings.CutPrefix(w, "in="); ok {
			if d, err := lifecycle.ParseDuration(left); err == nil {
				list[i] = "with " + breach.Seconds(max(d, 0)) + " left"
			}
		}
		if by, ok := strings.CutPrefix(w, "by="); ok {
			if c, ok := lifecycle.ParseCaller(by); ok {
				list[i] = "by " + breach.Who(c)
			}
		}
	}
	return strings.Join(list, " ")
}

// kindOf looks for a signal among the words.
func kindOf(words string, stop signals.Signal) timeline.Kind {
	for word := range strings.FieldsSeq(words) {
		switch word {
		case signals.KILL.String():
			return timeline.Kill
		case stop.String():
			return timeline.Stop
		}
	}
	return timeline.Note
}
