package crash

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
	"gracerun.io/signals/process"
)

// TestCosts measures what recovery costs, and holds it against bounds that only a
// mistake would exceed: how long a container is without a supervisor, with a keeper
// and without, and how much memory the keeper takes.
func TestCosts(t *testing.T) {
	s := newStack(t, "runc")
	const containers = 10
	var all []*container
	for range containers {
		c, err := s.make(plan{code: 5, after: 10 * time.Millisecond, burst: 1, pause: 50 * time.Millisecond, grace: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := c.remove(); err != nil {
				t.Error(err)
			}
		}()
		if err := c.create(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.gracerun("start", c.id); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	keeper, supervisor := s.keeper(t), pss(t, pidOf(t, all[0]))
	memory := pss(t, keeper)
	t.Logf("keeper of %d containers: PSS %d KiB; a supervisor beside it: %d KiB", containers, memory, supervisor)
	if memory > 4096 {
		t.Errorf("the keeper takes %d KiB", memory)
	}

	var gaps []time.Duration
	for _, c := range all {
		old := c.numbered(t)
		fd, err := process.Open(pidOf(t, c))
		if err != nil {
			t.Fatal(err)
		}
		begin := testbed.Now()
		if err := fd.Send(9); err != nil {
			t.Fatal(err)
		}
		for c.numbered(t) == old {
			time.Sleep(100 * time.Microsecond)
			if testbed.Now()-begin > limit {
				t.Fatal("nobody goes on")
			}
		}
		gaps = append(gaps, testbed.Now()-begin)
		fd.Close()
	}
	slices.Sort(gaps)
	t.Logf("from SIGKILL to the successor in its place, by the keeper: median %s, longest %s", gaps[len(gaps)/2], gaps[len(gaps)-1])
	if gaps[len(gaps)/2] > 5*time.Second {
		t.Error("that is too long")
	}
	if n := len(s.keepers(t)); n != 1 {
		t.Errorf("there are %d keepers", n)
	}
}

func pidOf(t *testing.T, c *container) int {
	t.Helper()
	text, err := os.ReadFile(c.dir + "/monitor-pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// keepers are the keepers of the stack's state directory.
func (s *stack) keepers(t *testing.T) (pids []int) {
	t.Helper()
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		text, _ := os.ReadFile(path)
		if !bytes.HasSuffix(text, []byte("gracemon\x00--keeper\x00")) {
			continue
		}
		env, _ := os.ReadFile(filepath.Dir(path) + "/environ")
		if bytes.Contains(env, []byte("GRACERUN_STATE_DIR="+s.state+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func (s *stack) keeper(t *testing.T) int {
	t.Helper()
	pids := s.keepers(t)
	if len(pids) != 1 {
		t.Fatalf("keepers are %v", pids)
	}
	return pids[0]
}

// pss is the proportional set size of a process in KiB.
func pss(t *testing.T, pid int) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	t.Fatal("no Pss")
	return 0
}
