package control

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gracerun.io/signals/process"
	"gracerun.io/supervisor/lifecycle"
)

func TestCallerOf(t *testing.T) {
	self := CallerOf(os.Getpid())
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		t.Fatal(err)
	}
	want := lifecycle.NewCaller(program, os.Getpid(), 1, uint32(os.Geteuid()), self.Unit)
	if self.Start == 0 || self.Program != want.Program || self.Pid != want.Pid || self.UID != want.UID {
		t.Errorf("got %+v, want %+v with a start", self, want)
	}
	if id, err := process.Identify(os.Getpid()); err != nil || id.StartTime != self.Start {
		t.Errorf("was started at %d, want %d (%v)", self.Start, id.StartTime, err)
	}
	var p Parser
	if first := p.CallerOf(os.Getpid()); first != p.CallerOf(os.Getpid()) || *first != *self {
		t.Errorf("the last caller, who asks again, is another: %+v", first)
	}
	if n := testing.AllocsPerRun(100, func() { p.CallerOf(os.Getpid()) }); n > 0 && !raceDetector {
		t.Errorf("to know a caller again takes %v allocations", n)
	}
	if !self.Is(CallerOf(os.Getpid())) {
		t.Error("a process is not itself")
	}
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	other := CallerOf(cmd.Process.Pid)
	if other.Is(self) || !strings.HasSuffix(other.Program, "sleep") && !strings.HasSuffix(other.Program, "coreutils") && !strings.HasSuffix(other.Program, ".test") {
		t.Errorf("a child that executes sleep is %+v", other)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for _, pid := range []int{0, -1, cmd.Process.Pid} {
		if c := CallerOf(pid); c != nil {
			t.Errorf("process %d, which there is not, is %+v", pid, c)
		}
	}
}

func TestUnitOf(t *testing.T) {
	for cgroups, want := range map[string]string{
		"":                                "",
		"0::/\n":                          "",
		"0::/system.slice/crio.service\n": "crio.service",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/p.service\n": "p.service",
		"0::/user.slice/user-0.slice/session-3.scope\n":                          "session-3.scope",
		"0::/system.slice/crio.service/supervisor\n":                             "crio.service",
		"4:memory:/x.service\n1:name=systemd:/system.slice/c.service\n0::/\n":    "c.service",
		"4:memory:/x.service\n0::/kubepods.slice\n":                              "",
	} {
		if got := unitOf(cgroups); got != want {
			t.Errorf("%q: got %q, want %q", cgroups, got, want)
		}
	}
}
