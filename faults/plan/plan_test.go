package plan

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/faults"
	"gracerun.io/signals"
)

const example = `# CRI-O's TERM is lost, and every third exit file meets a full disk.
faults:
  - at: effect.deliver
    signal: SIGTERM
    do: drop
    count: 1
  - at: effect.record-exit
    do: error
    errno: ENOSPC
    probability: 0.3
    seed: 7
  - at: runtime.start
    when: after
    do: delay
    delay: 200ms
    skip: 2
`

func TestParse(t *testing.T) {
	rules, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := []faults.Rule{
		{At: "effect.deliver", Signal: signals.TERM, Do: faults.Drop, Count: 1, Probability: 1},
		{At: "effect.record-exit", Do: faults.Error, Errno: unix.ENOSPC, Probability: 0.3, Seed: 7},
		{At: "runtime.start", After: true, Do: faults.Delay, Delay: 200 * time.Millisecond, Skip: 2, Probability: 1},
	}
	if !reflect.DeepEqual(rules, want) {
		t.Errorf("read as %+v", rules)
	}
	again, err := faults.Parse(Compile(rules))
	if err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("%q is read as %+v, %v", Compile(rules), again, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                  "line 1: the plan is empty",
		"faults: []":        "line 1: want a list named faults",
		"fault:\n  - at: x": `line 2: unknown key "fault"`,
		"faults:\n  - at: effect.delver\n    do: drop":                   `line 2: at: unknown point "effect.delver"`,
		"faults:\n  - at: effect.deliver\n    do: lose":                  `line 3: do: unknown fault "lose"`,
		"faults:\n  - at: effect.deliver":                                "line 2: do is missing",
		"faults:\n  - at: effect.deliver\n    signal: SIGFOO\n":          "line 3: signal:",
		"faults:\n  - at: write.log\n    do: duplicate":                  "line 2: duplicate cannot be done at write.log",
		"faults:\n  - at: write.log\n    do: delay":                      "line 2: delay is missing",
		"faults:\n  - at: write.log\n    do: error\n    errno: EWHAT":    `line 4: errno: unknown errno "EWHAT"`,
		"faults:\n  - at: write.log\n    at: write.log\n    do: crash":   `line 3: "at" is there twice`,
		"faults:\n  - at: write.log\n    do: crash\n    times: 2":        `line 4: unknown key "times"`,
		"faults:\n  - at: write.log\n    do: crash\n    when: soon":      `line 4: when: want before or after`,
		"faults:\n  - at: effect.deliver\n    do: drop\n    when: after": "makes no sense",
		"faults:\n  - at: write.log\n    do: crash\n    probability: 2":  "line 2: probability is",
		"faults:\n\t- at: x": "line 2:",
	} {
		if rules, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want an error with %q", text, rules, err, want)
		}
	}
}

// FuzzParse: a plan that is read can be compiled and read again.
func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := Parse([]byte(text))
		if err != nil {
			return
		}
		again, err := faults.Parse(Compile(rules))
		if err != nil || !reflect.DeepEqual(again, rules) {
			t.Errorf("%q is read as %+v, %v", Compile(rules), again, err)
		}
	})
}
