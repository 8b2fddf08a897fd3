package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// table is written as text or as Markdown.
type table struct {
	title string
	head  []string // the first column is text, the others are figures
	rows  [][]string
}

// tables gives one table for each kind of work, in the order in which they were
// measured, and the section of each.
func (r *Report) tables() (all []table, of []string) {
	type kind struct{ section, work string }
	var kinds []kind
	for _, row := range r.Rows {
		if k := (kind{row.Section, row.Work}); !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	for _, k := range kinds {
		all = append(all, r.table(k.section, k.work))
		of = append(of, k.section)
	}
	return all, of
}

func (r *Report) table(section, work string) table {
	var quantities []Quantity
	var subjects []string
	for _, row := range r.Rows {
		if row.Section != section || row.Work != work {
			continue
		}
		if !slices.Contains(quantities, row.Quantity) {
			quantities = append(quantities, row.Quantity)
		}
		if !slices.Contains(subjects, row.Subject) {
			subjects = append(subjects, row.Subject)
		}
	}
	t := table{title: work, head: []string{""}}
	for _, q := range quantities {
		t.head = append(t.head, strings.TrimSuffix(string(q)+", "+units[q], ", "))
		if comparable(q) {
			t.head = append(t.head, "×")
		}
	}
	for _, s := range subjects {
		line := []string{s}
		for _, q := range quantities {
			row := r.row(section, work, s, q)
			base := r.row(section, work, r.Baselines[section], q)
			if row == nil {
				line = append(line, "")
			} else {
				line = append(line, row.String())
			}
			if comparable(q) {
				ratio := ""
				if row != nil && base != nil && base.Median != 0 {
					ratio = times(row.Median / base.Median)
				}
				line = append(line, ratio)
			}
		}
		t.rows = append(t.rows, line)
	}
	return t
}

// comparable quantities have a ratio that tells something.
func comparable(q Quantity) bool { return q != Threads && q != EarlyKills }

// String gives the median, and in brackets the range without the outer tenths,
// where there is one.
func (s Spread) String() string {
	median, low, high := figure(s.Median), figure(s.P10), figure(s.P90)
	if low == high {
		return median
	}
	return median + " [" + low + "–" + high + "]"
}

// figure rounds to three digits.
func figure(x float64) string {
	switch {
	case x == float64(int64(x)) && x < 1000:
		return fmt.Sprintf("%.0f", x)
	case x < 1:
		return fmt.Sprintf("%.3f", x)
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.0f", x)
	}
}

func times(ratio float64) string { return fmt.Sprintf("%.2f×", ratio) }

func (r *Report) verdicts() table {
	t := table{title: "Targets", head: []string{"", "work", "ours", "compared with", "wanted", "found", ""}}
	for _, v := range r.Targets {
		outcome := "**missed**"
		switch {
		case v.Found == "":
			outcome = "not measured"
		case v.Met:
			outcome = "met"
		}
		t.rows = append(t.rows, []string{v.Name, v.Work + ": " + string(v.Quantity), v.Ours, v.Theirs, v.Want, v.Found, outcome})
	}
	return t
}

func (t table) writeText(w io.Writer) {
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Fprintf(w, "%s\n", t.title)
	for _, row := range append([][]string{t.head}, t.rows...) {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString("  " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)))
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
	fmt.Fprintln(w)
}

func (t table) writeMarkdown(w io.Writer) {
	if t.title != "" {
		fmt.Fprintf(w, "**%s**\n\n", t.title)
	}
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(t.head, " | "), strings.Repeat(" --- |", len(t.head)))
	for _, row := range t.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
	fmt.Fprintln(w)
}

// WriteText writes the tables for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	b.WriteString(r.head() + "\n\n")
	all, of := r.tables()
	for i, t := range all {
		if i == 0 || of[i] != of[i-1] {
			fmt.Fprintf(&b, "%s\n%s\n\n", of[i], strings.Repeat("=", utf8.RuneCountInString(of[i])))
		}
		t.writeText(&b)
	}
	r.verdicts().writeText(&b)
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "Not measured: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteMarkdown writes the same tables for a document.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	all, of := r.tables()
	for i, t := range all {
		if i == 0 || of[i] != of[i-1] {
			fmt.Fprintf(&b, "### %s\n\n", of[i])
			if base := r.Baselines[of[i]]; base != "" {
				fmt.Fprintf(&b, "× is the ratio to %s.\n\n", base)
			}
		}
		t.writeMarkdown(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteAll writes results.txt, results.md and results.json.
func (r *Report) WriteAll(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, write := range map[string]func(io.Writer) error{
		"results.txt": r.WriteText, "results.md": r.WriteMarkdown, "results.json": r.WriteJSON,
	} {
		var b strings.Builder
		if err := write(&b); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// WriteJSON writes everything, for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *Report) head() string {
	h := r.Host
	text := fmt.Sprintf("%s, %s: %d × %s, %s, Linux %s, %s, load averages at the end %s.", r.Date.Format("2006-01-02"), h.System, h.CPUs, h.CPU, h.Memory, h.Kernel, h.Go, h.Load)
	if r.Quick {
		text += " A QUICK RUN: the harness works, the figures mean nothing."
	}
	return text
}
