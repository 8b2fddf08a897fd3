package podman

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
	"gracerun.io/signals/process"
)

// TestMain: on a host, PID 1 reaps a dead monitor at once.
func TestMain(m *testing.M) { os.Exit(testbed.UnderReaper(m.Run)) }

// TestMonitorKilled: podman does not notice that a monitor was killed. Its database has
// the number of the dead one, which is that of the successor.
func TestMonitorKilled(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make these containers")
	}
	for _, program := range []string{"podman", "nsenter", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (make deps)", program)
		}
	}
	soak := os.Getenv("GRACERUN_SOAK") != ""
	rounds := 1
	if soak {
		rounds = 20
	}
	dir, err := os.MkdirTemp("", "gp-")
	if err != nil {
		t.Fatal(err)
	}
	var all []*stack
	for _, runtime := range []string{"runc", "crun"} {
		all = append(all, &stack{monitor: "gracemon", runtime: runtime, shim: true})
		if soak {
			all = append(all, &stack{monitor: "gracemon", runtime: runtime})
		}
	}
	all = append(all, &stack{monitor: "gracemon", runtime: "crun", shim: true, newer: true})
	t.Cleanup(func() { cleanUp(t, all, dir) })
	unbuilt := testbed.Build(dir, ours(all)...)
	archive, err := rootfs(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		s.settle(filepath.Join(dir, strconv.Itoa(i)), dir, unbuilt)
		t.Run(s.String(), func(t *testing.T) {
			if s.missing != "" {
				t.Skip(s.missing)
			}
			if err := s.prepare(archive); err != nil {
				t.Fatal(err)
			}
			for _, way := range waysToGoOn {
				for round := range rounds {
					c, r := testCase{}, &result{notes: otherNumber}
					for try := 0; r.notes == otherNumber && try < 6; try++ {
						c = testCase{name: fmt.Sprint(way.name, " ", round, " ", try), do: func(u *user) { u.killMonitor(way.do) }}
						r = c.with(s, archive)
					}
					if r.err != nil {
						t.Fatalf("%s: %v\nseen: %s", c.name, r.err, r.notes)
					}
					if r.notes != way.want {
						t.Errorf("%s: seen:\n%s\nnot:\n%s", c.name, r.notes, way.want)
					}
				}
			}
		})
	}
}

// killMonitor kills the monitor of a container that is up, with somebody who waits for
// it already.
func (u *user) killMonitor(goOn func(u *user, waits *running)) {
	u.up("trap 'exit 7' TERM; " + serve)
	number := u.inspect("{{.State.ConmonPid}}")
	pid, err := strconv.Atoi(number)
	u.must(err)
	before, err := process.Identify(pid)
	u.must(err)
	waits := u.begin(nil, "wait", u.name)
	u.until("podman wait has asked for the monitor", func() bool { return hasPidfd(waits.Process.Pid) || slept(waits.since) })
	u.must(unix.Kill(pid, unix.SIGKILL))
	id := u.inspect("{{.ID}}")
	successor := 0
	u.until("there is a successor", func() bool {
		successor = successorOf(id, before)
		return successor != 0
	})
	if successor != pid {
		// The dead one was reaped late, on a machine with much to do: see docs/recovery.md.
		u.note("%s", otherNumber)
		_ = waits.Process.Kill()
		u.finish(waits)
		return
	}
	goOn(u, waits)
	u.until("monitor and container have ended", func() bool { return !alive(number) })
}

const otherNumber = "its successor has another number"

// successorOf finds the process that has taken the place of a container's dead monitor.
func successorOf(id string, before process.Identity) (pid int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		line, _ := os.ReadFile(path)
		env, _ := os.ReadFile(filepath.Dir(path) + "/environ")
		if !strings.Contains(string(line), "\x00"+id+"\x00") || !strings.Contains(string(env), "_GRACEMON_STAGE=successor") {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if now, err := process.Identify(pid); err == nil && now != before {
			return pid
		}
	}
	return 0
}

func slept(since time.Time) bool { return time.Since(since) > 2*time.Second }

// hasPidfd reports whether a process has a pidfd open.
func hasPidfd(pid int) bool {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if to, _ := os.Readlink(link); strings.Contains(to, "pidfd") {
			return true
		}
	}
	return false
}

// before gives what a call of `podman wait` has said that was there before the monitor
// died: "as ever", or that it failed as one of Podman 5.3 and later does, which waits
// for the end of that very process, by a pidfd, and takes it for the container's.
func (u *user) before(waits *running) string {
	c := u.finish(waits)
	switch {
	case !u.newer && c.code == 0 && c.out == "7\n":
		return "as ever"
	case u.newer && c.code == 125 && strings.Contains(c.err, "no such exit code"):
		return "as ever"
	}
	return c.String()
}

var waysToGoOn = []struct {
	name string
	do   func(u *user, waits *running)
	want string
}{
	{
		name: "stop",
		do: func(u *user, waits *running) {
			later := u.begin(nil, "wait", u.name)
			c := u.do("stop", "--time=20", u.name)
			u.note("stop %d %q", c.code, c.err)
			u.note("waited %s, later %q", u.before(waits), u.finish(later).out)
			u.note("exited %s", u.inspect("{{.State.Status}} {{.State.ExitCode}}"))
		},
		want: "stop 0 \"\"\nwaited as ever, later \"7\\n\"\nexited exited 7",
	},
	{
		name: "end by itself",
		do: func(u *user, waits *running) {
			u.ok("kill", "--signal=TERM", u.name)
			u.note("waited %s, later %q", u.before(waits), u.waited())
			// "stopped" until the exit command has cleaned up.
			u.until("it is cleaned up", func() bool { return u.inspect("{{.State.Status}}") != "stopped" })
			u.note("exited %s", u.inspect("{{.State.Status}} {{.State.ExitCode}}"))
		},
		want: "waited as ever, later \"7\"\nexited exited 7",
	},
	{
		name: "rm",
		do: func(u *user, waits *running) {
			c := u.do("rm", "--force", "--time=20", u.name)
			u.note("rm %d %q", c.code, c.err)
			u.finish(waits)
			u.note("exists %d", u.do("container", "exists", u.name).code)
			left, _ := filepath.Glob("/run/gracerun/[^.]*/" + "*")
			for _, path := range left {
				text, _ := os.ReadFile(path + "/container")
				if strings.Contains(string(text), u.stack.dir+"/") {
					u.note("left: %s", path)
				}
			}
		},
		want: "rm 0 \"\"\nexists 1",
	},
}
