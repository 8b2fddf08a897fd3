package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gracerun.io/supervisor/slumber"
)

// TestKeeper: where systemd runs, the keeper is in a scope of its own, which does
// not end with that of the supervisor who has started it, nor is it stopped at
// shutdown before the containers are.
func TestKeeper(t *testing.T) {
	i := testImage(t)
	gracemon := filepath.Join(t.TempDir(), "gracemon")
	cmd := exec.Command("go", "build", "-tags", slumber.Tag, "-ldflags", slumber.LinkerFlags, "-o", gracemon, "gracerun.io/cmd/gracemon")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build gracemon: %v\n%s", err, out)
	}
	script, err := os.ReadFile("keeper")
	if err != nil {
		t.Fatal(err)
	}
	got, err := i.Run(t.Context(), Job{Script: string(script), Files: map[string]File{
		"gracelab/bin/gracerun": {From: buildGracerun(t), Mode: 0o755},
		"gracelab/bin/gracemon": {From: gracemon, Mode: 0o755},
	}})
	if err != nil {
		t.Fatal(err)
	}
	said := lines{}
	for line := range strings.Lines(got.Output) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			said[name] = value
		}
	}
	said.contain(t, "monitor in", "monitor-a.scope")
	said.contain(t, "keeper in", "/run-", ".scope")
	said.want(t, "keeper has", "no")
	said.want(t, "number 1", "the same")
	said.want(t, "number 2", "the same")
	said.want(t, "keeper lives", "yes")
	said.want(t, "stop", "code=7")
	said.want(t, "exit file", "7")
	said.want(t, "exit command", "run")
	said.want(t, "lines", "whole")
	if t.Failed() || testing.Verbose() {
		t.Log(got.Took, "\n"+got.Output)
	}
}
