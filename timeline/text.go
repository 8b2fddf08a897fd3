package timeline

import (
	"fmt"
	"io"
	"time"
)

// Text writes one line for each mark: when, who, what. The deadline has a line
// of its own, where it falls among the marks. Where the wall clock is known its
// time stands first.
func (t *Timeline) Text(out io.Writer) {
	if t.Title != "" {
		fmt.Fprintf(out, "%s\n", t.Title)
	}
	if t.Verdict != "" {
		fmt.Fprintf(out, "  => %s\n", t.Verdict)
	}
	if day := t.day(); day != "" {
		fmt.Fprintf(out, "  %s\n", day)
	}
	origin := t.origin()
	deadline, pending := t.deadline()
	line := func(at time.Duration, sign, lane, text string) {
		clock := t.clock(at)
		if clock != "" {
			clock = "  " + clock
		}
		fmt.Fprintf(out, "%s  %10s  %s %-9s  %s\n", clock, seconds(at-origin), sign, lane, text)
	}
	for _, m := range t.sorted() {
		if pending && m.At >= deadline {
			line(deadline, "─", "─────────", "deadline: the grace period is over ─────────")
			pending = false
		}
		line(m.At, textSigns[m.Kind], m.Lane.String(), m.Text)
	}
	if pending {
		line(deadline, "─", "─────────", "deadline: never reached ─────────")
	}
}

var textSigns = [kinds]string{Note: " ", Stop: "·", Kill: "✖", Breach: "!", Exit: "■"}

// seconds writes a duration so that columns line up: "1.234 s".
func seconds(d time.Duration) string {
	return fmt.Sprintf("%.3f s", d.Seconds())
}
