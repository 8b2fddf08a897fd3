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
	laneHeight = 58.0
	leftEdge   = 110.0
	rightEdge  = 40.0
	topEdge    = 46.0
	minWidth   = 960.0
)

// drawing is a timeline with everything in its place.
type drawing struct {
	Title         string
	Verdict       string
	Bad           bool
	Width, Height float64
	Left, Right   float64
	Lanes         []drawnLane
	Marks         []drawnMark
	Grace         []drawnGrace
	Ticks         []drawnTick
}

type drawnLane struct {
	Name string
	Y    float64
}

type drawnMark struct {
	Number     int
	X, Y       float64
	Kind, Lane string
	When, Text string
	Label      string // a word beneath it, "" if its number must do
	// FromY is where an arrow to this mark begins: at the mark before it, if
	// that is another lane's at nearly the same time. 0 for none.
	FromX, FromY float64
}

type drawnGrace struct {
	X, Width, Deadline float64
	Top, Height        float64
	When               string
	Last               bool
}

type drawnTick struct {
	X    float64
	When string
}

func (t *Timeline) draw() drawing {
	marks := t.sorted()
	axis := newAxis(marks, t.Grace)
	d := drawing{
		Title: t.Title, Verdict: t.Verdict, Bad: t.Bad, Left: leftEdge, Right: axis.end(),
		Width: axis.end() + rightEdge, Height: topEdge + float64(lanes)*laneHeight + 34,
	}
	for lane := Lane(0); lane < lanes; lane++ {
		d.Lanes = append(d.Lanes, drawnLane{lane.String(), laneY(lane)})
	}
	origin := t.origin()
	for i, g := range t.Grace {
		x := axis.x(g.From)
		d.Grace = append(d.Grace, drawnGrace{
			X: x, Width: axis.x(g.Deadline) - x, Deadline: axis.x(g.Deadline),
			Top: topEdge, Height: float64(lanes) * laneHeight,
			When: seconds(g.Deadline - origin), Last: i == len(t.Grace)-1,
		})
	}
	lastTick := math.Inf(-1)
	for i, m := range marks {
		mark := drawnMark{
			Number: i + 1, X: axis.x(m.At), Y: laneY(m.Lane), Kind: m.Kind.String(), Lane: m.Lane.String(),
			When: seconds(m.At - origin), Text: m.Text, Label: label(m),
		}
		if i > 0 && marks[i-1].Lane < m.Lane && m.At-marks[i-1].At < 50*time.Millisecond {
			mark.FromX, mark.FromY = axis.x(marks[i-1].At), laneY(marks[i-1].Lane)
		}
		d.Marks = append(d.Marks, mark)
		if mark.X-lastTick >= 64 {
			d.Ticks = append(d.Ticks, drawnTick{mark.X, mark.When})
			lastTick = mark.X
		}
	}
	return d
}

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

func laneY(l Lane) float64 { return topEdge + (float64(l)+0.5)*laneHeight }

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
