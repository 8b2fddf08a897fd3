//go:build linux && (amd64 || arm64)

package slumber

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// Where the Go runtime has no room to begin, the program says so instead of it; where
// it has, the program begins.
func TestAddressSpaceIsLimited(t *testing.T) {
	program := helper(t, "helper", "-tags", Tag, "-ldflags", LinkerFlags)
	for kib, want := range map[string]int{"100000": 1, "704511": 1, "1048576": 7} {
		cmd := exec.Command("/bin/sh", "-c", "ulimit -v "+kib+"; exec "+program+" awake")
		cmd.Env = []string{"STAGE=awake"}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		_ = cmd.Run()
		said := stderr.String()
		if code := cmd.ProcessState.ExitCode(); code != want || (code == 1) != (said != "") {
			t.Errorf("with %s KiB it says %q and ends with %v", kib, said, cmd.ProcessState)
		}
		if said != "" && (!strings.HasPrefix(said, "[conmon:e]: The address space is limited (ulimit -v") || strings.Count(said, "\n") != 1) {
			t.Errorf("with %s KiB it says %q", kib, said)
		}
	}
	// Without the entry the Go runtime has no room there either.
	cmd := exec.Command("/bin/sh", "-c", "ulimit -v 600000; exec "+helper(t, "plain"))
	if said, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("with 600000 KiB the Go runtime begins: %q, %v: leastSpace is too large for it", said, cmd.ProcessState)
	}
}
