package signalpath

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
)

// besides gives, for each runtime that can be wrapped, containers that conmon has
// made by way of gracerun: gracerun and the runtime can then be asked the same.
func besides(t *testing.T, test func(t *testing.T, p pairing)) {
	dir, _ := programs()
	for _, p := range pairings(t) {
		if !strings.HasPrefix(p.name, "conmon and gracerun") {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			if p.stack.Missing != "" {
				t.Skip(p.stack.Missing)
			}
			test(t, p)
		})
		if strings.HasSuffix(p.name, "runc") {
			stack := *p.stack
			stack.Wrapped = filepath.Join(dir, "gracerun-native")
			p.stack = &stack
			t.Run("conmon and gracerun over gracerun-native", func(t *testing.T) {
				if p.stack.Missing != "" {
					t.Skip(p.stack.Missing)
				}
				test(t, p)
			})
		}
	}
}

// annotate gives the container annotations that are hard to print.
func annotate(t *testing.T, c *testbed.Container) {
	path := filepath.Join(c.Bundle(), "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	annotations := config["annotations"].(map[string]any)
	for key, value := range map[string]string{
		"org.example.z": "last", "org.example.empty": "", "org.example.=": "a=b = c", "org.example.html": "<a href=\"x\">&amp;</a>",
		"org.example.control": "tab\t newline\n bell\a", "org.example.unicode": "é 😀 \u2028", "org.example.backslash": `C:\n`,
	} {
		annotations[key] = value
	}
	if text, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// What state prints is what the wrapped runtime prints, member by member, in every
// status.
func TestStateSideBySide(t *testing.T) {
	besides(t, func(t *testing.T, p pairing) {
		c, err := p.stack.New(t.TempDir(), testbed.Options{Workload: orderly, Grace: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		annotate(t, c)
		t.Cleanup(func() {
			if err := c.Remove(); err != nil {
				t.Error(err)
			}
		})
		if err := c.Create(patience(t)); err != nil {
			t.Fatal(err)
		}
		compare := func(status string) {
			t.Helper()
			ours, theirs := call(t, c, gracerun(), "state", c.ID), call(t, c, p.stack.Wrapped, "state", c.ID)
			var a, b map[string]any
			if err := json.Unmarshal([]byte(ours.stdout), &a); err != nil {
				t.Fatalf("%v: %+v", err, ours)
			}
			if err := json.Unmarshal([]byte(theirs.stdout), &b); err != nil {
				t.Fatalf("%v: %+v", err, theirs)
			}
			if !reflect.DeepEqual(a, b) || ours.code != theirs.code || ours.stderr != theirs.stderr {
				t.Errorf("%s: gracerun says\n%+v\nand the runtime says\n%+v", status, ours, theirs)
			}
			if a["status"] != status {
				t.Errorf("status is %v, not %s", a["status"], status)
			}
			if ours.stdout != theirs.stdout {
				t.Errorf("%s: not the same to the letter: gracerun prints\n%q\nand the runtime\n%q", status, ours.stdout, theirs.stdout)
			}
		}
		compare("created")
		if err := c.Start(patience(t)); err != nil {
			t.Fatal(err)
		}
		compare("running")
		call(t, c, gracerun(), "pause", c.ID)
		compare("paused")
		call(t, c, gracerun(), "resume", c.ID)
		compare("running")
		call(t, c, gracerun(), "kill", c.ID, "KILL")
		if err := c.AwaitEnd(patience(t)); err != nil {
			t.Fatal(err)
		}
		compare("stopped")
	})
}

var times = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.0-9]*(Z|[-+]\d\d:\d\d)`)

// said is what a failing command has said, and written to its log, with the time
// left out.
type said struct {
	result
	log string
}

func ask(t *testing.T, c *testbed.Container, program string, options []string, args []string) said {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	var all []string
	for _, o := range options {
		all = append(all, strings.ReplaceAll(o, "LOG", log))
	}
	s := said{result: call(t, c, program, append(all, args...)...)}
	text, err := os.ReadFile(log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	s.log = times.ReplaceAllString(string(text), "TIME")
	s.stderr = times.ReplaceAllString(s.stderr, "TIME")
	return s
}

// What goes wrong is said in the same words, on the same channels and in the same
// formats, with the same exit code.
func TestErrorsSideBySide(t *testing.T) {
	formats := [][]string{nil, {"--log", "LOG"}, {"--log=LOG", "--log-format=json"}, {"--log-format", "json"}}
	besides(t, func(t *testing.T, p pairing) {
		crun := strings.HasSuffix(p.stack.Wrapped, "crun")
		c := start(t, p, testbed.Options{Workload: orderly, Grace: time.Minute})
		check := func(args ...string) {
			t.Helper()
			for _, format := range formats {
				ours, theirs := ask(t, c, gracerun(), format, args), ask(t, c, p.stack.Wrapped, format, args)
				if ours != theirs || ours.code == 0 {
					t.Errorf("%v %v:\ngracerun says    %+v\nthe runtime says %+v", format, args, ours, theirs)
				}
			}
		}
		// none differs where gracerun does not say what the runtime says: these words
		// satisfy every caller (package runtime).
		instead := func(words string, args ...string) {
			t.Helper()
			for _, format := range formats {
				ours := ask(t, c, gracerun(), format, args)
				if ours.code != 1 || !strings.Contains(ours.stderr, words) || ours.stdout != "" {
					t.Errorf("%v %v: gracerun says %+v, want %s", format, args, ours, words)
				}
			}
		}
		none := c.ID + "-none"
		for _, command := range []string{"kill", "state", "start", "delete", "pause", "resume", "ps", "update", "exec"} {
			args := []string{command, none}
			if command == "exec" {
				args = append(args, "true")
			}
			check(args...)
		}
		check("kill")
		check("kill", c.ID, "TERM", "KILL")
		check("state")
		check("state", c.ID, "more")
		check("start", c.ID) // running
		check("delete", c.ID)
		check("create", "--bundle", filepath.Join(c.Bundle(), "none"), none)
		check("create", "--bundle", c.Bundle(), c.ID) // taken
		check("frobnicate")
		check("--frobnicate")
		check("--log-format", "yaml", "state", c.ID)
		if crun { // 1.8.1 takes an unknown name for signal 0
			instead(`unknown signal`, "kill", c.ID, "NONE")
		} else {
			check("kill", c.ID, "NONE")
			check("kill", "a/b", "TERM")
			check("state", "..")
			check("create", "--bundle", c.Bundle(), "a b")
		}
		call(t, c, gracerun(), "kill", c.ID, "KILL")
		if err := c.AwaitEnd(patience(t)); err != nil {
			t.Fatal(err)
		}
		check("start", c.ID)
		check("exec", c.ID, "true")
		if crun { // "kill container: No such process", which CRI-O does not understand
			instead("container not running", "kill", c.ID, "TERM")
			instead("container not running", "kill", c.ID, "0")
		} else {
			check("kill", c.ID, "TERM")
			check("kill", c.ID, "0")
		}
	})
}
