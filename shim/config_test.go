package shim

import (
	"os"
	"strings"
	"testing"
	"time"

	"gracerun.io/runtime"
	"gracerun.io/runtime/bundle"
)

func TestParseConfig(t *testing.T) {
	text := "# comment\r\n runtime = \"/usr/bin/crun\"  # another\n\n[stop]\ngrace='1m30s'\npolicy = \"enforce\"\n\n[ systemd ]\nscope = \"require\""
	got, err := ParseConfig(text)
	want := Config{Runtime: "/usr/bin/crun", Scope: RequireScope}
	want.Stop = bundle.Stop{Signal: bundle.Defaults.Signal, Grace: 90 * time.Second, Policy: runtime.Enforce}
	if err != nil || *got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParseConfig(""); err != nil || got.Stop != bundle.Defaults || got.Runtime != "" {
		t.Errorf("nothing gives %+v, %v", got, err)
	}
	if got, err := ParseConfig(`runtime = "a \"b\" \\c"`); err != nil || got.Runtime != `a "b" \c` {
		t.Errorf("%+v, %v", got, err)
	}
}

// What the documents show is what is read.
func TestDocumentedConfigs(t *testing.T) {
	page, err := os.ReadFile("../docs/gracerun.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(page), "```toml\n")
	block, _, ended := strings.Cut(block, "```")
	if !found || !ended {
		t.Fatal("docs/gracerun.md shows no configuration")
	}
	deployed, err := os.ReadFile("../docs/deploy/config.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{block, string(deployed)} {
		if got, err := ParseConfig(text); err != nil || got.Stop != bundle.Defaults || got.Runtime == "" {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// What is TOML but not of the part that is read is refused, with its line.
func TestParseConfigRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"runtime":                           "1: want key",
		"\nruntime = crun":                  "2: runtime: want a text in quotes",
		"runtime = \"a":                     "1: runtime: want a text",
		"runtime = \"a\" b":                 "1: runtime: want a text",
		"runtime = \"\"\"a\"\"\"":           "1: runtime: want a text",
		"runtime = '''a'''":                 "1: runtime: want a text",
		`runtime = "\u0041"`:                "1: runtime: want a text",
		"runtime = \"a\"\nruntime = \"b\"":  "2: runtime is there twice",
		"[stop]\n[stop]":                    "2: [stop] is there twice",
		"[stop":                             "1: want [table]",
		"[[stop]]":                          "1: want [table]",
		"[other]":                           "1: unknown table",
		"grace = \"1s\"":                    "1: unknown key grace",
		"[stop]\nruntime = \"x\"":           "2: unknown key stop.runtime",
		"[stop]\ngrace = \"soon\"":          "2: want seconds",
		"[stop]\npolicy = \"strict\"":       "2: unknown policy",
		"[systemd]\nscope = \"perhaps\"":    "2: unknown policy",
		"stop.grace = \"1s\"":               "1: want key",
		"stop = { grace = \"1s\" }":         "1: stop: want a text",
		"\"runtime\" = \"x\"":               "1: want key",
		"runtime = \"" + "\x01" + "\"":      "1: runtime: want a text",
		"= \"x\"":                           "1: want key",
		"[stop]\ngrace = \"1s\" # ok\n]\n":  "3: want key",
		"[stop] grace = \"1s\"":             "1: want [table]",
		"runtime = \"a\\\"":                 "1: runtime: want a text",
		"[systemd]\n[stop]\n[systemd]\n\n ": "3: [systemd] is there twice",
	} {
		if got, err := ParseConfig(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %s", text, got, err, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("runtime = \"x\"\n[stop]\ngrace = '3s' # c\n")
	f.Fuzz(func(t *testing.T, text string) { _, _ = ParseConfig(text) })
}
