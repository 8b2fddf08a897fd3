package matrix

import (
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	"gracerun.io/internal/races"
)

// word is a verdict in a word or two.
func word(v *races.Verdict) string {
	switch {
	case v == nil:
		return "not staged"
	case v.Skipped != "":
		return "skipped"
	case v.Harmful() && v.Trials > 1:
		return fmt.Sprintf("HARM %d/%d", v.Harmed, v.Trials)
	case v.Harmful():
		return "HARM"
	}
	return "ok"
}

// Text is the cell in the tables: stock, and ours.
func (c Cell) Text() string {
	if c.Impossible {
		return "-"
	}
	ours := word(c.Ours)
	if c.warned() {
		ours = "warned"
	}
	return word(c.Stock) + " / " + ours
}

// warned reports whether ours did the harm that no stack can hold off, and gracelab check
// has told of it before.
func (c Cell) warned() bool {
	return c.cannot && c.Ours != nil && c.Ours.Harmful() && c.Ours.Shown.Warned
}

// letter names a column where there is no room for its versions.
func letter(i int) string {
	if i < 26 {
		return string(rune('A' + i))
	}
	return letter(i/26-1) + letter(i%26)
}

// legend explains the cells.
const legend = "Stock / gracemon and gracerun over the same runtime. HARM: the container came to harm, in so many of so many trials where it does so " +
	"only sometimes. ok: it did not. warned: nobody can hold it off, and gracelab check has told of it before. -: the runtime cannot have the race. skipped: the reason is below."

// Note is something that was seen in some columns of a row.
type Note struct {
	Race, Text string
	Columns    []string // their letters, "ours" for all of ours
}

// Seen gives what the harm was, race by race.
func (m *Matrix) Seen() (notes []Note) {
	return m.notes(func(v *races.Verdict) string {
		if !v.Harmful() {
			return ""
		}
		return strings.Join(v.Harms, "; ")
	})
}

// Skipped gives why races were not staged.
func (m *Matrix) Skipped() (notes []Note) {
	return m.notes(func(v *races.Verdict) string { return v.Skipped })
}

func (m *Matrix) notes(of func(*races.Verdict) string) (notes []Note) {
	for _, row := range m.Rows {
		first := len(notes)
		add := func(column string, v *races.Verdict) {
			if v == nil || of(v) == "" {
				return
			}
			text := of(v)
			same := func(n Note) bool { return shape(n.Text) == shape(text) }
			if i := slices.IndexFunc(notes[first:], same); i >= 0 {
				notes[first+i].Columns = append(notes[first+i].Columns, column)
			} else {
				notes = append(notes, Note{row.Scenario.ID, text, []string{column}})
			}
		}
		for i, c := range row.Cells {
			add(letter(i), c.Stock)
		}
		for i, c := range row.Cells {
			add("ours over "+letter(i), c.Ours)
		}
	}
	return notes
}

// shape is a text without its numbers: "3.0 s early" and "2.9 s early" are one.
func shape(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, text)
}

// where says on what machine the table was made.
func (m *Matrix) where() string {
	return fmt.Sprintf("%s, %s, %d processors, cgroups: %s; %s; %.0f s", m.Made.UTC().Format("2006-01-02"), m.Kernel, m.Processors, m.Cgroups, m.Ours, m.Took.Seconds())
}

// Text writes the table for a terminal.
func (m *Matrix) Text(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, c := range m.Columns {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", letter(i), c.Title, c.Conmon, c.Runtime)
	}
	fmt.Fprint(t, "\n\nrace")
	for i := range m.Columns {
		fmt.Fprintf(t, "\t%s", letter(i))
	}
	fmt.Fprintln(t)
	for _, row := range m.Rows {
		fmt.Fprint(t, row.Scenario.ID)
		for _, c := range row.Cells {
			fmt.Fprintf(t, "\t%s", c.Text())
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s\n", legend)
	for _, n := range m.Seen() {
		fmt.Fprintf(out, "  %s, %s: %s\n", n.Race, strings.Join(n.Columns, ", "), n.Text)
	}
	for _, n := range m.Skipped() {
		fmt.Fprintf(out, "  %s, %s: skipped: %s\n", n.Race, strings.Join(n.Columns, ", "), n.Text)
	}
	_, err := fmt.Fprintln(out, m.where())
	return err
}

// Markdown writes the table for a document.
func (m *Matrix) Markdown(out io.Writer) error {
	var b strings.Builder
	b.WriteString("# Races over versions\n\n")
	b.WriteString("Which version of conmon, crun and runc has which race of [races.md](races.md), and what becomes of it where gracemon and gracerun\n" +
		"take conmon's place and wrap the same runtime. Made by `gracelab matrix --markdown`: each race is staged on real containers, driven as\nCRI-O drives them.\n\n")
	fmt.Fprintf(&b, "%s.\n\n", escaped(m.where()))
	b.WriteString("Not in the table are drain-thundering-herd, which is about how fast a machine is (`gracelab drain`), and scope-default-dependencies, which\n" +
		"powers off a host of its own (`gracelab reproduce scope-default-dependencies`).\n\n")
	b.WriteString("| race | scene |")
	for i, c := range m.Columns {
		fmt.Fprintf(&b, " %s: %s<br>%s<br>%s |", letter(i), escaped(c.Title), escaped(c.Conmon), escaped(c.Runtime))
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(m.Columns)) + "\n")
	for _, row := range m.Rows {
		fmt.Fprintf(&b, "| [%s](races.md#%s) | %s |", row.Scenario.ID, row.Scenario.Race, escaped(row.Scenario.Title))
		for _, c := range row.Cells {
			fmt.Fprintf(&b, " %s |", strings.ReplaceAll(c.Text(), "HARM", "**HARM**"))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%s\n", legend)
	for _, list := range []struct {
		title string
		notes []Note
	}{{"What was seen", m.Seen()}, {"What was skipped", m.Skipped()}} {
		if list.notes == nil {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n", list.title)
		for _, n := range list.notes {
			fmt.Fprintf(&b, "- %s, %s: %s\n", n.Race, strings.Join(n.Columns, ", "), escaped(n.Text))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// escaped keeps Markdown from taking a text for more than that.
func escaped(text string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "*", "\\*", "_", "\\_", "\n", " ").Replace(text)
}

// HTML writes the table as a page.
func (m *Matrix) HTML(out io.Writer) error { return page.Execute(out, m) }

// Where and Legend are for the page.
func (m *Matrix) Where() string  { return m.where() }
func (m *Matrix) Legend() string { return legend }

// Class colours a cell: by what stock did, and ours.
func (c Cell) Class() string {
	switch {
	case c.Impossible, c.Stock == nil, c.Ours == nil:
		return "none"
	case c.Ours.Harmful() && !c.warned():
		return "ours"
	case c.Stock.Harmful():
		return "harm"
	case c.Stock.Skipped != "":
		return "none"
	}
	return "ok"
}

var page = template.Must(template.New("matrix").Funcs(template.FuncMap{"letter": letter, "join": strings.Join}).Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Races over versions</title>
<style>
:root { color-scheme: light dark; --line: #ccc; --harm: #fbe3c4; --ours: #f6b8b0; --ok: transparent; --dim: #666; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --harm: #5b3d12; --ours: #7a2118; --dim: #aaa; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border: 1px solid var(--line); padding: .3em .6em; text-align: left; white-space: nowrap; vertical-align: top; }
tbody th { font-weight: normal; }
th:first-child { position: sticky; left: 0; background: Canvas; }
.harm { background: var(--harm); } .ours { background: var(--ours); } .none, .where { color: var(--dim); }
.scene { white-space: normal; min-width: 14em; }
li { overflow-wrap: anywhere; }
</style>
<h1>Races over versions</h1>
<p>{{.Legend}}</p>
<div><table>
<thead><tr><th>race<th>scene{{range $i, $c := .Columns}}<th>{{letter $i}}: {{$c.Title}}<br>{{$c.Conmon}}<br>{{$c.Runtime}}{{end}}</thead>
<tbody>{{range .Rows}}
<tr><th>{{.Scenario.ID}}<td class="scene">{{.Scenario.Title}}{{range .Cells}}<td class="{{.Class}}">{{.Text}}{{end}}{{end}}
</tbody></table></div>
<h2>What was seen</h2>
<ul>{{range .Seen}}
<li>{{.Race}}, {{join .Columns ", "}}: {{.Text}}{{end}}
</ul>{{with .Skipped}}
<h2>What was skipped</h2>
<ul>{{range .}}
<li>{{.Race}}, {{join .Columns ", "}}: {{.Text}}{{end}}
</ul>{{end}}
<p class="where">{{.Where}}</p>
</html>
`))
