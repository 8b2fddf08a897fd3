package signalpath

import (
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
)

// family has an init and two more processes, and hears no TERM.
const family = `
	trap '' TERM
	(say one; while :; do sleep 1000; done) &
	(say two; while :; do sleep 1000; done) &
	trap 'exit 3' USR1
	say ready
	while :; do sleep 1000 & wait $!; done`

func shared(t *testing.T, p pairing) *testbed.Container {
	t.Helper()
	c := start(t, p, testbed.Options{HostPID: true, Grace: time.Second, Workload: family})
	for _, line := range []string{"one", "two"} {
		if err := c.Await(patience(t), line); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.Leftovers()); n < 4 { // two of them, and the sleeps
		t.Fatalf("%d processes beside init", n)
	}
	return c
}

func awaitNobody(t *testing.T, c *testbed.Container) {
	t.Helper()
	if err := c.AwaitEnd(patience(t)); err != nil {
		t.Fatal(err)
	}
	if err := testbed.Until(patience(t), "nobody is left", func() bool { return len(c.Leftovers()) == 0 }); err != nil {
		t.Errorf("%v: %v", err, c.Leftovers())
	}
}

// KILL ends all of a container that has no pid namespace of its own, in which nobody
// ends with init; whoever it comes from.
func TestKillWithoutPidNamespace(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		for _, args := range []string{"kill ID KILL", "stop --timeout 1 ID", "stop --timeout 0 ID"} {
			t.Run(args, func(t *testing.T) {
				t.Parallel()
				c := shared(t, p)
				call(t, c, gracerun(), strings.Fields(strings.ReplaceAll(args, "ID", c.ID))...)
				awaitNobody(t, c)
			})
		}
	})
}

// So it is where the supervisor does not answer, and gracerun sends the signal itself.
func TestKillWithoutPidNamespaceBesideAStuckSupervisor(t *testing.T) {
	supervised(t, func(t *testing.T, p pairing) {
		for _, args := range []string{"kill ID KILL", "stop --timeout 1 ID"} {
			t.Run(args, func(t *testing.T) {
				c := shared(t, p)
				goOn := stuck(t, c)
				saysSo(t, within(t, c, soon, strings.Fields(strings.ReplaceAll(args, "ID", c.ID))...))
				if err := testbed.Until(patience(t), "nobody is left", func() bool { return len(c.Leftovers()) == 0 }); err != nil {
					t.Errorf("%v: %v", err, c.Leftovers())
				}
				initEnds(t, c)
				goOn()
				awaitNobody(t, c)
			})
		}
	})
}

// What has outlived init is killed as well, and only if there is nothing is the
// container "not running".
func TestKillAfterInit(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		if !strings.HasPrefix(p.name, "conmon") {
			t.Skip("gracemon kills what is left when init has ended")
		}
		c := shared(t, p)
		if got := call(t, c, gracerun(), "kill", c.ID, "USR1"); got.code != 0 {
			t.Fatalf("kill USR1: %+v", got)
		}
		if err := c.AwaitEnd(patience(t)); err != nil {
			t.Fatal(err)
		}
		if len(c.Leftovers()) == 0 {
			t.Fatal("nobody has outlived init")
		}
		if got := call(t, c, gracerun(), "kill", c.ID, "TERM"); got.code == 0 {
			t.Errorf("TERM, when init has ended: %+v", got)
		}
		if got := call(t, c, gracerun(), "kill", c.ID, "KILL"); got.code != 0 {
			t.Errorf("KILL, when init has ended and others have not: %+v", got)
		}
		awaitNobody(t, c)
		if got := call(t, c, gracerun(), "kill", c.ID, "KILL"); got.code == 0 || !strings.Contains(got.stderr, "container not running") {
			t.Errorf("KILL, when nobody is left: %+v", got)
		}
	})
}
