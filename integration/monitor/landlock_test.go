package monitor

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A program that Landlock lets write to no file opens its stdout and stderr anew,
// in a container and in an exec, as under conmon: pipes are no files of a directory.
func TestLandlock(t *testing.T) {
	program := programs + "/landlocked"
	build := exec.Command("go", "build", "-o", program, "./landlocked")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, runtime := range []string{"runc", "crun"} {
		ours, theirs := stacks(runtime)
		for _, s := range []*stack{ours, theirs} {
			t.Run(s.name, func(t *testing.T) {
				s.need(t)
				run := "exec /data/landlocked /dev/stdout /dev/stderr"
				c := s.container(t, "while ! [ -e /data/go ]; do sleep 0.02; done; "+run)
				c.must(os.WriteFile(c.dir+"/landlocked", text, 0o755))
				c.started()
				e, code := c.exec(run, "--sync")
				said := e.lines()
				slices.Sort(said)
				if code == 77 {
					t.Skip("this kernel has no Landlock: ", said)
				}
				got := fmt.Sprintf("exec: %d, %s\n", code, strings.Join(said, ", "))
				c.must(os.WriteFile(c.dir+"/go", nil, 0o644))
				got += c.ended()
				want := "exec: 0, stderr F opened anew: /dev/stderr, stdout F opened anew: /dev/stdout\n" +
					"exit 0, persisted 0\nstderr F opened anew: /dev/stderr\nstdout F opened anew: /dev/stdout"
				if got != want {
					t.Errorf("got:\n%s\nwant:\n%s", got, want)
				}
			})
		}
	}
}
