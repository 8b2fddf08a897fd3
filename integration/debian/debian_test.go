package debian

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The programs of another release run, though its libc is another, each says the
// version that this release is known to have, and the second call finds them there.
func TestTrixie(t *testing.T) {
	base := t.TempDir()
	r, err := Get(t.Context(), base, "trixie", "crun")
	if errors.Is(err, ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), r.Program("crun"), "--version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "crun version 1.21\n") {
		t.Errorf("%s, %v", out, err)
	}
	if path := r.Program("conmon"); path != "" {
		t.Errorf("there is %s, which nobody has asked for", path)
	}
	if err := os.Rename(filepath.Join(base, "trixie", "usr/bin/crun"), filepath.Join(base, "trixie", "usr/bin/other")); err != nil {
		t.Fatal(err)
	}
	if again, err := Get(t.Context(), base, "trixie", "crun"); err != nil || again.Program("crun") != "" {
		t.Errorf("it was unpacked again: %v", err)
	}
	if left, _ := os.ReadDir(base); len(left) != 1 {
		t.Errorf("%v is left in %s", left, base)
	}
}

func TestWhatIsNone(t *testing.T) {
	base := t.TempDir()
	for _, name := range []string{"", "../sid", "Trixie", "sid;true"} {
		if _, err := Get(t.Context(), base, name, "crun"); err == nil || errors.Is(err, ErrMissing) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
