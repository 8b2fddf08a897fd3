package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

const patience = 20 * time.Second

// hierarchies gives a cgroup for the test in every hierarchy that this machine has.
func hierarchies(t *testing.T) map[string]Cgroup {
	if os.Geteuid() != 0 {
		t.Skip("only root can make cgroups here")
	}
	name := fmt.Sprintf("/gracerun-test-%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
	all := map[string]Cgroup{}
	for kind, c := range map[string]Cgroup{
		"v1":      {Dir: Mount + "/freezer" + name, V1: true},
		"v2":      {Dir: Mount + name},
		"unified": {Dir: Mount + "/unified" + name},
	} {
		if _, err := os.Stat(filepath.Join(filepath.Dir(c.Dir), "cgroup.procs")); err != nil {
			continue
		}
		if err := os.MkdirAll(c.Dir+"/below", 0o755); err != nil {
			t.Logf("no %s: %v", kind, err)
			continue
		}
		t.Cleanup(func() {
			if err := c.Kill(); err != nil { // a shell leaves its sleep behind
				t.Error(err)
			}
			waitFor(t, func() bool { empty, _ := c.Empty(); return empty })
			for _, dir := range []string{c.Dir + "/below", c.Dir} {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			}
		})
		all[kind] = c
	}
	if len(all) == 0 {
		t.Skip("no cgroup can be made on this machine")
	}
	return all
}

// start runs a shell that says each USR1, in that directory of a hierarchy.
func start(t *testing.T, dir string) (pid int, said *bufio.Reader) {
	cmd := exec.Command("/bin/sh", "-c", `echo $$ > "$0"/cgroup.procs || exit; trap 'echo USR1' USR1; echo ready
		while :; do sleep 1000 & wait $!; done`, dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	said = bufio.NewReader(out)
	if line, err := said.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd.Process.Pid, said
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			t.Fatal("not in time")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestEachGetsItOnce(t *testing.T) {
	for kind, c := range hierarchies(t) {
		t.Run(kind, func(t *testing.T) {
			first, saidFirst := start(t, c.Dir)
			_, saidSecond := start(t, c.Dir+"/below")
			spared, saidSpared := start(t, c.Dir)
			// The shells' children get it too, hence: at least.
			if sent, err := c.Signal(signals.USR1, spared); err != nil || sent < 2 {
				t.Fatalf("sent to %d, %v", sent, err)
			}
			for _, said := range []*bufio.Reader{saidFirst, saidSecond} {
				if line, err := said.ReadString('\n'); line != "USR1\n" {
					t.Errorf("%q, %v", line, err)
				}
			}
			pids, err := c.Pids()
			if err != nil || len(pids) < 3 {
				t.Errorf("Pids() = %v, %v", pids, err)
			}
			if of, err := Of(first); err != nil || kind == "v1" && !Unified() && of != c {
				t.Errorf("Of(%d) = %v, %v", first, of, err)
			}
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
			// It was spared the signal, and says nothing before its end.
			if line, err := saidSpared.ReadString('\n'); err == nil {
				t.Errorf("the one that was left out says %q", line)
			}
		})
	}
}

func TestAStrangerIsNotHit(t *testing.T) {
	for kind, c := range hierarchies(t) {
		t.Run(kind, func(t *testing.T) {
			inside, _ := start(t, c.Dir)
			if hit, err := (Cgroup{c.Dir + "/below", c.V1}).signalOne(inside, signals.KILL); hit || err != nil {
				t.Errorf("hit = %v, %v: one of another cgroup was signalled", hit, err)
			}
			if hit, err := c.signalOne(inside, signals.KILL); !hit || err != nil {
				t.Errorf("hit = %v, %v: one of this cgroup was not signalled", hit, err)
			}
		})
	}
}

func TestFreezeAndThaw(t *testing.T) {
	for kind, c := range hierarchies(t) {
		t.Run(kind, func(t *testing.T) {
			_, said := start(t, c.Dir)
			if frozen, err := c.Frozen(); frozen || err != nil {
				t.Fatalf("Frozen() = %v, %v at first", frozen, err)
			}
			name, text := "cgroup.freeze", "1"
			if c.V1 {
				name, text = "freezer.state", "FROZEN"
			}
			if err := c.write(name, text); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool {
				frozen, err := c.Frozen()
				return frozen && err == nil
			})
			if _, err := c.Signal(signals.USR1, 0); err != nil {
				t.Fatal(err)
			}
			if err := c.Thaw(); err != nil {
				t.Fatal(err)
			}
			if line, err := said.ReadString('\n'); line != "USR1\n" {
				t.Errorf("after the thaw: %q, %v", line, err)
			}
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestOneThatIsGone(t *testing.T) {
	c := Cgroup{Dir: Mount + "/gracerun-test-gone-" + strconv.Itoa(os.Getpid())}
	if frozen, err := c.Frozen(); frozen || err != nil {
		t.Errorf("Frozen() = %v, %v", frozen, err)
	}
	if empty, err := c.Empty(); !empty || err != nil {
		t.Errorf("Empty() = %v, %v", empty, err)
	}
	if err := c.Kill(); err != nil {
		t.Error(err)
	}
	if err := c.Thaw(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Thaw() = %v", err)
	}
}

func TestNone(t *testing.T) {
	var none Cgroup
	if frozen, err := none.Frozen(); frozen || err != nil {
		t.Errorf("Frozen() = %v, %v", frozen, err)
	}
	if err := none.Thaw(); err != nil {
		t.Error(err)
	}
	if _, err := none.Signal(signals.KILL, 0); err != ErrNoCgroup {
		t.Errorf("Signal: %v", err)
	}
	if err := none.Kill(); err != ErrNoCgroup {
		t.Errorf("Kill: %v", err)
	}
	if At("") != none || At("/") != none {
		t.Error("the root is taken for a container's cgroup")
	}
}
