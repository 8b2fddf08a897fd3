package bench

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestHarness runs a part of everything, and checks that what is there was
// measured. What the figures are is not for a test.
func TestHarness(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root here")
	}
	dir := t.TempDir()
	build(t, dir, "workload", "./workload")
	build(t, dir, "gracebench", "../cmd/gracebench")
	for _, name := range []string{"gracerun", "gracemon"} {
		if _, err := os.Stat("../cmd/" + name); err == nil {
			build(t, dir, name, "../cmd/"+name)
		}
	}
	// The native backend needs cgo and libseccomp: as make build made it, if so.
	if native, err := filepath.Abs("../bin/gracerun-native"); err == nil {
		os.Symlink(native, filepath.Join(dir, "gracerun-native"))
	}
	results, document := filepath.Join(dir, "results"), filepath.Join(dir, "performance.md")
	cmd := exec.Command(filepath.Join(dir, "gracebench"), "-quick", "-bin", dir, "-newer", "../.work/trixie", "-crio", dir, "-disk", dir,
		"-results", results, "-document", document)
	var progress bytes.Buffer
	cmd.Stderr = &progress
	table, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	text, err := os.ReadFile(filepath.Join(results, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	var report Report
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	for _, note := range report.Notes {
		t.Error(note)
	}
	found := map[string]Program{}
	for _, p := range report.Programs {
		found[strings.Fields(p.Name)[0]] = p
	}
	monitored := []string{monitorSection, memorySection, logSection, attachSection}
	wanted := map[string][]string{
		"crun": {commandSection, signalSection}, "runc": {commandSection, signalSection},
		"conmon": monitored, "gracemon": monitored,
	}
	for name, sections := range wanted {
		p := found[name]
		if p.Missing != "" {
			t.Logf("%s is not compared: %s", name, p.Missing)
			continue
		}
		for _, section := range sections {
			if !slices.ContainsFunc(report.Rows, func(r *Row) bool { return r.Section == section && r.Subject == p.Name && r.Median > 0 }) {
				t.Errorf("no row of %s in %q", p.Name, section)
			}
		}
	}
	markdown, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range report.Rows {
		for name, text := range map[string]string{"the table": string(table), "the document": string(markdown)} {
			if !strings.Contains(text, row.Work) || !strings.Contains(text, row.Subject) {
				t.Errorf("%s does not show %q of %q", name, row.Work, row.Subject)
			}
		}
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/gracebench-*"); len(left) > 0 {
		t.Logf("cgroups are left, maybe of another run: %v", left)
	}
}

func build(t *testing.T, dir, name, source string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, name), source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
}

func TestSpread(t *testing.T) {
	tests := []struct {
		samples []float64
		want    Spread
	}{
		{[]float64{3}, Spread{3, 3, 3, 1}},
		{[]float64{2, 1}, Spread{1.5, 1.1, 1.9, 2}},
		{[]float64{11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, Spread{6, 2, 10, 11}},
	}
	for _, tt := range tests {
		if got := spread(tt.samples); got.String() != tt.want.String() || got.N != tt.want.N {
			t.Errorf("spread(%v) = %+v, want %+v", tt.samples, got, tt.want)
		}
	}
}

func TestLimits(t *testing.T) {
	tests := []struct {
		limit        limit
		ours, theirs float64
		met          bool
	}{
		{limit{times: 0.6}, 6, 10, true},
		{limit{times: 0.6}, 6.1, 10, false},
		{limit{plus: 2}, 12, 10, true},
		{limit{plus: 2}, 12.1, 10, false},
		{limit{times: 6, atLeast: true}, 600, 100, true},
		{limit{times: 6, atLeast: true}, 599, 100, false},
	}
	for _, tt := range tests {
		if _, met := tt.limit.judge(tt.ours, tt.theirs); met != tt.met {
			t.Errorf("%v of %v to %v: met is %v", tt.limit, tt.ours, tt.theirs, met)
		}
	}
}

// TestVerify: a log that lacks a byte, or has a line twice, is found.
func TestVerify(t *testing.T) {
	d := load{bytes: 200, line: 100, atOnce: 100}
	stamp := "2026-11-24T09:00:00.000000000+00:00 stdout "
	line := stamp + "F " + strings.Repeat("a", 99) + "\n"
	parts := stamp + "P " + strings.Repeat("a", 60) + "\n" + stamp + "F " + strings.Repeat("a", 39) + "\n"
	last := stamp + "F " + lastLine
	for text, good := range map[string]bool{
		line + line + last:        true,
		line + parts + last:       true,
		line + last:               false,
		line + line + line + last: false,
		line + line[:len(stamp)+2] + line[len(stamp)+3:] + last: false,
		line + "garbage\n" + line + last:                        false,
	} {
		file := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := verify(file, d); (err == nil) != good {
			t.Errorf("verify: %v, of %q", err, text)
		}
	}
}
