package lifecycle_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestPurity: the machine can reach no clock, no file and no process: it
// imports nothing that could, itself or through others.
func TestPurity(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}} {{join .Imports \" \"}}{{end}}", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	allowed := map[string]bool{"errors": true, "strconv": true, "strings": true}
	ours := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		words := strings.Fields(line)
		ours++
		for _, imported := range words[1:] {
			if !allowed[imported] && !strings.HasPrefix(imported, "gracerun.io/") {
				t.Errorf("%s imports %s", words[0], imported)
			}
		}
	}
	if ours < 2 {
		t.Errorf("go list named only %d packages:\n%s", ours, out)
	}
}
