package races

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gracerun.io/internal/testbed"
	"gracerun.io/signals"
)

// TestTrace watches a stock container from outside, reads the journal of one of
// ours, and has both in one picture.
func TestTrace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make these containers, and record signals")
	}
	bin, dir := t.TempDir(), t.TempDir()
	for _, why := range testbed.Build(bin, "gracelab", "gracemon", "gracerun") {
		t.Fatal(why)
	}
	stock, ours := testbed.Stock("runc"), testbed.Ours(bin, "runc")
	if stock.Missing != "" {
		t.Skip(stock.Missing)
	}
	const workload = "trap 'say bye; exit 3' TERM\nsay ready\nwhile :; do sleep 3600 & wait $!; done\n"
	ctx, cancel := context.WithTimeout(t.Context(), testbed.Patience)
	defer cancel()
	run := func(s *testbed.Stack) *testbed.Container {
		c, err := s.New(dir, testbed.Options{Workload: workload, Grace: testbed.Patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Remove(); err != nil {
				t.Error(err)
			}
		})
		if err := c.Create(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.Await(ctx, "ready"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	gracelab := func(args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, filepath.Join(bin, "gracelab"), args...)
	}

	c := run(stock)
	recording := filepath.Join(dir, "recording.json")
	cmd := gracelab("trace", "--record", c.ID, "--save", recording)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := new(strings.Builder)
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil || !strings.Contains(line, "Watching container") {
		t.Fatalf("gracelab says %q, %v", line, err)
	}
	if _, err := c.Call(ctx, "a test", "kill", c.ID, "TERM"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"SIGTERM from runc", "takes SIGTERM", "it ended with exit code 3"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the recording does not say %q:\n%s", want, out)
		}
	}

	o := run(ours)
	if err := o.Signal("systemd", "monitor", signals.TERM); err != nil {
		t.Fatal(err)
	}
	if err := o.AwaitExitFile(ctx); err != nil {
		t.Fatal(err)
	}
	page, perfetto := filepath.Join(dir, "both.html"), filepath.Join(dir, "both.json")
	both, err := gracelab("trace", recording, o.StateDir(), "--html", page, "--chrome", perfetto).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, both)
	}
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"SIGTERM from runc", "joins the stop, or begins one", "init exited, code=3", "deadline"} {
		if !strings.Contains(string(html), want) {
			t.Errorf("the page does not say %q; the text is\n%s", want, both)
		}
	}
	var trace struct{ TraceEvents []struct{ PID int } }
	text, err := os.ReadFile(perfetto)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &trace); err != nil {
		t.Fatal(err)
	}
	stories := map[int]int{}
	for _, ev := range trace.TraceEvents {
		stories[ev.PID]++
	}
	if len(stories) != 2 || stories[1] < 8 || stories[2] < 8 {
		t.Errorf("events for Perfetto, by story: %v", stories)
	}
	for _, args := range [][]string{{"trace"}, {"trace", "no-such-container"}, {"trace", page}, {"trace", "--save", "x", recording}} {
		if out, err := gracelab(args...).CombinedOutput(); err == nil || !strings.HasPrefix(string(out), "gracelab: ") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%q: %v, want one line of error:\n%s", args, err, out)
		}
	}
}
