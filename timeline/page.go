package timeline

import (
	_ "embed"
	"html/template"
	"io"
	"math"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// HTML writes one page with the timelines, drawn one above the other so that a
// stock run and ours can be compared. It needs nothing but itself.
func HTML(out io.Writer, title string, timelines ...*Timeline) error {
	drawings := make([]drawing, len(timelines))
	for i, t := range timelines {
		drawings[i] = t.draw()
	}
	return page.Execute(out, struct {
		Title    string
		Drawings []drawing
	}{title, drawings})
}

// Sizes of a drawing, in pixels.
const (
	leftEdge   = 110.0
	rightEdge  = 40.0
	topEdge    = 46.0
	bottomEdge = 34.0
	minWidth   = 960.0
	radius     = 10.0 // of a mark
	rowHeight  = 36.0 // of a mark with its label
	lanePad    = 22.0 // of a lane, beside its rows
	gap        = 4.0  // between neighbours
	charWidth  = 7.0  // of small text, at most
)

// drawing is a timeline with everything in its place.
type drawing struct {
	Title         string
	Day           string // of the clock, "" if it is not known
	Verdict       string
	Bad           bool
	Width, Height float64
	Left, Right   float64
	Lanes         []drawnLane
	Marks         []drawnMark
	Grace         []drawnGrace
	Ticks         []drawnText
}

type drawnLane struct {
	Name string
	Y    float64 // its line: the first row
}

type drawnMark struct {
	Number     int
	X, Y       float64
	Kind, Lane string
	When, Text string
	Clock      string    // "" if it is not known
	Label      drawnText // a word beneath it, "" if its number must do
	row        int       // in its lane
	// FromY is where an arrow to this mark begins: at the mark before it, if
	// that is another lane's at nearly the same time. 0 for none.
	FromX, FromY float64
}

type drawnGrace struct {
	X, Width, Deadline float64
	Top, Height        float64
	Last               bool
	Label              drawnText // of the deadline; of an earlier one "" if there is no room
}

// drawnText is a text that is kept inside the drawing.
type drawnText struct {
	X      float64
	Anchor string
	Text   string
}

func (t *Timeline) draw() drawing {
	marks := t.sorted()
	axis := newAxis(marks, t.Grace)
	d := drawing{
		Title: t.Title, Day: t.day(), Verdict: t.Verdict, Bad: t.Bad, Left: leftEdge, Right: axis.end(), Width: axis.end() + rightEdge,
	}
	d.place(marks, axis, t)
	top := topEdge
	for lane := range lanes {
		d.Lanes = append(d.Lanes, drawnLane{lane.String(), top + lanePad/2 + radius})
		rows := 1
		for i := range d.Marks {
			if marks[i].Lane == lane {
				d.Marks[i].Y = d.Lanes[lane].Y + float64(d.Marks[i].row)*rowHeight
				rows = max(rows, d.Marks[i].row+1)
			}
		}
		top += lanePad + float64(rows)*rowHeight
	}
	d.Height = top + bottomEdge
	for i := 1; i < len(marks); i++ {
		if marks[i-1].Lane < marks[i].Lane && marks[i].At-marks[i-1].At < 50*time.Millisecond {
			d.Marks[i].FromX, d.Marks[i].FromY = d.Marks[i-1].X, d.Marks[i-1].Y
		}
	}
	d.drawGrace(t.Grace, axis, t.origin(), top)
	right := math.Inf(-1)
	for _, m := range d.Marks {
		if tick := d.text(m.X, m.When); tick.left() >= right+gap {
			d.Ticks = append(d.Ticks, tick)
			right = tick.right()
		}
	}
	return d
}

// place puts each mark at its instant, in the first row of its lane that has room
// for it and its label: marks of one instant stand one below the other.
func (d *drawing) place(marks []Mark, axis axis, t *Timeline) {
	origin := t.origin()
	var taken [lanes][]float64 // right edges, by row
	for i, m := range marks {
		mark := drawnMark{
			Number: i + 1, X: axis.x(m.At), Kind: m.Kind.String(), Lane: m.Lane.String(),
			When: seconds(m.At - origin), Text: m.Text,
			Clock: t.clock(m.At),
		}
		half := radius
		if text := label(m); text != "" {
			mark.Label = d.text(mark.X, text)
			half = max(half, float64(len(text))*charWidth/2)
		}
		rows := &taken[m.Lane]
		for mark.row < len(*rows) && (*rows)[mark.row]+gap > mark.X-half {
			mark.row++
		}
		if mark.row == len(*rows) {
			*rows = append(*rows, 0)
		}
		(*rows)[mark.row] = mark.X + half
		d.Marks = append(d.Marks, mark)
	}
}

// drawGrace draws the grace periods. The last deadline has its label for sure,
// those before it where there is room.
func (d *drawing) drawGrace(all []Grace, axis axis, origin time.Duration, bottom float64) {
	left := math.Inf(1)
	d.Grace = make([]drawnGrace, len(all))
	for i := len(all) - 1; i >= 0; i-- {
		from, deadline := axis.x(all[i].From), axis.x(all[i].Deadline)
		g := drawnGrace{
			X: from, Width: deadline - from, Deadline: deadline, Top: topEdge, Height: bottom - topEdge, Last: i == len(all)-1,
		}
		if text := d.text(deadline, "deadline "+seconds(all[i].Deadline-origin)); text.right() <= left-gap {
			g.Label = text
			left = text.left()
		}
		d.Grace[i] = g
	}
}

// text centres a text at x, or moves it to the edge of the drawing.
func (d *drawing) text(x float64, text string) drawnText {
	half := float64(len(text)) * charWidth / 2
	switch {
	case x+half > d.Width-gap:
		return drawnText{d.Width - gap, "end", text}
	case x-half < gap:
		return drawnText{gap, "start", text}
	}
	return drawnText{x, "middle", text}
}

func (t drawnText) left() float64 {
	width := float64(len(t.Text)) * charWidth
	switch t.Anchor {
	case "end":
		return t.X - width
	case "start":
		return t.X
	}
	return t.X - width/2
}

func (t drawnText) right() float64 { return t.left() + float64(len(t.Text))*charWidth }

// label is the signal that a mark is about, or what else can be said in a word.
func label(m Mark) string {
	if m.Kind == Exit && m.Lane == Kernel {
		return "exit"
	}
	if m.Kind != Stop && m.Kind != Kill {
		return ""
	}
	_, name, found := strings.Cut(m.Text, "SIG")
	if !found {
		return ""
	}
	if end := strings.IndexFunc(name, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '+' && r != '-' }); end >= 0 {
		name = name[:end]
	}
	return name
}

// axis maps instants to pixels. A stop is a few milliseconds in which much
// happens and seconds in which nothing does; so the width of a gap grows with
// the logarithm of its length.
type axis struct {
	at []time.Duration // ascending
	xs []float64
}

func newAxis(marks []Mark, graces []Grace) axis {
	var at []time.Duration
	for _, m := range marks {
		at = append(at, m.At)
	}
	for _, g := range graces {
		at = append(at, g.From, g.Deadline)
	}
	if len(at) == 0 {
		at = []time.Duration{0}
	}
	at = sortedUnique(at)
	xs := make([]float64, len(at))
	for i := 1; i < len(at); i++ {
		xs[i] = xs[i-1] + 26 + 30*math.Log10(1+float64(at[i]-at[i-1])/float64(time.Millisecond))
	}
	// Short stories fill the page.
	stretch := 1.0
	if last := xs[len(xs)-1]; last > 0 && last < minWidth {
		stretch = minWidth / last
	}
	for i := range xs {
		xs[i] = leftEdge + 24 + xs[i]*stretch
	}
	return axis{at, xs}
}

// x is where an instant that is on the axis is drawn.
func (a axis) x(at time.Duration) float64 {
	for i := range a.at {
		if a.at[i] >= at {
			return math.Round(a.xs[i]*10) / 10
		}
	}
	return a.xs[len(a.xs)-1]
}

func (a axis) end() float64 { return a.xs[len(a.xs)-1] + 24 }
