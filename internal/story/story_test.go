package story

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/timeline"
)

const second = lifecycle.Instant(lifecycle.Second)

// TestDraw: an enforced stop, told from its journal.
func TestDraw(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c := lifecycle.DefaultConfig()
	c.Policy, c.Grace = lifecycle.Observe, 10*lifecycle.Second
	w, err := journal.Create(fd, c)
	if err != nil {
		t.Fatal(err)
	}
	m := lifecycle.New(c)
	const request = lifecycle.FirstRequest
	for _, step := range []struct {
		at lifecycle.Instant
		ev lifecycle.Event
	}{
		{1 * second, lifecycle.Event{Kind: lifecycle.CreateDone}},
		{2 * second, lifecycle.Event{Kind: lifecycle.StopRequest, Request: request, Grace: 4 * lifecycle.Second}},
		{2*second + 5000, lifecycle.Event{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM}},
		{3 * second, lifecycle.Event{Kind: lifecycle.MonitorSignal, Signal: signals.TERM}},
		{4 * second, lifecycle.Event{Kind: lifecycle.SignalRequest, Request: request + 1, Signal: signals.KILL,
			By: lifecycle.NewCaller("/bin/bash", 900, 5000, 0, "session-1.scope")}},
		{5 * second, lifecycle.Event{Kind: lifecycle.InitExited, Status: lifecycle.Exited(7)}},
	} {
		if _, err := w.Step(m, step.at, step.ev); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	j, err := history.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var tl timeline.Timeline
	Draw(&tl, j)
	var text bytes.Buffer
	tl.Text(&text)
	told := strings.Join(strings.Fields(text.String()), " ")
	for _, want := range []string{
		"· runtime asks for a stop #1 grace=4s", "· monitor sends stop SIGTERM to=init",
		"· monitor gets SIGTERM itself", "✖ runtime asks for #2 SIGKILL by /bin/bash (process 900, user 0, session-1.scope)",
		"! monitor notes a breach: #2 early-kill with 2.0 s left by /bin/bash (process 900,", "■ kernel init exited, code=7",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("the story does not say %q:\n%s", want, text.String())
		}
	}
	if len(tl.Grace) != 1 || tl.Grace[0].Deadline-tl.Grace[0].From != 4e9 {
		t.Errorf("grace periods: %v; want one, of 4 s", tl.Grace)
	}
}
