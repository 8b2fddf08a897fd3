// Package docs holds no code: its test keeps the documents true.
package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"gracerun.io/check"
	"gracerun.io/internal/races"
	"gracerun.io/supervisor/lifecycle/explore"
)

// TestRacesNameWhatExists: every scenario and mutant that races.md names is
// there.
func TestRacesNameWhatExists(t *testing.T) {
	text := strings.Join(strings.Fields(read(t, "races.md")), " ")
	mutants := map[string]bool{}
	for _, mu := range explore.Mutants() {
		mutants[mu.Name] = true
	}
	shown := regexp.MustCompile(`\*Shown by\* ([^#]*?)(?:\*Reproduced by|#|$)`).FindAllStringSubmatch(text, -1)
	quoted := regexp.MustCompile("`([^`]+)`")
	names := 0
	for _, s := range shown {
		for _, name := range quoted.FindAllStringSubmatch(s[1], -1) {
			if _, err := os.Stat("../testdata/scenarios/" + name[1]); err != nil && !mutants[name[1]] && !strings.HasPrefix(name[1], "gracelab") {
				t.Errorf("races.md names %q, which is neither a scenario nor a mutant", name[1])
			}
			names++
		}
	}
	if names < 30 {
		t.Errorf("found only %d names in races.md", names)
	}
}

// TestScenesAreTold: every scene of testdata/races is named in races.md, in the
// section of its race.
func TestScenesAreTold(t *testing.T) {
	scenes, err := races.All()
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, section := range strings.Split(read(t, "races.md"), "\n### ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		for _, race := range strings.Split(heading, ", ") {
			sections[race] = text
		}
	}
	for _, s := range scenes {
		_, told, _ := strings.Cut(sections[s.Race], "*Reproduced by*")
		if !strings.Contains(told, "`"+s.ID+"`") {
			t.Errorf("section %s of races.md does not name the scene %s", s.Race, s.ID)
		}
	}
}

// TestRacesOfCheck: whoever meets a race in `gracelab check` can read about it.
func TestRacesOfCheck(t *testing.T) {
	text := read(t, "races.md")
	for _, race := range check.Races() {
		if !strings.Contains(text, "### "+race+"\n") {
			t.Errorf("races.md has no section %q", race)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
