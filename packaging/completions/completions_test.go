package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gracerun.io/shim/usage"
)

func TestEveryOptionIsCompleted(t *testing.T) {
	for name, text := range scripts() {
		options := monitorOptions()
		if strings.Contains(name, "gracerun") {
			options = append([]usage.Option(nil), usage.Globals...)
			for _, c := range usage.Commands {
				options = append(options, c.Options...)
				if !strings.Contains(text, c.Name) {
					t.Errorf("%s lacks command %s", name, c.Name)
				}
			}
		}
		for _, o := range options {
			want := "--" + o.Name
			if strings.HasSuffix(name, ".fish") {
				want = " -l " + o.Name
			}
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %s", name, want)
			}
		}
	}
}

// Each shell that is installed reads its scripts without an error.
func TestShellsReadTheScripts(t *testing.T) {
	dir := t.TempDir()
	for name, text := range scripts() {
		path := filepath.Join(dir, filepath.Base(name)+"."+filepath.Dir(name))
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		shell := filepath.Dir(name)
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("%s is not read: there is no %s here", name, shell)
			continue
		}
		if out, err := exec.Command(shell, "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestBashCompletes(t *testing.T) {
	state := t.TempDir()
	if err := os.MkdirAll(filepath.Join(state, "default", "web-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"gracerun st":                  "start state stop",
		"gracerun --root /r ki":        "kill",
		"gracerun --log-format j":      "json",
		"gracerun kill --fo":           "--force",
		"gracerun kill we":             "web-1",
		"gracerun kill web-1 SIGTE":    "SIGTERM",
		"gracerun stop --signal SIGUS": "SIGUSR1 SIGUSR2",
		"gracemon --exit-d":            "--exit-delay --exit-dir",
	} {
		program := strings.Fields(line)[0]
		script := scripts()["bash/"+program] + `
COMP_WORDS=($LINE); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _` + program + `; echo "${COMPREPLY[*]}"`
		cmd := exec.Command("bash", "-c", script)
		cmd.Env = append(os.Environ(), "LINE="+line, "GRACERUN_STATE_DIR="+state)
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%q completes to %q (%v), want %q", line, got, err, want)
		}
	}
}
