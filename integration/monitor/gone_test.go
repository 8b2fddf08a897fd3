package monitor

import (
	"os"
	"testing"
)

// The runtime's package is removed, and the directory that the monitor was started in:
// whoever wakes up, or goes on for a supervisor that was killed, has the container all
// the same.
func TestRuntimeIsGone(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		for _, how := range []string{"woken", "killed", "upgraded"} {
			t.Run(how, func(t *testing.T) {
				c := s.container(t, quiet)
				c.env = []string{soon}
				c.wrapRuntime("")
				c.started()
				c.says("stdout F up")
				c.asleep()
				c.must(os.Rename(c.runtime, c.runtime+".gone"))
				switch how {
				case "killed":
					c.killed()
				case "upgraded":
					c.expect("upgrade", c.ask("upgrade"), "done")
				}
				c.signalMonitor("TERM")
				c.says("stdout F TERM")
				c.expect("exit file", c.exitFile(), "5")
				c.must(os.Rename(c.runtime+".gone", c.runtime)) // to delete it
			})
		}
	})
}
