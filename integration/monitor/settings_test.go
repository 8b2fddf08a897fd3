package monitor

import (
	"os"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
)

// configure gives the node of the container a configuration file.
func (c *container) configure(text string) {
	c.t.Helper()
	path := c.dir + "/config.toml"
	c.must(os.WriteFile(path, []byte(text), 0o644))
	c.env = append(c.env, "GRACERUN_CONFIG="+path)
}

// What the owner of the node says holds in gracemon, whatever runtime is beneath.
func TestOwnersSettingsHold(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, deaf)
		c.configure("[stop]\npolicy = \"enforce\"\ngrace = \"700ms\"\n")
		c.up()
		begin := time.Now()
		c.expect("TERM", c.ask("signal TERM"), "delivered")
		c.expect("TERM again", c.ask("signal TERM"), "joined")
		c.expect("KILL", c.ask("signal KILL"), "delivered")
		if took := time.Since(begin); took < 700*time.Millisecond {
			t.Errorf("killed after %v, before the grace of 700ms was over", took)
		}
	})
}

// Whoever writes annotations gets what the owner of the node grants, and no more.
func TestAnnotationsGetWhatIsGranted(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, deaf)
		c.configure("[annotations]\npolicies = [\"observe\"]\nmax-grace = \"700ms\"\n")
		c.annotate("io.gracerun.policy", "enforce", "io.gracerun.grace", "87600h",
			"io.gracerun.faults", "effect.deliver do=drop; effect.record-exit do=hang",
			"io.kubernetes.pod.terminationGracePeriod", "-1", "org.opencontainers.image.stopSignal", "SIGFOO")
		c.up()
		begin := time.Now()
		c.signalMonitor("TERM")
		c.expect("story", c.ended(), "exit 137, persisted 137\nstdout F TERM 1\nstdout F up")
		if took := time.Since(begin); took < 700*time.Millisecond {
			t.Errorf("killed after %v, before the 700ms that are granted were over", took)
		}
		said, err := os.ReadFile(c.dir + "/stderr.0")
		c.must(err)
		for _, want := range []string{
			`annotation io.gracerun.policy="enforce": annotations may not ask for it on this node`,
			`annotation io.gracerun.grace="87600h": is more than this node grants`,
			`annotation org.opencontainers.image.stopSignal="SIGFOO": unknown signal: the stop signal is SIGTERM`,
			"a fault plan in an annotation is not followed on this node",
		} {
			if !strings.Contains(string(said), want) {
				t.Errorf("nobody was told %q:\n%s", want, said)
			}
		}
	})
}

// The owner can allow fault plans in annotations.
func TestFaultsByAnnotationWhereAllowed(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, obedient)
	c.configure("faults = \"annotations\"\n")
	c.annotate("io.gracerun.faults", "effect.deliver signal=SIGTERM do=error errno=1 count=1")
	c.up()
	conn := c.dial()
	c.expect("keep", c.askOn(conn, "keep"), "done")
	c.expect("stop", c.askOn(conn, "stop grace=20s"), "ended code=5")
	if j := c.journal(); !strings.Contains(j, "delivered stop SIGTERM errno=1") {
		t.Errorf("the plan did not strike:\n%s", j)
	}
}

// No container is made by half of a configuration file.
func TestWrongSettingsFailTheCreate(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, "true")
		c.configure("[stop]\npolcy = \"enforce\"\n")
		c.create()
		if message := c.message(); !strings.Contains(strings.ReplaceAll(message, `\/`, "/"), c.dir+"/config.toml:2: unknown key stop.polcy") {
			t.Errorf("the sync pipe says %s", message)
		}
	})
}

// With a fault plan in force, too, who insists gets the container's end: kill --force,
// delete --force, and a SIGKILL outside of a grace period.
func TestFaultPlanDoesNotKeepAContainerAlive(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	for _, request := range []string{"signal KILL force", "delete force", "signal KILL"} {
		for _, stopped := range []bool{false, true} {
			if stopped && request == "signal KILL" {
				continue // that one is in a grace period
			}
			c := ours.container(t, deaf)
			c.env = append(c.env, "GRACERUN_FAULTS=effect.deliver do=drop; effect.thaw do=hang; effect.kill-cgroup do=hang; effect.record-exit do=hang; effect.reply do=drop")
			c.up()
			if stopped {
				conn := c.dial()
				_, err := conn.Ask(control.Request{Verb: control.Stop, Grace: lifecycle.Millisecond}, 0) // no reply will come
				if err != control.ErrTimeout {
					t.Fatal(err)
				}
				c.must(testbed.Until(t.Context(), "SIGKILL was dropped", func() bool {
					return strings.Contains(c.journal(), "delivered kill SIGKILL ok")
				}))
			}
			reply := c.ask(request)
			if reply != "delivered" && reply != "granted" && !strings.HasPrefix(reply, "ended") {
				t.Errorf("%s: %s", request, reply)
			}
			c.expect("exit file after "+request, c.exitFile(), "137")
			c.gone()
		}
	}
}
