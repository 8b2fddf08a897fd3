package host

import (
	"context"
	"embed"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gracerun.io/recorder"
	"gracerun.io/signals"
	"gracerun.io/timeline"
)

//go:embed cri-o
var criO embed.FS

// The stage of cri-o issue 8609. A pod has more time to end than systemd gives by
// default; here 15 s and 5 s stand for, say, 270 s and the usual 90 s.
const (
	podGrace    = 15 * time.Second
	defaultStop = 5 * time.Second
)

// Stack is the runtime and the monitor by which a container is made. The paths
// are those on the test host; Programs are put there (below /run/gracelab/bin).
type Stack struct {
	Name     string
	Runtime  string
	Monitor  string
	Programs map[string]string // name in /run/gracelab/bin: file on this machine
	Wraps    string            // the runtime that gracerun wraps, if Runtime is gracerun
}

// Stacks8609 are the columns of the comparison: crun as it was when issue 8609
// was reported, crun as it is since 1.17, and gracerun over the former, whose
// program is the file gracerun on this machine.
func Stacks8609(gracerun string) []Stack {
	return []Stack{
		{Name: "crun 1.8.1", Runtime: "/usr/bin/crun", Monitor: "/usr/bin/conmon"},
		{Name: "crun 1.21", Runtime: NewerCrun, Monitor: "/usr/bin/conmon"},
		{Name: "gracerun over crun 1.8.1", Runtime: "/run/gracelab/bin/gracerun", Monitor: "/usr/bin/conmon",
			Programs: map[string]string{"gracerun": gracerun}, Wraps: "/usr/bin/crun"},
	}
}

// Shutdown is what one power-off did to the workload. Instants are on the host's
// CLOCK_MONOTONIC; zero means that it did not happen.
type Shutdown struct {
	Stack   string
	Version string // first line of the runtime's --version

	Properties map[string]string // of the container's scope before the power-off

	PowerOff    time.Duration // asked for
	Term        time.Duration // the first TERM to the container's init
	TermFrom    string        // the name of its sender
	Terms       int           // how many were sent
	Kill        time.Duration // the first KILL to it
	KillFrom    string
	CrioStopped time.Duration // crio.service was gone
	Flushed     int           // steps of the workload's flush that were done
	Steps       int           // of so many
	Saved       time.Duration // the flush was complete

	Timeline   *timeline.Timeline
	Transcript *Transcript
}

// Harm says what went wrong, "" if nothing: the pod had its grace and used it,
// and whoever manages it was there until then.
func (s *Shutdown) Harm() string {
	var harm []string
	if s.Term == 0 {
		harm = append(harm, "no TERM")
	}
	if s.Kill != 0 && s.Kill-s.Term < podGrace {
		harm = append(harm, fmt.Sprintf("KILL by %s %.1f s after TERM, inside the grace of %.0f s",
			s.KillFrom, (s.Kill-s.Term).Seconds(), podGrace.Seconds()))
	}
	if s.Saved == 0 {
		harm = append(harm, fmt.Sprintf("%d of %d saved", s.Flushed, s.Steps))
	}
	if s.CrioStopped != 0 && (s.Term == 0 || s.CrioStopped < s.Term) {
		harm = append(harm, "crio.service was stopped before the container heard of it")
	}
	if s.Terms > 1 {
		harm = append(harm, fmt.Sprintf("%d TERMs", s.Terms))
	}
	return strings.Join(harm, "; ")
}

// Reproduce8609 powers off a node with one pod on it, whose container was made by
// the stack as CRI-O makes it, and tells what became of it. It takes 20 s to a
// minute. A stack that fails to start the container is an error.
func (i *Image) Reproduce8609(ctx context.Context, stack Stack) (*Shutdown, error) {
	files := map[string]File{
		"systemd/system.conf.d/stop.conf": {Text: fmt.Sprintf("[Manager]\nDefaultTimeoutStopSec=%ds\n", int(defaultStop.Seconds()))},
		"gracelab/parameters": {Text: fmt.Sprintf("RUNTIME=%s\nMONITOR=%s\nGRACE=%d\nexport GRACERUN_RUNTIME=%s\n",
			stack.Runtime, stack.Monitor, int(podGrace.Seconds()), stack.Wraps)},
	}
	for to, from := range map[string]string{
		"systemd/system/crio.service": "crio.service", "gracelab/workload": "workload", "gracelab/config.json": "config.json",
	} {
		files[to] = File{Text: embedded(from)}
	}
	for name, from := range stack.Programs {
		files["gracelab/bin/"+name] = File{From: from, Mode: 0o755}
	}
	t, err := i.Run(ctx, Job{Files: files, Script: embedded("node"), PowersOff: true})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stack.Name, err)
	}
	s, err := readShutdown(t)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stack.Name, err)
	}
	s.Stack = stack.Name
	s.Timeline.Title = "Power-off with " + stack.Name
	return s, nil
}

func embedded(name string) string {
	text, err := criO.ReadFile("cri-o/" + name)
	if err != nil {
		panic(err) // it is part of the program
	}
	return string(text)
}

var flushShape = regexp.MustCompile(`^flushed (\d+) of (\d+)$`)

// readShutdown makes sense of the kernel's trace of a power-off.
func readShutdown(t *Transcript) (*Shutdown, error) {
	s := &Shutdown{Properties: map[string]string{}, Timeline: &timeline.Timeline{}, Transcript: t}
	var events []recorder.Event
	for line := range strings.Lines(t.Output) {
		// Lines of the trace stand between those that other programs printed.
		if ev, err := recorder.Parse(strings.TrimRight(line, "\n")); err == nil {
			events = append(events, ev)
		}
	}
	var pid, monitor int
	for _, ev := range events {
		if text, ok := strings.CutPrefix(ev.Text, "node: "); ok {
			pid = max(pid, numberAfter(text, "container pid "))
			monitor = max(monitor, numberAfter(text, "monitor pid "))
		}
	}
	if pid == 0 {
		return nil, fmt.Errorf("the container did not run on the test host:\n%s", t.Output)
	}
	var ours []recorder.Event
	for _, ev := range events {
		if ev.What == recorder.Mark {
			s.read(ev)
			continue
		}
		if ev.Pid != pid && (ev.Pid != monitor || monitor == 0) {
			continue
		}
		ours = append(ours, ev)
		if ev.Pid != pid || ev.What != recorder.Generate {
			continue
		}
		switch ev.Signal {
		case signals.TERM:
			s.Terms++
			if s.Term == 0 {
				s.Term, s.TermFrom = ev.At, ev.SenderComm
			}
		case signals.KILL:
			if s.Kill == 0 {
				s.Kill, s.KillFrom = ev.At, ev.SenderComm
			}
		}
	}
	if s.PowerOff == 0 {
		return nil, fmt.Errorf("the test host was not powered off by its script:\n%s", t.Output)
	}
	recorder.Draw(s.Timeline, ours, signals.TERM)
	if s.Term != 0 {
		s.Timeline.Grace = []timeline.Grace{{From: s.Term, Deadline: s.Term + podGrace}}
	}
	return s, nil
}

// read reads what node, workload and crio.service wrote into the trace.
func (s *Shutdown) read(ev recorder.Event) {
	if ev.Text == "crio.service stopped" {
		s.CrioStopped = ev.At
		s.Timeline.Add(ev.At, timeline.Caller, timeline.Note, "crio.service is gone")
		return
	}
	who, text, _ := strings.Cut(ev.Text, ": ")
	switch who {
	case "node":
		if name, value, ok := strings.Cut(strings.TrimPrefix(text, "scope "), "="); ok && strings.HasPrefix(text, "scope ") {
			s.Properties[name] = value
		}
		if version, ok := strings.CutPrefix(text, "runtime "); ok {
			s.Version = version
		}
		if text == "poweroff" {
			s.PowerOff = ev.At
			s.Timeline.Add(ev.At, timeline.Caller, timeline.Note, "systemctl poweroff")
		}
	case "workload":
		if m := flushShape.FindStringSubmatch(text); m != nil {
			s.Flushed, _ = strconv.Atoi(m[1])
			s.Steps, _ = strconv.Atoi(m[2])
			if s.Flushed%4 != 0 {
				return // some are enough for the timeline
			}
		}
		if text == "saved" {
			s.Saved = ev.At
		}
		s.Timeline.Add(ev.At, timeline.Container, timeline.Note, text)
	}
}

func numberAfter(text, prefix string) int {
	digits, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return 0
	}
	n, _ := strconv.Atoi(digits)
	return n
}
