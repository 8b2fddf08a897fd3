package matrix

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/races"
	"gracerun.io/internal/testbed"
)

// table is one with every kind of cell.
func table(t *testing.T) *Matrix {
	t.Helper()
	second, err := races.Get("second-term")
	if err != nil {
		t.Fatal(err)
	}
	frozen, err := races.Get("kill-leaves-frozen") // of crun alone
	if err != nil {
		t.Fatal(err)
	}
	column := func(title, kind, version string) *Column {
		return &Column{Title: title, Conmon: "conmon 2.1", Runtime: kind + " " + version,
			stock: &testbed.Stack{Monitor: "/c", Runtime: "/" + kind, Kind: kind}, ours: &testbed.Stack{Monitor: "/m", Runtime: "/g", Wrapped: "/" + kind, Kind: kind}}
	}
	m := New([]*Column{column("one", "crun", "1.8"), column("two", "runc", "1.1"), column("three|*", "crun", "1.8")}, []*races.Scenario{second, frozen})
	m.Made, m.Took, m.Ours = time.Unix(0, 0), time.Minute, "gracemon 0.9"
	harm := func(text string) *races.Verdict { return &races.Verdict{Trials: 1, Harmed: 1, Harms: []string{text}} }
	ok := &races.Verdict{Trials: 1}
	m.Rows[0].Cells = []Cell{
		{Stock: harm("killed 3.0 s early"), Ours: ok}, {Stock: harm("killed 2.9 s early"), Ours: ok},
		{Stock: &races.Verdict{Trials: 4, Harmed: 3, Harms: []string{"<b>told twice"}}, Ours: harm("told twice")},
	}
	m.Rows[1].Cells[0] = Cell{Stock: &races.Verdict{Skipped: "no libc"}, Ours: ok}
	return m
}

func TestWriters(t *testing.T) {
	m := table(t)
	var text, markdown, html bytes.Buffer
	for out, write := range map[*bytes.Buffer]func() error{
		&text: func() error { return m.Text(&text) }, &markdown: func() error { return m.Markdown(&markdown) }, &html: func() error { return m.HTML(&html) },
	} {
		if err := write(); err != nil || out.Len() == 0 {
			t.Fatal(err)
		}
	}
	for of, wants := range map[string][]string{
		text.String(): {
			"A  one      conmon 2.1  crun 1.8", "second-term         HARM / ok     HARM / ok  HARM 3/4 / HARM", "kill-leaves-frozen  skipped / ok  -          not staged / not staged",
			"second-term, A, B: killed 3.0 s early", "second-term, C: <b>told twice", "second-term, ours over C: told twice", "kill-leaves-frozen, A: skipped: no libc",
			"1970-01-01, Linux ", "gracemon 0.9; 60 s",
		},
		markdown.String(): {
			"| race | scene | A: one<br>conmon 2.1<br>crun 1.8 |", `C: three\|\*<br>`, "| [second-term](races.md#second-term) | systemd stops the monitor while CRI-O stops the container | **HARM** / ok | **HARM** / ok | **HARM** 3/4 / **HARM** |",
			"- second-term, C: &lt;b>told twice", "## What was skipped",
		},
		html.String(): {`<td class="harm">HARM / ok`, `<td class="ours">HARM 3/4 / HARM`, `<td class="none">-`, "&lt;b&gt;told twice", "three|*"},
	} {
		for _, want := range wants {
			if !strings.Contains(of, want) {
				t.Errorf("no %q in\n%s", want, of)
			}
		}
	}
}

// Ours is staged once over a runtime, whatever conmon stands beside it, and what is about
// speed alone; a runtime that cannot have a race is not asked.
func TestWorks(t *testing.T) {
	m := table(t)
	m.Rows[1].Scenario.Drain = 3
	m.Columns[2].stock.Monitor = "/other"
	beside, alone := m.works()
	if len(beside) != 5 || len(alone) != 3 {
		t.Errorf("%d beside each other, %d alone; want 3 stock and 2 ours, and 2 stock and 1 ours", len(beside), len(alone))
	}
	for _, w := range append(beside, alone...) {
		if ours := w.stack.Ours(); ours && len(w.verdicts) != 2 && w.stack.Kind == "crun" || !ours && len(w.verdicts) != 1 {
			t.Errorf("%s on %+v is for %d cells", w.scenario.ID, w.stack, len(w.verdicts))
		}
	}
}

func TestFailed(t *testing.T) {
	m := table(t)
	if !m.Failed() {
		t.Error("harm of ours is no failure")
	}
	m.Rows[0].Cells[2].Ours = &races.Verdict{Trials: 1}
	if m.Failed() {
		t.Error("without harm of ours it has failed")
	}
	m.Rows[0].Cells[0].cannot = true
	m.Rows[0].Cells[0].Ours = &races.Verdict{Trials: 1, Harmed: 1, Shown: &races.Facts{Warned: true}}
	if got := m.Rows[0].Cells[0].Text(); m.Failed() || got != "HARM / warned" {
		t.Errorf("what was warned of is %q, and a failure: %v", got, m.Failed())
	}
}

// A stack without its programs is a column all the same, which says so.
func TestMissingProgram(t *testing.T) {
	s, err := races.Get("second-term")
	if err != nil {
		t.Fatal(err)
	}
	c := NewColumn("nowhere", t.TempDir(), "/nowhere/conmon", "crun", "/nowhere/crun")
	m := New([]*Column{c}, []*races.Scenario{s})
	m.Run(t.TempDir(), 1, func(done, all int) {
		if all != 2 {
			t.Errorf("%d of %d", done, all)
		}
	})
	if got := m.Rows[0].Cells[0].Text(); got != "skipped / skipped" || c.Conmon != "no conmon" {
		t.Errorf("%q, %+v", got, c)
	}
	if notes := m.Skipped(); len(notes) != 2 || !strings.Contains(notes[0].Text, "conmon is not installed") {
		t.Errorf("%+v", notes)
	}
}
