package races

import (
	"os"
	"strings"
	"testing"
)

// TestAllAreSound: every scenario can be read, and is of a race that
// docs/races.md tells of.
func TestAllAreSound(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 25 {
		t.Errorf("only %d scenarios", len(all))
	}
	text, err := os.ReadFile("../../docs/races.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if names, ok := strings.CutPrefix(line, "### "); ok {
			for _, name := range strings.Split(strings.TrimSpace(names), ", ") {
				headings[name] = true
			}
		}
	}
	for _, s := range all {
		if !headings[s.Race] {
			t.Errorf("%s: races.md has no section %q", s.ID, s.Race)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const good = "race: r\ntitle: t\nworkload: idle\ngrace: 1s\nsteps: [create]\nharm: [data-lost]\n"
	if _, err := Parse("good", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for change, want := range map[string]string{
		"steps: [create]->steps: [create, dance]":                        "line 5: unknown step \"dance\"",
		"steps: [create]->steps: [{await: [ready]}]":                     "line 5: a step is one word",
		"harm: [data-lost]->harm: [data-found]":                          `unknown harm "data-found"`,
		"workload: idle->workload: busy":                                 "no workloads/busy.sh",
		"grace: 1s->grace: 0s":                                           "grace is missing",
		"grace: 1s->grace: soon":                                         "line 4",
		"race: r->rase: r":                                               "line 1",
		"title: t->title: ''":                                            "race and title are needed",
		"grace: 1s->grace: 1s\nruntime-trouble: {do: fail}":              "command is missing",
		"grace: 1s->grace: 1s\ncall-trouble: {command: kill, do: laugh}": `unknown trouble "laugh"`,
		"grace: 1s->grace: 1s\ncall-trouble: {command: kill, do: delay}": "for is missing",
		"grace: 1s->grace: 1s\nours: {stop: podman}":                     `unknown owner "podman"`,
		"grace: 1s->grace: 1s\nruntime-trouble: {command: x, do: failing-syscall, syscalls: kill}": "errno is missing",
	} {
		from, to, _ := strings.Cut(change, "->")
		if _, err := Parse("bad", []byte(strings.Replace(good, from, to, 1))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want an error with %q", to, err, want)
		}
	}
}

func TestOutcome(t *testing.T) {
	harm, none, skipped := &Verdict{Harmed: 1, Shown: &Facts{}}, &Verdict{}, &Verdict{Skipped: "why"}
	for _, c := range []struct {
		stock, ours *Verdict
		want        string
	}{
		{harm, none, "held off"},
		{harm, harm, "NOT HELD OFF"},
		{harm, skipped, "reproduced"},
		{none, none, "not reproduced"}, // never a pass
		{none, harm, "OURS ALONE"},
		{skipped, none, "skipped"},
	} {
		s := &Staged{Scenario: &Scenario{}, Stock: c.stock, Ours: c.ours}
		if got := s.Outcome(); got != c.want {
			t.Errorf("stock %v, ours %v: %q, want %q", c.stock.Harmful(), c.ours.Harmful(), got, c.want)
		}
	}
	warned := &Staged{Scenario: &Scenario{}, Stock: harm, Ours: &Verdict{Harmed: 1, Shown: &Facts{Warned: true}}}
	warned.Scenario.Ours.Cannot = "nobody can"
	if got := warned.Outcome(); got != "warned of" {
		t.Errorf("warned of: %q", got)
	}
}
