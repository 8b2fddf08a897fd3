package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestShutdown8609 powers three nodes off: where crun 1.8.1 made the container it
// must come to harm, or the test would say nothing about the others.
func TestShutdown8609(t *testing.T) {
	i := testImage(t)
	for _, stack := range Stacks8609(buildGracerun(t)) {
		t.Run(stack.Name, func(t *testing.T) {
			s, err := i.Reproduce8609(t.Context(), stack)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: scope %v; TERM %v after power-off from %s (%d in all), KILL %v, saved %d of %d; harm: %s; the host ran %v",
				s.Version, s.Properties, s.Term-s.PowerOff, s.TermFrom, s.Terms, s.Kill, s.Flushed, s.Steps, s.Harm(), s.Transcript.Took.Round(time.Second))
			if stack.Name == "crun 1.8.1" {
				if s.Harm() == "" || s.Properties["DefaultDependencies"] != "no" {
					t.Error("not reproduced")
				}
				if s.TermFrom != "systemd-shutdow" || s.KillFrom != "systemd-shutdow" {
					t.Errorf("TERM from %s, KILL from %s, want both from systemd-shutdown's killing spree", s.TermFrom, s.KillFrom)
				}
				return
			}
			if s.Harm() != "" {
				t.Error(s.Harm())
			}
			if s.TermFrom != "systemd" || s.Properties["DefaultDependencies"] != "yes" || s.Properties["TimeoutStopUSec"] != "15s" {
				t.Errorf("TERM from %s, scope %v: not stopped as the annotations ask", s.TermFrom, s.Properties)
			}
		})
	}
}

func buildGracerun(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "gracerun")
	cmd := exec.Command("go", "build", "-o", program, "gracerun.io/cmd/gracerun")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build gracerun: %v\n%s", err, out)
	}
	return program
}
