package settings

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gracerun.io/runtime"
	"gracerun.io/signals"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/lifecycle"
)

func TestParse(t *testing.T) {
	text := "# comment\r\n runtime = \"/usr/bin/crun\"  # another\nfaults = \"annotations\"\n\n[stop]\ngrace='1m30s'\npolicy = \"enforce\"\n\n" +
		"[annotations]\nallowed = [ \"io.gracerun.grace\", 'io.gracerun.policy' , ] # two\npolicies = []\nmax-grace = \"90\"\n[history]\ncontainers = \"3\"\nbytes = \"512K\"\n[ systemd ]\nscope = \"require\""
	got, err := Parse(text)
	want := &Settings{
		Runtime: "/usr/bin/crun", Scope: RequireScope, FaultsByAnnotation: true,
		Stop:  Stop{Signal: signals.TERM, Grace: 90 * time.Second, Policy: lifecycle.Enforce},
		Heard: []string{graceAnnotation, policyAnnotation}, MaxGrace: 90 * time.Second,
		History: history.Limits{Containers: 3, Bytes: 512 << 10},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if got, err := Parse(""); err != nil || !reflect.DeepEqual(got, Defaults()) {
		t.Errorf("nothing gives %+v, %v", got, err)
	}
	if got, err := Parse(`runtime = "a \"b\" \\c"`); err != nil || got.Runtime != `a "b" \c` {
		t.Errorf("%+v, %v", got, err)
	}
}

// What the documents show is what holds without a file.
func TestDocumentedSettings(t *testing.T) {
	page, err := os.ReadFile("../../docs/gracerun.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(page), "```toml\n")
	block, _, ended := strings.Cut(block, "```")
	if !found || !ended {
		t.Fatal("docs/gracerun.md shows no configuration")
	}
	deployed, err := os.ReadFile("../../docs/deploy/config.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{block, string(deployed)} {
		got, err := Parse(text)
		if err != nil || got.Runtime == "" {
			t.Fatalf("%+v, %v", got, err)
		}
		got.Runtime = ""
		if !reflect.DeepEqual(got, Defaults()) {
			t.Errorf("the document has %+v, without a file it is %+v", got, Defaults())
		}
		for _, key := range []string{"faults", "grace", "policy", "allowed", "policies", "max-grace", "containers", "bytes", "scope"} {
			if !strings.Contains(text, "\n"+key+" ") {
				t.Errorf("key %s is not shown in\n%s", key, text)
			}
		}
	}
}

// What is TOML but not of the part that is read is refused, with its line and key.
func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"runtime":                            "1: want key",
		"[history]\ncontainers = \"-1\"":     `2: history.containers="-1": want a number`,
		"[history]\nbytes = \"8 MiB\"":       `2: history.bytes="8 MiB": want bytes`,
		"[history]\nbytes = \"9000000000G\"": `2: history.bytes="9000000000G": want bytes`,
		"\nruntime = crun":                   "2: runtime: want a text in quotes",
		"runtime = \"a":                      "1: runtime: want a text",
		"runtime = \"a\" b":                  "1: runtime: want a text",
		"runtime = \"\"\"a\"\"\"":            "1: runtime: want a text",
		"runtime = '''a'''":                  "1: runtime: want a text",
		`runtime = "\u0041"`:                 "1: runtime: want a text",
		"runtime = [\"a\"]":                  "1: runtime: want one text in quotes, not a list",
		"runtime = \"a\"\nruntime = \"b\"":   "2: runtime is there twice",
		"[stop]\n[stop]":                     "2: [stop] is there twice",
		"[stop":                              "1: want [table]",
		"[[stop]]":                           "1: want [table]",
		"[other]":                            "1: unknown table",
		"grace = \"1s\"":                     "1: unknown key grace",
		"[stop]\nruntime = \"x\"":            "2: unknown key stop.runtime",
		"[stop]\ngrace = \"-3s\"":            `2: stop.grace="-3s": want seconds ("30")`,
		"[stop]\npolicy = \"strict\"":        `2: stop.policy="strict": unknown policy "strict": want observe`,
		"[systemd]\nscope = \"strict\"":      `2: systemd.scope="strict": want warn, require or ignore`,
		"faults = \"yes\"":                   `1: faults="yes": want environment or annotations`,
		"[annotations]\nmax-grace = \"1\"\nallowed = \"io.gracerun.grace\"": `3: annotations.allowed: want a list`,
		"[annotations]\nallowed = [\"io.gracerun.faults\"]":                 `2: annotations.allowed: unknown annotation "io.gracerun.faults": want io.gracerun.policy`,
		"[annotations]\npolicies = [\"kind\"]":                              `2: annotations.policies: unknown policy "kind"`,
		"[annotations]\npolicies = [\"observe\" \"enforce\"]":               `2: policies: want texts in quotes between [ and ]`,
		"[annotations]\npolicies = [\"observe\"":                            `2: policies: want texts`,
		"[annotations]\npolicies = [observe]":                               `2: policies: want texts`,
		"stop.grace = \"1s\"":                                               "1: want key",
		"stop = { grace = \"1s\" }":                                         "1: stop: want a text",
		"\"runtime\" = \"x\"":                                               "1: want key",
		"runtime = \"" + "\x01" + "\"":                                      "1: runtime: want a text",
		"= \"x\"":                                                           "1: want key",
		"[stop]\ngrace = \"1s\" # ok\n]\n":                                  "3: want key",
		"[stop] grace = \"1s\"":                                             "1: want [table]",
		"runtime = \"a\\\"":                                                 "1: runtime: want a text",
		"[systemd]\n[stop]\n[systemd]\n\n ":                                 "3: [systemd] is there twice",
	} {
		if got, err := Parse(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %s", text, got, err, want)
		}
	}
}

// A line that is wrong takes nothing from the others.
func TestWrongLineLeavesTheOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	t.Setenv(Variable, path)
	if s, err := Load(); err != nil || !reflect.DeepEqual(s, Defaults()) {
		t.Errorf("no file gives %+v, %v", s, err)
	}
	if err := os.WriteFile(path, []byte("[stop]\ngrace = \"soon\"\npolicy = \"enforce\"\n[systemd]\nscope = \"no\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Load()
	if err == nil || !strings.HasPrefix(err.Error(), path+`:2: stop.grace="soon": want`) {
		t.Errorf("got %v, want the first line that is wrong", err)
	}
	if s.Stop.Policy != lifecycle.Enforce || s.Stop.Grace != Defaults().Stop.Grace {
		t.Errorf("got %+v, want the policy that the file has", s.Stop)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("runtime = \"x\"\n[stop]\ngrace = '3s' # c\n[annotations]\npolicies = ['observe', \"x\"]")
	f.Fuzz(func(t *testing.T, text string) {
		s, _ := Parse(text)
		if s == nil || s.Stop.Grace < 0 || s.MaxGrace < 0 {
			t.Fatalf("%q gives %+v", text, s)
		}
	})
}

func TestStopOf(t *testing.T) {
	with := func(change func(*Stop)) Stop {
		s := Defaults().Stop
		change(&s)
		return s
	}
	grace := func(d time.Duration) Stop { return with(func(s *Stop) { s.Grace = d }) }
	signal := func(sig signals.Signal) Stop { return with(func(s *Stop) { s.Signal = sig }) }
	list := func(pairs ...string) (all runtime.Annotations) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, runtime.Annotation{Key: pairs[i], Value: pairs[i+1]})
		}
		return all
	}
	same := Defaults().Stop
	for _, test := range []struct {
		name        string
		file        string
		annotations runtime.Annotations
		want        Stop
		warning     string
		err         string
	}{
		{name: "nothing said", want: same},
		{name: "policy", file: "[annotations]\npolicies = [\"enforce\"]", annotations: list(policyAnnotation, "enforce"),
			want: with(func(s *Stop) { s.Policy = lifecycle.Enforce })},
		{name: "a policy that is not granted", file: "[annotations]\npolicies = [\"observe\"]", annotations: list(policyAnnotation, "enforce"),
			want: same, warning: `annotation io.gracerun.policy="enforce": annotations may not ask for it on this node`},
		{name: "the node's own policy", file: "[stop]\npolicy = \"enforce\"\n[annotations]\npolicies = []", annotations: list(policyAnnotation, "enforce"),
			want: with(func(s *Stop) { s.Policy = lifecycle.Enforce })},
		{name: "an annotation that is not heard", file: "[annotations]\nallowed = [\"io.gracerun.policy\"]", annotations: list(graceAnnotation, "5s"),
			want: same, warning: `annotation io.gracerun.grace="5s": is not heard on this node`},
		{name: "the next one counts then", file: "[annotations]\nallowed = [\"" + systemdGraceAnnotation + "\"]",
			annotations: list(graceAnnotation, "5s", systemdGraceAnnotation, "uint64 7000000"), want: grace(7 * time.Second), warning: `annotation io.gracerun.grace="5s"`},
		{name: "bad policy", annotations: list(policyAnnotation, "nice"),
			err: `annotation io.gracerun.policy="nice": unknown policy "nice": want observe`},
		{name: "bad grace", annotations: list(graceAnnotation, "soon"), err: `annotation io.gracerun.grace="soon": want seconds`},
		{name: "ten years", annotations: list(graceAnnotation, "87600h"), want: grace(24 * time.Hour),
			warning: `annotation io.gracerun.grace="87600h": is more than this node grants`},
		{name: "more than granted", file: "[annotations]\nmax-grace = \"1m\"", annotations: list(kubernetesGraceAnnotation, "61"), want: grace(time.Minute),
			warning: "the grace period is 1m0s"},
		{name: "Podman's stop signal", annotations: list(stopSignalAnnotation, "37"), want: signal(37)},
		{name: "Podman's none", annotations: list(stopSignalAnnotation, "0"), want: same},
		{name: "empty stop signal", annotations: list(stopSignalAnnotation, ""), want: same},
		{name: "the CRI's real-time signal", annotations: list(stopSignalAnnotation, "SIGRTMINPLUS3"), want: signal(signals.RTMIN + 3)},
		{name: "the CRI's other one", annotations: list(stopSignalAnnotation, "SIGRTMAXMINUS3"), want: signal(signals.RTMAX - 3)},
		{name: "bad stop signal", annotations: list(stopSignalAnnotation, "SIGFOO"), want: same,
			warning: `annotation org.opencontainers.image.stopSignal="SIGFOO": unknown signal: the stop signal is SIGTERM`},
		{name: "the kubelet's grace", annotations: list(kubernetesGraceAnnotation, "45"), want: grace(45 * time.Second)},
		{name: "units in the kubelet's", annotations: list(kubernetesGraceAnnotation, "45s"), want: same,
			warning: `annotation io.kubernetes.pod.terminationGracePeriod="45s": want whole seconds ("30"), not negative: it is left out`},
		{name: "a negative one", annotations: list(kubernetesGraceAnnotation, "-1", systemdGraceAnnotation, "uint64 9000000"), want: grace(9 * time.Second),
			warning: `terminationGracePeriod="-1": want`},
		{name: "an empty one", annotations: list(kubernetesGraceAnnotation, ""), want: same, warning: `terminationGracePeriod="": want`},
		{name: "the largest that an API server takes", annotations: list(kubernetesGraceAnnotation, "9999999999"), want: grace(24 * time.Hour), warning: "is more than this node grants"},
		{name: "more than 64 bits", annotations: list(kubernetesGraceAnnotation, "99999999999999999999"), want: grace(24 * time.Hour), warning: "is more than this node grants"},
		{name: "systemd's grace", annotations: list(systemdGraceAnnotation, "uint64 45000000"), want: grace(45 * time.Second)},
		{name: "by the sign of its type", annotations: list(systemdGraceAnnotation, "@t 10000000"), want: grace(10 * time.Second)},
		{name: "systemd's infinity", annotations: list(systemdGraceAnnotation, "uint64 18446744073709551615"), want: grace(24 * time.Hour), warning: "is more than this node grants"},
		{name: "CRI-O's overflow", annotations: list(systemdGraceAnnotation, "uint64 9999999999000000000000"), want: grace(24 * time.Hour), warning: "is more than this node grants"},
		{name: "systemd's without its type", annotations: list(systemdGraceAnnotation, "45000000"), want: same,
			warning: `annotation org.systemd.property.TimeoutStopUSec="45000000": want microseconds as a GVariant text ("uint64 30000000"): it is left out`},
		{name: "the most specific counts", want: grace(time.Second),
			annotations: list(systemdGraceAnnotation, "nonsense", kubernetesGraceAnnotation, "nonsense", graceAnnotation, "1s")},
		{name: "Kubernetes' before systemd's", want: grace(2 * time.Second), annotations: list(systemdGraceAnnotation, "uint64 1", kubernetesGraceAnnotation, "2")},
	} {
		node, err := Parse(test.file)
		if err != nil {
			t.Fatal(err)
		}
		got, warnings, err := node.StopOf(test.annotations)
		if test.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), test.err) {
				t.Errorf("%s: got %v, want %s", test.name, err, test.err)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v, want %+v", test.name, got, err, test.want)
		}
		said := strings.Join(warnings, "\n")
		if !strings.Contains(said, test.warning) || test.warning == "" && said != "" {
			t.Errorf("%s: was said %q, want %q", test.name, said, test.warning)
		}
	}
}

func TestParseGrace(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "30": 30 * time.Second, "1m30s": 90 * time.Second, "500ms": 500 * time.Millisecond, "9223372036": 9223372036 * time.Second,
	} {
		if got, err := ParseGrace(text); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "-1s", "-0s", "9223372037", "1e3", "ten", "5 s", "1h-5s"} {
		if got, err := ParseGrace(text); err == nil {
			t.Errorf("%s: got %v, want an error", text, got)
		}
	}
}

func FuzzParseGrace(f *testing.F) {
	for _, seed := range []string{"0", "30", "1m30s", "-1s", "99999999999999999999", "1.5h", "0x10", "@t 1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		grace, err := ParseGrace(text)
		if err == nil && grace < 0 {
			t.Fatalf("%q is negative: %v", text, grace)
		}
		if usec, err := parseMicroseconds(text); err == nil && usec < 0 {
			t.Fatalf("%q is negative: %v", text, usec)
		}
		if err == nil {
			if again, err := ParseGrace(grace.String()); err != nil || again != grace {
				t.Fatalf("%q is %v, which reads back as %v, %v", text, grace, again, err)
			}
		}
	})
}
