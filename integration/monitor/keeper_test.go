package monitor

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

	"gracerun.io/signals/process"
)

// keeperOf finds the keeper of a state base.
func keeperOf(t *testing.T, base string) (pid int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		argv, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		env, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
		if strings.HasSuffix(string(argv), "\x00--keeper\x00") && strings.Contains(string(env), "GRACERUN_STATE_DIR="+base+"\x00") {
			return n
		}
	}
	t.Fatal("there is no keeper")
	return 0
}

// A TERM to all that is a user's, as at a logout: the keeper holds on, and every
// container has its TERM and its exit file.
func TestTermToAll(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	rounds := 3
	if os.Getenv("GRACERUN_SOAK") != "" {
		rounds = 100
	}
	for range rounds {
		state := t.TempDir()
		var all []*container
		for range 15 {
			c := ours.container(t, alert)
			c.env = []string{soon, "GRACERUN_STATE_DIR=" + state}
			c.up()
			all = append(all, c)
		}
		for _, c := range all {
			c.asleep()
		}
		keeper := keeperOf(t, state)
		for _, c := range all[:7] {
			c.must(unix.Kill(c.monitor, unix.SIGTERM))
		}
		if err := unix.Kill(keeper, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		for _, c := range all[7:] {
			c.must(unix.Kill(c.monitor, unix.SIGTERM))
		}
		for _, c := range all {
			c.expect("exit file", c.exitFile(), "5")
			c.gone()
			c.expect("the log", strings.Join(c.lines(), ";"), "stdout F up;stdout F TERM")
		}
		all[0].until("the keeper has ended", func() bool { return !running(keeper) })
		for _, c := range all {
			c.remove()
		}
	}
}

// replaceable gives the stack a gracemon of its own, at a place of its own.
func (s *stack) replaceable(t *testing.T) *stack {
	t.Helper()
	own := *s
	own.monitor = filepath.Join(t.TempDir(), "gracemon")
	install(t, s.monitor, own.monitor)
	return &own
}

// install puts a program in its place, as a package manager does.
func install(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		if err = os.WriteFile(to+".new", text, 0o755); err == nil {
			err = os.Rename(to+".new", to)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever becomes of the program while its supervisor sleeps, nothing is lost: the
// keeper goes on with its own, from memory if it must.
func TestProgramIsTaken(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	for _, test := range []struct {
		name string
		take func(t *testing.T, program string)
	}{
		{"chmod -x", func(t *testing.T, program string) {
			if err := os.Chmod(program, 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"deleted", func(t *testing.T, program string) {
			if err := os.Remove(program); err != nil {
				t.Fatal(err)
			}
		}},
		{"true in its place", func(t *testing.T, program string) { install(t, "/bin/true", program) }},
		{"a program that hangs", func(t *testing.T, program string) { install(t, hanging(t), program) }},
		{"conmon in its place", func(t *testing.T, program string) {
			conmon, err := exec.LookPath("conmon")
			if err != nil {
				t.Skip(err)
			}
			install(t, conmon, program)
		}},
	} {
		for _, end := range []string{"TERM", "exit", "KILL"} {
			t.Run(test.name+", "+end, func(t *testing.T) {
				own := ours.replaceable(t)
				c := own.container(t, quiet)
				c.env = []string{soon}
				c.up()
				c.asleep()
				test.take(t, own.monitor)
				switch end {
				case "TERM": // wakes it, if it can
					c.must(unix.Kill(c.monitor, unix.SIGTERM))
				case "exit":
					c.must(unix.Kill(c.pid(), unix.SIGTERM))
				case "KILL":
					c.killed()
					c.must(unix.Kill(c.monitor, unix.SIGTERM))
				}
				c.expect("exit file", c.exitFile(), "5")
				c.expect("the log", strings.Join(c.lines(), ";"), "stdout F up;stdout F TERM")
				if text, err := os.ReadFile(c.dir + "/conmon-pidfile"); err == nil {
					c.monitor, _ = strconv.Atoi(string(text))
				}
				c.gone()
				if left, _ := filepath.Glob(c.dir + "/state/*/" + c.id); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

// hanging makes a program that never ends.
func hanging(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hanging")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nsleep 100000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// killed kills the supervisor and waits for its successor, which may have its number.
func (c *container) killed() {
	c.t.Helper()
	before, err := process.Identify(c.monitor)
	c.must(err)
	c.must(unix.Kill(c.monitor, unix.SIGKILL))
	c.succeeded(before)
}

// succeeded waits until another process has taken the place of that supervisor.
func (c *container) succeeded(before process.Identity) {
	c.t.Helper()
	c.until("there is a successor", func() bool {
		text, _ := os.ReadFile(c.dir + "/conmon-pidfile")
		c.monitor, _ = strconv.Atoi(string(text))
		now, err := process.Identify(c.monitor)
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", c.monitor))
		return err == nil && now != before && running(c.monitor) && strings.Contains(string(env), "_GRACEMON_STAGE=successor")
	})
}

// An upgrade executes nothing that is not gracemon.
func TestUpgradeAsksWhoItIs(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	own := ours.replaceable(t)
	c := own.container(t, quiet)
	c.env = []string{"GRACEMON_SLEEP=off"}
	c.up()
	upgrade := func() (string, error) {
		said, err := exec.Command(ours.monitor, "--upgrade", c.state().Path()).CombinedOutput()
		return string(said), err
	}
	for _, other := range []string{"/bin/true", hanging(t)} {
		install(t, other, own.monitor)
		if said, err := upgrade(); err == nil || !strings.Contains(said, "is not gracemon") {
			t.Errorf("upgraded to %s, it says %q, %v", other, said, err)
		}
	}
	if err := os.Remove(own.monitor); err != nil {
		t.Fatal(err)
	}
	if said, err := upgrade(); err == nil || !strings.Contains(said, "no such file or directory") {
		t.Errorf("upgraded to nothing, it says %q, %v", said, err)
	}
	install(t, ours.monitor, own.monitor)
	if said, err := upgrade(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	c.must(unix.Kill(c.monitor, unix.SIGTERM))
	c.expect("exit file", c.exitFile(), "5")
	c.expect("the log", strings.Join(c.lines(), ";"), "stdout F up;stdout F TERM")
	c.gone()
}

// It sleeps when nothing has happened for as long as is said, not for twice that.
func TestSleepsInTime(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	const patience = 6 * time.Second
	c := ours.container(t, `echo up; sleep 2; echo more; read x < /data/one`)
	c.must(unix.Mkfifo(c.dir+"/one", 0o666))
	c.env = []string{"GRACEMON_SLEEP=" + patience.String()}
	c.up()
	c.says("stdout F more")
	begin := time.Now()
	c.asleep()
	if took := time.Since(begin); took < patience-time.Second || took > patience+patience/2 {
		t.Errorf("it sleeps %v after the last line, not %v", took, patience)
	}
	c.must(os.WriteFile(c.dir+"/one", []byte("\n"), 0))
	c.expect("exit file", c.exitFile(), "0")
	c.gone()
}

// A successor has its predecessor's number, by which Podman knows that there is one.
func TestSuccessorHasTheNumber(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, quiet)
		c.up()
		kept := 0
		const deaths = 6
		for range deaths {
			number := c.monitor
			c.killed()
			if c.monitor == number {
				kept++
			}
		}
		// A dead one that is reaped late, on a machine with much to do, has its number still.
		if kept < deaths/2 {
			t.Errorf("%d of %d successors have the number", kept, deaths)
		}
		c.must(unix.Kill(c.monitor, unix.SIGTERM))
		c.expect("exit file", c.exitFile(), "5")
		c.gone()
		c.expect("the log", strings.Join(c.lines(), ";"), "stdout F up;stdout F TERM")
	})
}

// Who sleeps goes on as one who is awake when the state directory is removed.
func TestStateDirectoryIsRemoved(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		for _, test := range []struct {
			name, sleep string
			remove      func(c *container) error
		}{
			{"awake", "off", func(c *container) error { return os.RemoveAll(c.dir + "/state/" + c.key()) }},
			{"asleep", "20ms", func(c *container) error { return os.RemoveAll(c.dir + "/state/" + c.key()) }},
			{"all of the base", "20ms", func(c *container) error { return os.RemoveAll(c.dir + "/state") }},
			{"only the files", "20ms", func(c *container) error {
				return exec.Command("/bin/sh", "-c", "rm -f "+c.dir+"/state/"+c.key()+"/"+c.id+"/*").Run()
			}},
			{"replaced", "20ms", func(c *container) error {
				path := c.dir + "/state/" + c.key()
				if err := os.Rename(path, path+"-away"); err != nil {
					return err
				}
				return os.MkdirAll(path+"/"+c.id, 0o700)
			}},
		} {
			t.Run(test.name, func(t *testing.T) {
				c := s.container(t, quiet)
				c.env = []string{"GRACEMON_SLEEP=" + test.sleep}
				c.created(c.exitCommand()...)
				c.call("start", c.id)
				c.says("stdout F up")
				if test.sleep != "off" {
					c.asleep()
				}
				c.must(test.remove(c))
				c.must(os.WriteFile(c.dir+"/more", nil, 0o644))
				c.says("stdout F more")
				c.must(unix.Kill(c.monitor, unix.SIGTERM))
				c.expect("exit file", c.exitFile(), "5")
				c.gone()
				c.expect("the log", strings.Join(c.lines(), ";"), "stdout F up;stdout F more;stdout F TERM")
				if c.exitCommandSaw() == "" {
					t.Error("the exit command has not run")
				}
			})
		}
	})
}

// key is the directory of the state base that the container's is in.
func (c *container) key() string {
	c.t.Helper()
	found, _ := filepath.Glob(c.dir + "/state/*/" + c.id)
	if len(found) != 1 {
		c.t.Fatalf("its state directory is one of %v", found)
	}
	return filepath.Base(filepath.Dir(found[0]))
}
