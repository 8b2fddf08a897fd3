package monitor

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gracerun.io/signals/process"
)

// The test program itself can be the runtime, by way of a parent that init gets
// instead of the supervisor, as a service manager can be.
const roleVariable = "GRACEMON_TEST_ROLE"

func init() {
	switch os.Getenv(roleVariable) {
	case "runtime":
		os.Exit(beRuntime())
	case "parent":
		os.Exit(beParent())
	}
}

// beRuntime runs the runtime as a grandchild, beneath the parent that stays.
func beRuntime() int {
	if !slices.Contains(os.Args, "create") {
		cmd := exec.Command(os.Getenv("GRACEMON_TEST_RUNTIME"), os.Args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		_ = cmd.Run()
		return cmd.ProcessState.ExitCode()
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"=parent")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{writer}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if cmd.Start() != nil {
		return 1
	}
	writer.Close()
	var code int
	if _, err := fmt.Fscan(reader, &code); err != nil {
		return 1
	}
	return code
}

func beParent() int {
	if unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != nil {
		return 1
	}
	cmd := exec.Command(os.Getenv("GRACEMON_TEST_RUNTIME"), os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	_ = cmd.Run()
	// Nobody is to wait for the end of what this process has open.
	null, _ := os.OpenFile("/dev/null", os.O_RDWR, 0)
	for fd := range 3 {
		_ = unix.Dup2(int(null.Fd()), fd)
	}
	answer := os.NewFile(3, "answer")
	fmt.Fprintln(answer, cmd.ProcessState.ExitCode())
	answer.Close()
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			return 0
		}
	}
}

// The exit status of an init that is not a child is asked of the kernel, and
// never made up.
func TestInitIsNotAChild(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		for _, end := range []struct{ script, want string }{{"exit 7", "7"}, {"sleep 1000", "137"}} {
			c := s.container(t, "echo up; "+end.script)
			c.runtime = c.dir + "/runtime"
			self, err := os.Executable()
			c.must(err)
			c.must(os.WriteFile(c.runtime, []byte("#!/bin/sh\nexport "+roleVariable+"=runtime GRACEMON_TEST_RUNTIME="+s.runtime+"\nexec "+self+" \"$@\"\n"), 0o755))
			c.created()
			if parent := parentOf(t, c.pid()); parent == c.monitor {
				t.Fatal("init is a child of the supervisor")
			}
			pid := c.pid()
			c.call("start", c.id)
			c.says("stdout F up")
			if end.want == "137" {
				c.must(unix.Kill(pid, unix.SIGKILL))
			}
			want := end.want
			if !kernelTells(t) {
				want = "-1"
			}
			c.expect("exit file", c.exitFile(), want)
			c.gone()
		}
	})
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	var parent int
	if _, err := fmt.Sscan(string(text[strings.LastIndexByte(string(text), ')')+1:]), &state, &parent); err != nil {
		t.Fatal(err)
	}
	return parent
}

// kernelTells reports whether a pidfd tells the exit status of what was reaped
// (Linux 6.15).
func kernelTells(t *testing.T) bool {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := process.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	_, err = p.ExitInfo()
	return err == nil
}

// A container that shares its cgroup with others (Podman's --cgroups=disabled)
// takes none of them along.
func TestSharedCgroupIsNotSwept(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	const dir = "/sys/fs/cgroup/freezer/" + cgroupParent + "/shared"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skip("no version 1 freezer here: ", err)
	}
	defer os.Remove(dir)
	bystander := exec.Command("sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = bystander.Process.Kill()
		_ = bystander.Wait()
	}()
	if err := os.WriteFile(dir+"/cgroup.procs", []byte(fmt.Sprint(bystander.Process.Pid)), 0); err != nil {
		t.Skip("nobody can be moved: ", err)
	}
	c := ours.container(t, `sleep 1000 & exit 4`)
	c.spec.Linux.CgroupsPath = "/" + cgroupParent + "/shared"
	c.spec.Linux.Namespaces = slices.DeleteFunc(c.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	c.started()
	c.expect("exit file", c.exitFile(), "4")
	c.gone()
	if !running(bystander.Process.Pid) {
		t.Error("the bystander was killed")
	}
}

// The delivery of TERM never returns: the stop ends all the same.
func TestDeliveryThatHangs(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, obedient)
	c.env = []string{"GRACERUN_FAULTS=effect.deliver signal=SIGTERM do=hang"}
	c.up()
	begin := time.Now()
	c.expect("stop", c.ask("stop grace=500ms"), "ended signal=9")
	if took := time.Since(begin); took < 500*time.Millisecond {
		t.Errorf("killed after %v, before the grace of 500ms was over", took)
	}
}

// TERM cannot be sent at first: it is tried again within the grace.
func TestDeliveryThatFailsIsRepeated(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, obedient)
	c.env = append(c.env, "GRACERUN_FAULTS=effect.deliver signal=SIGTERM do=error errno=1 count=2")
	c.up()
	c.expect("stop", c.ask("stop grace=20s"), "ended code=5")
}

// The runtime is there, and cannot be executed.
func TestRuntimeIsNoProgram(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, "true")
	c.runtime = c.dir + "/runtime"
	c.must(os.WriteFile(c.runtime, []byte("no program"), 0o755))
	c.expectStatus(c.create(), 0)
	c.expect("sync pipe", strings.ReplaceAll(c.message(), `\/`, "/"), `{"pid": -1, "message": "run `+c.runtime+`: Exec format error"}`)
}

// A runtime that writes more than a pipe holds, as one with --debug or with hooks that
// talk, is not kept waiting for a reader; what it writes is in the log, or is the
// beginning of why there is no container.
func TestRuntimeThatTalks(t *testing.T) {
	const lines = 4000
	talk := "i=0; while [ $i -lt " + strconv.Itoa(lines) + " ]; do echo \"$i of a runtime that has a lot to say\" >&2; i=$((i+1)); done\n"
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.runtime = c.dir + "/runtime"
		c.must(os.WriteFile(c.runtime, []byte("#!/bin/bash\ncase \" $* \" in *' create '*) "+talk+";; esac\nexec "+s.runtime+" \"$@\"\n"), 0o755))
		c.up()
		c.expect("stop", c.ask("stop grace=20s"), "ended code=5")
		c.gone()
		text, err := os.ReadFile(c.log)
		c.must(err)
		for i := range lines {
			if line := fmt.Sprintf(" stderr F %d of a runtime that has a lot to say\n", i); strings.Count(string(text), line) != 1 {
				t.Fatalf("%q is %d times in the log", line, strings.Count(string(text), line))
			}
		}

		c = s.container(t, obedient)
		c.runtime = c.dir + "/runtime"
		c.must(os.WriteFile(c.runtime, []byte("#!/bin/bash\ncase \" $* \" in *' create '*) "+talk+"exit 1;; esac\nexec "+s.runtime+" \"$@\"\n"), 0o755))
		c.create()
		message := c.message()
		if begin := `{"pid": -1, "message": "0 of a runtime that has a lot to say\n1 of a runtime`; !strings.HasPrefix(message, begin) || len(message) < 4096 {
			t.Errorf("the sync pipe says %.100q, %d bytes", message, len(message))
		}
		c.gone()
	})
}

// Without a place for state everything works that conmon does.
func TestNoStateDirectory(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, obedient)
	c.must(os.WriteFile(c.dir+"/state", nil, 0o600)) // a file in its place
	c.up()
	c.signalMonitor("TERM")
	c.expect("story", c.ended(), "exit 5, persisted 5\nstdout F TERM\nstdout F up")
}

// Podman makes a container anew while the exit command of its predecessor waits
// for Podman's lock: the new one has a state directory of its own, which the old
// supervisor leaves alone when it ends.
func TestMadeAnewBeforeTheExitCommandEnds(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, obedient)
	c.must(os.WriteFile(c.dir+"/exit-command", []byte("#!/bin/sh\nwhile ! [ -e "+c.dir+"/go ]; do sleep 0.02; done\n"), 0o755))
	c.started("--exit-command", c.dir+"/exit-command")
	c.says("stdout F up")
	c.expect("stop", c.ask("stop grace=20s"), "ended code=5")
	c.expect("exit file", c.exitFile(), "5")
	old := c.monitor
	if !running(old) {
		t.Fatal("the old supervisor does not wait for its exit command")
	}
	c.call("delete", c.id)
	c.must(os.Remove(c.exits + "/" + c.id))
	c.must(os.Remove(c.log))
	c.monitor = 0
	c.up()
	c.expect("the new one", strings.Fields(c.ask("state"))[1], "status=running")
	c.must(os.WriteFile(c.dir+"/go", nil, 0o644))
	c.until("the old supervisor has ended", func() bool { return !running(old) })
	c.expect("the new one, without the old", strings.Fields(c.ask("state"))[1], "status=running")
	c.expect("stop", c.ask("stop grace=20s"), "ended code=5")
	c.expect("exit file", c.exitFile(), "5")
}

// Supervisor and container have died together, and the container is made anew at
// once: what the old one had promised is done first, by whoever succeeds it, and
// nobody touches what is the new one's.
func TestMadeAnewAfterBothHaveDied(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	for range 5 {
		c := ours.container(t, obedient)
		c.must(os.WriteFile(c.dir+"/exit-command", []byte("#!/bin/sh\ncat "+c.exits+"/"+c.id+" >>"+c.dir+"/ends\n"), 0o755))
		c.started("--exit-command", c.dir+"/exit-command")
		c.says("stdout F up")
		init := c.pid()
		c.must(syscall.Kill(c.monitor, syscall.SIGKILL))
		c.must(syscall.Kill(init, syscall.SIGKILL))
		c.until("both are dead", func() bool { return !running(c.monitor) && !running(init) })
		c.call("delete", "--force", c.id)
		c.monitor = 0
		c.started("--exit-command", c.dir+"/exit-command")
		c.until("it is up again", func() bool {
			text, _ := os.ReadFile(c.log)
			return strings.Count(string(text), "stdout F up\n") == 2
		})
		c.expect("the old one's exit file", c.exitFile(), "137")
		c.expect("the new one", strings.Fields(c.ask("state"))[1], "status=running")
		c.until("the old one's exit command was run", func() bool { return exists(c.dir + "/ends") })
		c.must(os.Remove(c.exits + "/" + c.id))
		c.expect("the new one", strings.Fields(c.ask("state"))[1], "status=running")
		c.expect("stop", c.ask("stop grace=20s"), "ended code=5")
		c.expect("exit file", c.exitFile(), "5")
		c.gone()
		text, err := os.ReadFile(c.dir + "/ends")
		c.must(err)
		c.expect("what the exit commands saw", string(text), "1375")
		c.remove()
	}
}

// systemd stops the supervisor's scope while the exit command runs in it.
func TestExitCommandIsTerminated(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	for name, test := range map[string]struct {
		trap  string // what Podman's own command does, or one that knows nothing of signals
		both  bool   // the supervisor gets the signal too
		times int
	}{
		"by status":        {"trap 'exit 1' TERM", true, 2},
		"by signal":        {"", true, 2},
		"the command only": {"", false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := ours.container(t, obedient)
			script := "#!/bin/sh\n" + test.trap + "\necho $$ >>" + c.dir + "/runs\nuntil [ -e " + c.dir + "/go ]; do sleep 0.02; done\n"
			c.must(os.WriteFile(c.dir+"/exit-command", []byte(script), 0o755))
			runs := func() []string {
				text, _ := os.ReadFile(c.dir + "/runs")
				return strings.Fields(string(text))
			}
			c.started("--exit-command", c.dir+"/exit-command")
			c.says("stdout F up")
			c.expect("stop", c.ask("stop grace=20s"), "ended code=5")
			c.until("the exit command runs", func() bool { return len(runs()) == 1 })
			command, err := strconv.Atoi(runs()[0])
			c.must(err)
			if test.both {
				c.signalMonitor("TERM")
			}
			c.must(unix.Kill(command, unix.SIGTERM))
			if test.times == 2 {
				c.until("it runs again", func() bool { return len(runs()) == 2 })
			}
			c.must(os.WriteFile(c.dir+"/go", nil, 0o644))
			c.until("the supervisor has ended", func() bool { return !running(c.monitor) })
			c.expect("runs", fmt.Sprint(len(runs())), fmt.Sprint(test.times))
		})
	}
}

// Of two creates of one container one wins; the other leaves it alone.
func TestSecondCreate(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, obedient)
	c.up()
	second := *c
	second.number, second.monitor = 99, 0
	second.log = c.dir + "/log.99"
	code := second.start(append(second.common(), "-p", c.dir+"/pidfile.99", "-P", c.dir+"/conmon-pidfile.99")...)
	message, _, _ := strings.Cut(second.message(), ",")
	c.expect("the second", fmt.Sprint(code, " ", message), `0 {"pid": -1`)
	c.expect("the first", c.ask("stop grace=20s"), "ended code=5")
}
