package timeline

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"strings"
	"testing"
	"time"
)

func example() *Timeline {
	t := &Timeline{Title: "a stop <with> an early kill"}
	base := 5 * time.Hour
	t.Grace = []Grace{{base + 2*time.Millisecond, base + 3*time.Second + 2*time.Millisecond}}
	t.Add(base+time.Second, Caller, Kill, "crictl rm -f: kill web KILL")
	t.Add(base, Caller, Stop, "CRI-O: kill web TERM")
	t.Add(base+2*time.Millisecond, Container, Stop, "got SIGTERM, flushing & syncing")
	t.Add(base+time.Second+time.Millisecond, Monitor, Breach, "early-kill held until the deadline")
	t.Add(base+2500*time.Millisecond, Kernel, Exit, "init exited with code 0")
	return t
}

func TestText(t *testing.T) {
	var out bytes.Buffer
	example().Text(&out)
	want := `a stop <with> an early kill
     0.000 s  · caller     CRI-O: kill web TERM
     0.002 s  · container  got SIGTERM, flushing & syncing
     1.000 s  ✖ caller     crictl rm -f: kill web KILL
     1.001 s  ! monitor    early-kill held until the deadline
     2.500 s  ■ kernel     init exited with code 0
     3.002 s  ─ ─────────  deadline: never reached ─────────
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestTextWithWallClock(t *testing.T) {
	tl := example()
	tl.Wall = time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	tl.Text(&out)
	for _, want := range []string{"\n  2026-11-28 UTC\n", "\n  14:00:01.001     1.001 s  ! monitor", "\n  14:00:03.002     3.002 s  ─"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}

func TestTextWithDeadlineReached(t *testing.T) {
	tl := example()
	tl.Add(5*time.Hour+4*time.Second, Kernel, Exit, "late")
	var out bytes.Buffer
	tl.Text(&out)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if got := lines[len(lines)-2]; !strings.Contains(got, "3.002 s") || !strings.Contains(got, "the grace period is over") {
		t.Errorf("the line before the last is %q", got)
	}
}

func TestHTMLIsWholeAndEscaped(t *testing.T) {
	var out bytes.Buffer
	if err := HTML(&out, "stock & ours", example(), &Timeline{Title: "nothing happened"}); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{"stock &amp; ours", "a stop &lt;with&gt; an early kill", "deadline 3.002 s", "flushing &amp; syncing"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not hold %q", want)
		}
	}
	if strings.Contains(text, "http") {
		t.Error("the page refers to another")
	}
	svg := text[strings.Index(text, "<svg"):]
	svg = svg[:strings.Index(svg, "</svg>")+len("</svg>")]
	d := xml.NewDecoder(strings.NewReader(svg))
	marks := 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("the drawing is not well-formed: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			marks++
		}
	}
	if marks != 5 {
		t.Errorf("%d marks are drawn, want 5", marks)
	}
}

// TestDrawing: later is further right, and nothing is drawn outside.
func TestDrawing(t *testing.T) {
	d := example().draw()
	for i, m := range d.Marks {
		if m.X < d.Left || m.X > d.Right || m.Y > d.Height {
			t.Errorf("mark %d is at %v,%v, outside", m.Number, m.X, m.Y)
		}
		if i > 0 && m.X < d.Marks[i-1].X {
			t.Errorf("mark %d is left of the one before it", m.Number)
		}
	}
	if g := d.Grace[0]; g.Deadline <= d.Marks[4].X {
		t.Error("the deadline is drawn before an exit that came in time")
	}
}

func TestChrome(t *testing.T) {
	var out bytes.Buffer
	if err := Chrome(&out, example()); err != nil {
		t.Fatal(err)
	}
	var trace struct {
		TraceEvents []struct {
			Name string
			Ph   string
			Ts   float64
			Dur  float64
			Tid  int
		}
	}
	if err := json.Unmarshal(out.Bytes(), &trace); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range trace.TraceEvents {
		switch {
		case e.Ph == "X" && e.Name == "grace period":
			found++
			if e.Ts != 2000 || e.Dur != 3e6 {
				t.Errorf("the grace period is at %v us for %v us", e.Ts, e.Dur)
			}
		case e.Ph == "i" && e.Name == "init exited with code 0":
			found++
			if e.Ts != 2.5e6 || e.Tid != int(Kernel)+1 {
				t.Errorf("the exit is at %v us in lane %d", e.Ts, e.Tid)
			}
		}
	}
	if found != 2 {
		t.Errorf("found %d of 2 events in %s", found, out.String())
	}
}
