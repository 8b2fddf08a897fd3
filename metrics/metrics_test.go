package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs/spool"
	"gracerun.io/supervisor/recovery"
)

const second = lifecycle.Instant(lifecycle.Second)

// deleted makes a container that was stopped after 10 s with a grace of 10 s, ended
// that long after, and is gone. early is a SIGKILL 1 s after the stop signal.
func deleted(t *testing.T, id string, took lifecycle.Instant, early bool) {
	t.Helper()
	dir, err := statedir.Create("", id)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	config := lifecycle.DefaultConfig()
	config.Grace, config.Policy = 10*lifecycle.Second, lifecycle.Observe
	w, err := journal.Create(dir.FD(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	machine := lifecycle.New(config)
	tell := func(at lifecycle.Instant, ev lifecycle.Event) {
		t.Helper()
		if _, err := w.Step(machine, at, ev); err != nil {
			t.Fatal(err)
		}
	}
	tell(0, lifecycle.Event{Kind: lifecycle.CreateDone})
	tell(0, lifecycle.Event{Kind: lifecycle.StartDone})
	tell(10*second, lifecycle.Event{Kind: lifecycle.SignalRequest, Request: 10, Signal: signals.TERM})
	tell(10*second, lifecycle.Event{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM})
	status := lifecycle.Exited(0)
	if early {
		tell(11*second, lifecycle.Event{Kind: lifecycle.SignalRequest, Request: 11, Signal: signals.KILL})
		tell(11*second, lifecycle.Event{Kind: lifecycle.Delivered, Request: 11, Signal: signals.KILL})
		status = lifecycle.Signaled(signals.KILL)
	}
	tell(10*second+took, lifecycle.Event{Kind: lifecycle.InitExited, Status: status})
	tell(10*second+took, lifecycle.Event{Kind: lifecycle.CgroupEmpty})
	tell(10*second+took, lifecycle.Event{Kind: lifecycle.StreamsDrained})
	record := &statedir.Record{ID: id, Bundle: "/b", Runtime: "/usr/bin/runc", StopSignal: signals.TERM, Policy: "observe"}
	if err := dir.WriteRecord(record); err != nil {
		t.Fatal(err)
	}
	logged(t, dir, 1000, 10)
	warning, err := history.Retire(dir, history.Limits{Containers: 100, Bytes: 1 << 20})
	if errors.Join(warning, err) != nil {
		t.Fatal(warning, err)
	}
}

// logged gives a container a log with so many bytes, and so many missing.
func logged(t *testing.T, dir *statedir.Dir, written, lost int64) {
	t.Helper()
	c, err := spool.OpenCursor(dir.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetTotal(0, written)
	c.Lose(0, 0, lost)
}

func text(t *testing.T, c *Collector, openMetrics bool) string {
	t.Helper()
	families, err := c.Collect()
	if err != nil {
		t.Fatal(err)
	}
	format := Text
	if openMetrics {
		format = OpenMetrics
	}
	var out bytes.Buffer
	if err := Write(&out, format, families); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func has(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("%q is not in\n%s", line, text)
		}
	}
}

func TestCounters(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	t.Setenv("GRACERUN_STATE_DIR", base)
	c := New(base)
	has(t, text(t, c, false), "gracerun_containers_counted_total 0", "gracerun_stop_grace_used_ratio_count 0")
	deleted(t, "a", 3*second, false)
	deleted(t, "b", second, true)
	want := []string{
		`gracerun_stops_total{outcome="in-grace",policy="observe"} 1`,
		`gracerun_stops_total{outcome="by-request",policy="observe"} 1`,
		`gracerun_breaches_total{breach="early-kill",caller="unknown",policy="observe"} 1`,
		`gracerun_stop_grace_used_ratio_bucket{le="0.1"} 1`,
		`gracerun_stop_grace_used_ratio_bucket{le="0.5"} 2`,
		`gracerun_stop_grace_used_ratio_bucket{le="+Inf"} 2`,
		`gracerun_stop_grace_used_ratio_sum 0.4`,
		`gracerun_containers_counted_total 2`,
		`gracerun_supervisor_restarts_total 0`,
		`gracerun_log_bytes_total 2000`,
		`gracerun_log_lost_bytes_total 20`,
	}
	has(t, text(t, c, false), want...)
	has(t, text(t, c, false), want...) // nobody is counted twice

	// One that goes on from the text, as with a file, has the same.
	next := New(base)
	if err := next.Resume(strings.NewReader(text(t, c, false))); err != nil {
		t.Fatal(err)
	}
	has(t, text(t, next, false), want...)
	deleted(t, "c", 12*second, false)
	has(t, text(t, next, false), `gracerun_stop_grace_used_ratio_bucket{le="1"} 2`, `gracerun_stop_grace_used_ratio_count 3`, `gracerun_containers_counted_total 3`,
		`gracerun_log_bytes_total 3000`, `gracerun_log_lost_bytes_total 30`)
}

// The reference names every metric, with its type.
func TestReference(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	t.Setenv("GRACERUN_STATE_DIR", base)
	deleted(t, "a", second, true)
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	families, err := New(base).Collect()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		found := false
		for line := range strings.Lines(string(page)) {
			found = found || strings.HasPrefix(line, "| ") && strings.Contains(line, "`"+f.GetName()+"`") && strings.Contains(line, "| "+strings.ToLower(f.GetType().String())+" |")
		}
		if !found {
			t.Errorf("docs/metrics.md has no row for %s, a %s", f.GetName(), f.GetType())
		}
	}
}

// The log's totals are kept under the name that the logs give them.
func TestTotalsAreKept(t *testing.T) {
	if history.CursorFile != spool.CursorName {
		t.Errorf("history keeps %q, the totals are in %q", history.CursorFile, spool.CursorName)
	}
}

// The policy is that of the journal: the record has enforce where it is delegate, for
// versions that do not know that.
func TestPolicyOfTheJournal(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	t.Setenv("GRACERUN_STATE_DIR", base)
	dir, err := statedir.Create("", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	config := lifecycle.DefaultConfig()
	config.Policy = lifecycle.Delegate
	w, err := journal.Create(dir.FD(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Step(lifecycle.New(config), second, lifecycle.Event{Kind: lifecycle.CreateDone}); err != nil {
		t.Fatal(err)
	}
	r := &statedir.Record{ID: "a", Bundle: "/b", Runtime: "/usr/bin/runc", StopSignal: signals.TERM, Policy: lifecycle.Delegate.Known().String()}
	if err := dir.WriteRecord(r); err != nil {
		t.Fatal(err)
	}
	has(t, text(t, New(base), false), `gracerun_containers{policy="delegate"} 1`)
}

// A container whose init is deaf: this test's process ignores a signal.
func TestDeaf(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	t.Setenv("GRACERUN_STATE_DIR", base)
	dir, err := statedir.Create("", "deaf")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	signal.Ignore(unix.SIGUSR2)
	defer signal.Reset(unix.SIGUSR2)
	self, err := process.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	r := &statedir.Record{ID: "deaf", Bundle: "/b", Runtime: "/usr/bin/runc", Init: self.String(), StopSignal: signals.USR2, Policy: "delegate"}
	if err := dir.WriteRecord(r); err != nil {
		t.Fatal(err)
	}
	has(t, text(t, New(base), false), "gracerun_containers_deaf 1")
	r.StopSignal = signals.TERM
	if err := dir.WriteRecord(r); err != nil {
		t.Fatal(err)
	}
	has(t, text(t, New(base), false), "gracerun_containers_deaf 0")
}

func TestResumeRefuses(t *testing.T) {
	for _, text := range []string{"", "up 1\n", "{", "gracerun_stops_total{"} {
		if err := New("/nowhere").Resume(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestContainersThatAreThere(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	t.Setenv("GRACERUN_STATE_DIR", base)
	for i, policy := range []string{"observe", "enforce", "enforce"} {
		dir, err := statedir.Create("", fmt.Sprint("c", i))
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		r := &statedir.Record{ID: fmt.Sprint("c", i), Bundle: "/b", Runtime: "/usr/bin/runc", StopSignal: signals.TERM, Policy: policy}
		if err := dir.WriteRecord(r); err != nil {
			t.Fatal(err)
		}
		if i > 0 { // one has no log, and no notes
			logged(t, dir, 500, int64(i))
			notes, err := recovery.CreateNotes(dir.FD())
			if err != nil {
				t.Fatal(err)
			}
			defer notes.Close()
			notes.NextGeneration()
		}
	}
	has(t, text(t, New(base), false), `gracerun_containers{policy="enforce"} 2`, `gracerun_containers{policy="observe"} 1`, `gracerun_containers_deaf 0`,
		`gracerun_containers_log_bytes 1000`, `gracerun_containers_log_lost_bytes 3`, `gracerun_containers_supervisor_restarts 2`, `gracerun_log_bytes_total 0`)
}

// promtool finds nothing to complain of. It reads the text format only.
func TestPromtool(t *testing.T) {
	promtool, err := filepath.Abs("../.work/promtool")
	if err == nil {
		promtool, err = exec.LookPath(promtool)
	}
	if err != nil {
		t.Skipf("promtool is not there (make deps): %v", err)
	}
	base := filepath.Join(t.TempDir(), "base")
	t.Setenv("GRACERUN_STATE_DIR", base)
	deleted(t, "a", 3*second, false)
	deleted(t, "b", second, true)
	in := text(t, New(base), false)
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s\n%s", err, out, in)
	}
}

// OpenMetrics 1.0.0 wants counters named without their suffix in comments, and an
// end.
func TestOpenMetrics(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	t.Setenv("GRACERUN_STATE_DIR", base)
	deleted(t, "a", 3*second, false)
	in := text(t, New(base), true)
	has(t, in, "# TYPE gracerun_stops counter", `gracerun_stops_total{outcome="in-grace",policy="observe"} 1.0`, "# TYPE gracerun_stop_grace_used_ratio histogram")
	if !strings.HasSuffix(in, "\n# EOF\n") {
		t.Errorf("it does not end with # EOF:\n%s", in)
	}
}
