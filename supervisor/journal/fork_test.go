package journal

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

func forkDir(t *testing.T) (fd int, path string) {
	t.Helper()
	path = t.TempDir()
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd, path
}

func snapshot(m *lifecycle.Machine) string { return string(m.AppendSnapshot(nil)) }

// steps steps the machine through a stop, n bare signals long.
func steps(t *testing.T, w *Writer, m *lifecycle.Machine, from lifecycle.Instant, n int) {
	t.Helper()
	for i := range n {
		id := lifecycle.FirstRequest + lifecycle.RequestID(i)
		at := from + lifecycle.Instant(i)
		for _, ev := range []lifecycle.Event{
			{Kind: lifecycle.SignalRequest, Request: id, Signal: signals.USR1},
			{Kind: lifecycle.Delivered, Request: id, Signal: signals.USR1},
		} {
			if _, err := w.Step(m, at, ev); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestForkIsJoined(t *testing.T) {
	for name, n := range map[string]int{"short": 3, "longer than a journal": 1000} {
		t.Run(name, func(t *testing.T) {
			dir, path := forkDir(t)
			config := lifecycle.DefaultConfig()
			w, err := Create(dir, config)
			if err != nil {
				t.Fatal(err)
			}
			m := lifecycle.New(config)
			if _, err := w.Step(m, 1, lifecycle.Event{Kind: lifecycle.CreateDone}); err != nil {
				t.Fatal(err)
			}
			fork, beside, err := Fork(dir)
			if err != nil {
				t.Fatal(err)
			}
			if snapshot(beside) != snapshot(m) {
				t.Errorf("the fork begins with %q, the journal has %q", snapshot(beside), snapshot(m))
			}
			if _, err := fork.Step(beside, 2, lifecycle.Event{Kind: lifecycle.StopRequest, Request: lifecycle.FirstRequest + 7, Grace: lifecycle.Second}); err != nil {
				t.Fatal(err)
			}
			steps(t, fork, beside, 3, n)
			if !fork.IsCurrent() || !w.IsCurrent() {
				t.Error("a journal and its fork are not two files")
			}
			fork.Close()

			// Another caller goes on where the first has ended.
			fork, again, err := Fork(dir)
			if err != nil {
				t.Fatal(err)
			}
			if snapshot(again) != snapshot(beside) {
				t.Errorf("the next caller has %q, want %q", snapshot(again), snapshot(beside))
			}
			if _, err := fork.Step(again, 5000, lifecycle.Event{Kind: lifecycle.Freezer, Frozen: true}); err != nil {
				t.Fatal(err)
			}
			want := snapshot(again)

			records, joined, err := Join(dir)
			if err != nil || joined == nil || snapshot(joined) != want {
				t.Fatalf("joined: %v, %v; want %q", joined, err, want)
			}
			if last := records[len(records)-1]; last.Event != "freezer frozen" {
				t.Errorf("the last step is %q", last.Event)
			}
			if fork.IsCurrent() {
				t.Error("a fork that was joined is there still")
			}
			_, resumed, err := Resume(dir)
			if err != nil || snapshot(resumed) != want {
				t.Errorf("the journal then has %q, %v; want %q", snapshot(resumed), err, want)
			}
			if text, err := os.ReadFile(path + "/" + Name); err != nil || strings.Count(string(text), "freezer frozen") != 1 {
				t.Errorf("the journal has not the step once, %v:\n%s", err, text)
			}
			if _, none, err := Join(dir); none != nil || err != nil {
				t.Errorf("without a fork: %v, %v", none, err)
			}
		})
	}
}

// A fork that its writer could not end, or that nobody can read, keeps no supervisor
// from going on.
func TestDamagedFork(t *testing.T) {
	for name, damage := range map[string]func(text string) string{
		"cut":     func(text string) string { return text[:len(text)-5] },
		"empty":   func(string) string { return "" },
		"garbage": func(string) string { return "what is this\n" },
	} {
		t.Run(name, func(t *testing.T) {
			dir, path := forkDir(t)
			config := lifecycle.DefaultConfig()
			w, err := Create(dir, config)
			if err != nil {
				t.Fatal(err)
			}
			m := lifecycle.New(config)
			steps(t, w, m, 1, 2)
			fork, beside, err := Fork(dir)
			if err != nil {
				t.Fatal(err)
			}
			steps(t, fork, beside, 10, 2)
			text, err := os.ReadFile(path + "/" + ForkName)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path+"/"+ForkName, []byte(damage(string(text))), 0o600); err != nil {
				t.Fatal(err)
			}
			steps, joined, err := Join(dir)
			if name == "cut" {
				if err != nil || joined == nil || len(steps) != 3 {
					t.Errorf("%d steps, %v, %v; want the three whole ones", len(steps), joined, err)
				}
			} else if err == nil || joined != nil {
				t.Errorf("joined: %v, %v", joined, err)
			}
			if _, err := os.Stat(path + "/" + ForkName); !os.IsNotExist(err) {
				t.Errorf("the fork is there still: %v", err)
			}
			if _, _, err := Resume(dir); err != nil {
				t.Error(err)
			}
		})
	}
}
