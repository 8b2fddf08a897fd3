package native

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The manual page names every global option and every command, and no other.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/man/gracerun-native.8.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	known := map[string]bool{"help": true}
	var g globals
	flags := newFlagSet(program)
	g.declare(flags)
	flags.VisitAll(func(f *flag.Flag) {
		name := "--" + f.Name
		if len(f.Name) == 1 {
			name = name[1:]
		}
		known[strings.TrimLeft(name, "-")] = true
		if !regexp.MustCompile(`(?m)^\*\*.*` + name + `\*\*`).MatchString(page) {
			t.Errorf("%s has no entry", name)
		}
	})
	for _, m := range regexp.MustCompile(`\*\*--([a-z-]+)\*\*`).FindAllStringSubmatch(page, -1) {
		if !known[m[1]] {
			t.Errorf("there is no option --%s", m[1])
		}
	}
	_, section, _ := strings.Cut(page, "\n# COMMANDS\n")
	section, _, _ = strings.Cut(section, "\n# ")
	inPage := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(\*\*.*)\n:   `).FindAllStringSubmatch(section, -1) {
		for _, name := range strings.Split(m[1], ", ") {
			inPage[strings.Trim(name, "*")] = true
		}
	}
	for _, c := range commands {
		if !inPage[c.name] {
			t.Errorf("command %s has no entry", c.name)
		}
		delete(inPage, c.name)
	}
	for name := range inPage {
		t.Errorf("there is no command %s", name)
	}
}
