package process

import (
	"errors"
	"strconv"
	"testing"

	"gracerun.io/signals"
)

// TestWatchExit: how a process ended that somebody else has reaped.
func TestWatchExit(t *testing.T) {
	needRoot(t)
	for _, test := range []struct {
		name string
		end  func(*testing.T, *child, Pidfd)
		want Status
	}{
		{"exited", func(t *testing.T, c *child, _ Pidfd) { c.tell("7") }, Status{Known: true, Code: 7}},
		{"killed", func(t *testing.T, _ *child, p Pidfd) {
			if err := p.Send(signals.KILL); err != nil {
				t.Fatal(err)
			}
		}, Status{Known: true, Signal: signals.KILL}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := startHelper(t, "parent")
			pid, err := strconv.Atoi(c.line())
			if err != nil {
				t.Fatal(err)
			}
			p := openPidfd(t, pid)
			w, err := WatchExit(pid)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if _, err := w.Status(); !errors.Is(err, ErrRunning) {
				t.Errorf("while it runs: %v, want ErrRunning", err)
			}
			other := startSleep(t) // whose end is none of its business
			_ = other.cmd.Process.Kill()
			_ = other.cmd.Wait()
			w = ResumeExitWatch(w.FD(), pid)
			test.end(t, c, p)
			if exited, err := p.Wait(limit); !exited || err != nil {
				t.Fatalf("Wait is %v, %v", exited, err)
			}
			c.tell("reap")
			c.line()
			if got, err := w.Status(); got != test.want || err != nil {
				t.Errorf("ended with %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}
