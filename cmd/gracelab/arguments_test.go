package main

import (
	"strings"
	"testing"
)

// A runtime that nothing can be staged over is an error, not a success without
// a word.
func TestRuntimeThatIsNone(t *testing.T) {
	for _, command := range [][]string{{"reproduce", "--runtime", "foo"}, {"reproduce", "--list", "--runtime", "foo"}, {"drain", "--runtime", "foo", "-n", "1"}} {
		cmd := reproduceCommand()
		if command[0] == "drain" {
			cmd = drainCommand()
		}
		if err := cmd.Run(t.Context(), command); err == nil || !strings.Contains(err.Error(), "--runtime foo") {
			t.Errorf("%q: %v, want an error that names the runtime", command, err)
		}
	}
}
