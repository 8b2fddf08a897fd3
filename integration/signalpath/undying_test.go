package signalpath

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
)

// freeze puts init into a frozen cgroup below the container's, where SIGKILL does not
// end it (cgroup version 1), and has it thaw.
func freeze(t *testing.T, c *testbed.Container) (thaw func()) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] != "freezer" {
			continue
		}
		nested := "/sys/fs/cgroup/freezer" + fields[2] + "/nested"
		write := func(name, what string) {
			if err := os.WriteFile(nested+"/"+name, []byte(what), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(nested, 0o755); err != nil {
			t.Skipf("no frozen cgroup can be made here: %v", err)
		}
		thaw = func() { _ = os.WriteFile(nested+"/freezer.state", []byte("THAWED"), 0) }
		t.Cleanup(func() { os.Remove(nested) })
		t.Cleanup(thaw)
		write("cgroup.procs", fmt.Sprint(c.Pid))
		write("freezer.state", "FROZEN")
		return thaw
	}
	t.Skip("the container's freezer is not that of cgroup version 1: one that is frozen can be killed")
	return nil
}

// A container that SIGKILL does not end keeps nobody waiting for ever, and is not
// taken for one that has ended.
func TestUndying(t *testing.T) {
	const limit = 10 * time.Second
	for _, p := range pairings(t) {
		if p.name != "gracemon and gracerun over runc" && p.name != "conmon and gracerun over runc" {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			if p.stack.Missing != "" {
				t.Skip(p.stack.Missing)
			}
			c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Minute})
			thaw := freeze(t, c)
			for _, args := range [][]string{{"stop", "--timeout", "0"}, {"delete", "--force"}} {
				got := within(t, c, limit+soon, append(args, c.ID)...)
				if got.code == 0 || got.stdout != "" {
					t.Errorf("%v: %+v", args, got)
				}
				if args[0] == "stop" && !strings.Contains(got.stderr, "has not ended 10s after SIGKILL") {
					t.Errorf("%v does not say so: %q", args, got.stderr)
				}
			}
			if got := call(t, c, gracerun(), "state", c.ID); !strings.Contains(got.stdout, fmt.Sprint(c.Pid)) {
				t.Errorf("state: %+v", got)
			}
			thaw()
			initEnds(t, c)
			if err := testbed.Until(patience(t), "it can be deleted", func() bool {
				return call(t, c, gracerun(), "delete", "--force", c.ID).code == 0
			}); err != nil {
				t.Error(err)
			}
		})
	}
}
