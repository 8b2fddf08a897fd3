package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The manual page names every command and option, and no other.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/man/gracelab.1.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	known := map[string]bool{"help": true, "version": true}
	for _, command := range application().Commands {
		entry := regexp.MustCompile(`(?m)^\*\*` + command.Name + `\*\*.*\n:   `).FindString(page)
		if entry == "" {
			t.Errorf("command %s has no entry", command.Name)
		}
		for _, flag := range command.Flags {
			name := flag.Names()[0]
			known[name] = true
			if !strings.Contains(entry, "**"+dashes(name)+"**") {
				t.Errorf("%s of %s is not in %q", dashes(name), command.Name, entry)
			}
		}
	}
	for _, m := range regexp.MustCompile(`\*\*--([a-z-]+)\*\*`).FindAllStringSubmatch(page, -1) {
		if !known[m[1]] {
			t.Errorf("no command has an option --%s", m[1])
		}
	}
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
