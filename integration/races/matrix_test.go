package races

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gracerun.io/internal/testbed"
)

// TestMatrix stages a race on the conmon that is installed and on a newer one, over a
// newer crun, which is named by its path: both have it, and ours has not.
func TestMatrix(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can stage races")
	}
	newer, err := filepath.Abs("../../.work/trixie/usr/bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"conmon", newer + "/conmon", newer + "/crun"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	bin, out := t.TempDir(), t.TempDir()
	for _, why := range testbed.Build(bin, "gracelab", "gracemon", "gracerun") {
		t.Fatal(why)
	}
	installed, err := exec.LookPath("conmon")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin+"/gracelab", "matrix", "--conmon", installed, "--conmon", newer+"/conmon", "--crun", newer+"/crun",
		"--markdown", out+"/m.md", "--html", out+"/m.html", "--evidence", out+"/evidence", "second-term")
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	text, err := os.ReadFile(out + "/m.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| systemd stops the monitor while CRI-O stops the container | **HARM** / ok | **HARM** / ok |", "crun 1.21", "conmon 2.1.12", "init got SIGTERM 2 times, from crun, conmon"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	pages, _ := filepath.Glob(out + "/evidence/*/second-term-crun.html")
	if page, err := os.ReadFile(out + "/m.html"); err != nil || !strings.Contains(string(page), "HARM / ok") || len(pages) != 2 {
		t.Errorf("the page: %v, evidence %v", err, pages)
	}
}
