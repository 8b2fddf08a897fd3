// Package progress tells people how far something has come that takes longer than
// two seconds, and how long it will still take: on a terminal by one line that is
// written again and again, elsewhere by a line every ten seconds.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	silence  = 2 * time.Second // nothing is said of what is over sooner
	redraw   = time.Second / 4
	interval = 10 * time.Second // between two lines where there is no terminal
	barWidth = 24
)

// Line is the progress of one undertaking. All its methods can be called by several
// goroutines at once. A nil *Line says nothing.
type Line struct {
	out   io.Writer
	live  bool // out is a terminal: the line is rewritten
	wide  func() int
	begin time.Time

	mu    sync.Mutex
	share float64 // what is done, of 1; negative: nobody knows how much there is to do
	note  string
	drawn bool // the line stands there
	said  time.Time
	over  chan struct{}
	ended sync.WaitGroup
}

// Start begins one that is told to f, mostly os.Stderr.
func Start(f *os.File) *Line {
	return start(f, IsTerminal(f), func() int {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			return int(size.Col)
		}
		return 80
	}, redraw)
}

// ForSoak begins one for a long test: on the terminal that `make soak` was called from,
// since `go test` keeps what tests print until they end. It is nil without one, and
// where GRACERUN_SOAK is not set.
func ForSoak() *Line {
	if os.Getenv("GRACERUN_SOAK") == "" {
		return nil
	}
	f, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0)
	if err != nil {
		return nil
	}
	return Start(f) // the test's process ends soon after it
}

func start(out io.Writer, live bool, wide func() int, every time.Duration) *Line {
	l := &Line{out: out, live: live, wide: wide, begin: time.Now(), over: make(chan struct{})}
	l.said = l.begin
	l.ended.Go(func() {
		for tick := time.NewTicker(every); ; {
			select {
			case <-l.over:
				tick.Stop()
				return
			case <-tick.C:
				l.mu.Lock()
				l.tell()
				l.mu.Unlock()
			}
		}
	})
	return l
}

// IsTerminal reports whether f is one.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Set says what share of the work is done, from 0 to 1, or less than 0 where nobody knows
// how much there is, and in a few words how far it has come.
func (l *Line) Set(share float64, format string, args ...any) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.share, l.note = min(share, 1), fmt.Sprintf(format, args...)
}

// Count says that so many of all are done.
func (l *Line) Count(done, all int, what string) {
	l.Set(float64(done)/float64(max(all, 1)), "%d of %d %s", done, all, what)
}

// Aside has something else printed to the same terminal: the line is taken away, and
// comes again.
func (l *Line) Aside(print func()) {
	if l == nil {
		print()
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.erase()
	print()
}

// End takes the line away.
func (l *Line) End() {
	if l == nil {
		return
	}
	l.mu.Lock()
	select {
	case <-l.over:
	default:
		close(l.over)
	}
	l.erase()
	l.mu.Unlock()
	l.ended.Wait()
}

func (l *Line) erase() {
	if l.drawn {
		_, _ = io.WriteString(l.out, "\r\x1b[K")
		l.drawn = false
	}
}

// tell writes the line, if it is time.
func (l *Line) tell() {
	now := time.Now()
	select {
	case <-l.over:
		return
	default:
	}
	if l.note == "" || now.Sub(l.begin) < silence {
		return
	}
	text := l.text(now.Sub(l.begin))
	switch {
	case l.live:
		if runes := []rune(text); len(runes) >= l.wide() { // one that is broken cannot be taken away
			text = string(runes[:max(l.wide()-1, 0)])
		}
		_, _ = io.WriteString(l.out, "\r\x1b[K"+text)
		l.drawn = true
	case now.Sub(l.said) >= interval:
		_, _ = io.WriteString(l.out, text+"\n")
		l.said = now
	}
}

// text is the line after so much time.
func (l *Line) text(gone time.Duration) string {
	var b strings.Builder
	if l.share >= 0 && l.live {
		full := int(barWidth * l.share)
		b.WriteString("[" + strings.Repeat("█", full) + strings.Repeat("·", barWidth-full) + "] ")
	}
	b.WriteString(span(gone))
	if l.share > 0 {
		left := time.Duration(float64(gone) * (1 - l.share) / l.share)
		b.WriteString(", about " + span(left) + " left")
	}
	return b.String() + ": " + l.note // which may be cut, unlike the rest
}

// span writes a time for people: "7 s", "2 min 05 s", "1 h 02 min".
func span(d time.Duration) string {
	switch s := int64(d.Round(time.Second) / time.Second); {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %02d s", s/60, s%60)
	default:
		return fmt.Sprintf("%d h %02d min", s/3600, s%3600/60)
	}
}
