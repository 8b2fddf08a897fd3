package check

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]string{
		"crun version 1.8.1\ncommit: f8a096be\n":       "1.8.1",
		"runc version 1.1.5+ds1\n":                     "1.1.5",
		"conmon version 2.1.6\n":                       "2.1.6",
		"systemd 252 (252.30-1~deb12u2)\n+PAM":         "252",
		"crun version 1.14.4.0.0.0.23-e89c\ncommit: x": "1.14.4.0.0.0.23",
		"crio version v1.30.0":                         "1.30.0",
	} {
		v, ok := ParseVersion(text)
		if !ok || v.String() != want {
			t.Errorf("%q: %v, %v; want %s", text, v, ok, want)
		}
	}
	if v, ok := ParseVersion("no number here\n1.2"); ok {
		t.Errorf("found %v where there is none", v)
	}
}

func TestJudgeCrun(t *testing.T) {
	races := known[0].races
	for text, want := range map[string]string{
		"1.8":    "kill-esrch-errno-0 bare-pid-kill kill-leaves-frozen",
		"1.8.1":  "scope-default-dependencies kill-esrch-errno-0 bare-pid-kill kill-leaves-frozen",
		"1.8.5":  "scope-default-dependencies kill-esrch-errno-0 kill-leaves-frozen",
		"1.16.1": "scope-default-dependencies kill-esrch-errno-0 kill-leaves-frozen",
		"1.17":   "kill-leaves-frozen",
		"1.21":   "kill-leaves-frozen",
		"1.29.1": "",
		"2.0":    "",
	} {
		v, _ := ParseVersion("crun version " + text)
		var names []string
		for _, f := range judge(v, races) {
			names = append(names, f.Race)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s has %q, want %q", text, got, want)
		}
	}
}

func TestParseMonitor(t *testing.T) {
	for line, want := range map[string]monitor{
		"/usr/bin/conmon -b /b -c id -p /b/pidfile -r /usr/bin/crun": {"conmon", "id", "/b", "/b/pidfile"},
		"gracemon --cid=id --bundle=/b":                              {"gracemon", "id", "/b", "/b/pidfile"},
	} {
		m, ok := parseMonitor(strings.Fields(line))
		if !ok || m != want {
			t.Errorf("%q: %+v, %v", line, m, ok)
		}
	}
	for _, line := range []string{"/bin/sh -c id", "conmon --version", "conmon -c id -b /b -e --exec-process-spec /p", "conmon -c"} {
		if m, ok := parseMonitor(strings.Fields(line)); ok {
			t.Errorf("%q is taken for the monitor %+v", line, m)
		}
	}
}

func TestJudgeScope(t *testing.T) {
	asked := map[string]string{"org.systemd.property.DefaultDependencies": "true"}
	for _, test := range []struct {
		name  string
		have  map[string]string
		asked map[string]string
		want  []Level
	}{
		{"as asked", map[string]string{"DefaultDependencies": "yes", "TimeoutStopUSec": "1min"}, asked, nil},
		{"crun 1.8.1", map[string]string{"DefaultDependencies": "no", "TimeoutStopUSec": "1min"}, asked, []Level{Harm}},
		{"nobody asked", map[string]string{"DefaultDependencies": "no", "TimeoutStopUSec": "infinity"}, nil, nil},
		{"too short", map[string]string{"DefaultDependencies": "yes", "TimeoutStopUSec": "29s 900ms"}, asked, []Level{Warning}},
	} {
		found := judgeScope(test.have, test.asked, 30*time.Second)
		if len(found) != len(test.want) || len(found) > 0 && found[0].Level != test.want[0] {
			t.Errorf("%s: %+v", test.name, found)
		}
	}
}

func TestParseTimespan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1min 30s": 90 * time.Second, "500ms": 500 * time.Millisecond, "infinity": math.MaxInt64, "1h 1.5s": time.Hour + 1500*time.Millisecond,
	} {
		if got, ok := parseTimespan(text); !ok || got != want {
			t.Errorf("%q is %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "soon", "30", "1parsec"} {
		if got, ok := parseTimespan(text); ok {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

func TestCgroups(t *testing.T) {
	paths := parseCgroups([]byte("9:freezer:/a\n0::/kubepods.slice/crio-1.scope/inner\n"))
	if paths["freezer"] != "/a" || scopeOf(paths[""]) != "crio-1.scope" {
		t.Errorf("read as %v", paths)
	}
}

// TestLookAtBadBundle: what cannot be read is a finding, not an end. What is known
// all the same is said.
func TestLookAtBadBundle(t *testing.T) {
	dir := t.TempDir()
	m := monitor{"conmon", "x", dir, dir + "/pidfile"}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	has := func(c Container, line string, findings ...string) {
		t.Helper()
		if c.String() != line {
			t.Errorf("said %q, want %q", c, line)
		}
		if len(c.Found) != len(findings) {
			t.Fatalf("%+v, want %q", c.Found, findings)
		}
		for i, text := range findings {
			if c.Found[i].Level != Warning || !strings.Contains(c.Found[i].Text, text) {
				t.Errorf("finding %+v, want %q", c.Found[i], text)
			}
		}
	}
	const noPid, noSettings = "its pid is not known: ", "its stop signal and grace period are not known: "
	has(m.look(t.Context(), false), "x  pid not known, conmon, stop signal and grace period not known", noPid, noSettings)
	write("config.json", `{"annotations": {"io.gracerun.grace": "soon"}}`)
	has(m.look(t.Context(), false), "x  pid not known, conmon, stop signal and grace period not known", noPid, "io.gracerun.grace")
	write("config.json", `{"annotations": {"io.gracerun.grace": "7s"}}`)
	has(m.look(t.Context(), false), "x  pid not known, conmon, SIGTERM in 7s", noPid)
	write("config.json", `{`)
	write("pidfile", strconv.Itoa(os.Getpid()))
	c := m.look(t.Context(), false)
	c.Scope = "" // that the test runs in
	has(c, "x  pid "+strconv.Itoa(os.Getpid())+", conmon, stop signal and grace period not known", noSettings)
}

func TestOwnVersion(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"gracerun", "crun version 1.8.1\nspec: 1.0.0\ngracerun: v0.1-3-gabc\n", "v0.1-3-gabc (as crun version 1.8.1)"},
		{"gracemon", "conmon version 2.2.1\ncommit: gracemon v0.1\n\n", "v0.1 (as conmon version 2.2.1)"},
		{"conmon", "commit: unknown\n", ""},
	} {
		if got, _ := ownVersion(test.name, test.text); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
