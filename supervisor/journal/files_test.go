package journal

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

// A container may outlive the program that has written its journal, and be found by an
// older one: that goes on with what it knows, at the deadline that stands, and its own
// steps are those of any journal.
func TestOlderProgramGoesOn(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c := lifecycle.DefaultConfig()
	w, err := Create(fd, c)
	if err != nil {
		t.Fatal(err)
	}
	m, second := lifecycle.New(c), lifecycle.Instant(lifecycle.Second)
	for i, ev := range []lifecycle.Event{
		{Kind: lifecycle.CreateDone},
		{Kind: lifecycle.StartDone},
		{Kind: lifecycle.StopRequest, Request: lifecycle.FirstRequest, Grace: 9 * lifecycle.Second},
		{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM},
	} {
		if _, err := w.Step(m, lifecycle.Instant(i)*second, ev); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	text, err := os.ReadFile(dir + "/" + Name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	lines[0] = strings.TrimSuffix(lines[0], "\n") + " mood=cheerful\n"
	last := strings.Split(strings.TrimSuffix(lines[len(lines)-2], "\n"), " | ")
	last[0] += " moon=full"
	last[1] = "hoping"
	last[2] = strings.Replace(last[2], also, "sing loudly; "+also+"patient weight=7 ", 1)
	if !strings.Contains(last[2], "patient") {
		t.Fatalf("no additions in %q", last)
	}
	last[3] += " steps=9"
	lines[len(lines)-2] = strings.Join(last, " | ") + "\n"
	if err := os.WriteFile(dir+"/"+Name, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}

	w, again, err := Resume(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if got, want := string(again.AppendState(nil, 0)), string(m.AppendState(nil, 0)); got != want || again.Deadline() != 12*second {
		t.Errorf("goes on as %s, until %d; want %s, until %d", got, again.Deadline(), want, 12*second)
	}
	effects, err := w.Step(again, 12*second, lifecycle.Event{Kind: lifecycle.Deadline})
	if err != nil || len(effects) == 0 || effects[0].Signal != signals.KILL {
		t.Errorf("at the deadline: %v, %v", effects, err)
	}
	for _, ev := range []lifecycle.Event{
		{Kind: lifecycle.InitExited, Status: lifecycle.Exited(3)}, {Kind: lifecycle.StreamsDrained}, {Kind: lifecycle.CgroupEmpty},
		{Kind: lifecycle.ExitRecorded}, {Kind: lifecycle.ExitCommandDone},
	} {
		if _, err := w.Step(again, 13*second, ev); err != nil {
			t.Fatal(err)
		}
	}
	if reply, found := FindReply(fd, lifecycle.FirstRequest, 12*second); !found || reply.Status != lifecycle.Exited(3) {
		t.Errorf("the reply is %+v, %v", reply, found)
	}
	if reply, found := FindReply(fd, lifecycle.FirstRequest, 14*second); found {
		t.Errorf("%+v was found, which is older", reply)
	}
	if reply, found := FindReply(fd, lifecycle.FirstRequest+1, 0); found {
		t.Errorf("%+v was found, which is another's", reply)
	}
}
