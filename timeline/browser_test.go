package timeline

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// crowded is a stop in which much happens at one instant, of a container with an
// id of 64 digits, and something at the very end.
func crowded() *Timeline {
	t := example()
	t.Title = strings.Repeat("0123456789abcdef", 4)
	t.Wall = time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	base := 5 * time.Hour
	for range 3 {
		t.Add(base+time.Second, Caller, Kill, "a second caller: kill web KILL")
		t.Add(base+time.Second+time.Millisecond, Monitor, Kill, "SIGKILL is sent")
		t.Add(base+time.Second+time.Millisecond, Monitor, Breach, "early-kill: SIGKILL 2 s before the grace period is over")
	}
	t.Grace = append(t.Grace, Grace{base + 2*time.Millisecond, base + 2900*time.Millisecond}, Grace{base + 2*time.Millisecond, base + 2899*time.Millisecond})
	t.Add(base+4*time.Second, Container, Stop, "got SIGTERM")
	return t
}

// look is what the browser finds in one page.
type look struct {
	Width   int      // of the window
	Dark    bool     // it asked for the dark colours
	Wide    int      // of the page
	Marks   int      // that are drawn
	Hidden  []string // marks, two by two, that cover each other
	Outside []string // texts that leave their drawing, or collide
	Faint   []string // texts of too little contrast (WCAG 2.1, 1.4.3: 4.5)
}

// The script measures the page in each frame. Colours are read by drawing them.
const measure = `
function contrast(a, b) {
  const c = document.createElement('canvas').getContext('2d');
  const lum = color => { c.fillStyle = color; c.fillRect(0, 0, 1, 1);
    const [r, g, bl] = [...c.getImageData(0, 0, 1, 1).data].map(v => { v /= 255; return v <= .03928 ? v / 12.92 : Math.pow((v + .055) / 1.055, 2.4) });
    return .2126 * r + .7152 * g + .0722 * bl };
  const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p);
  return (x + .05) / (y + .05);
}
function overlaps(a, b) { return a.left < b.right - .5 && b.left < a.right - .5 && a.top < b.bottom - .5 && b.top < a.bottom - .5 }
function inspect(frame) {
  const w = frame.contentWindow, d = w.document, out = { Width: w.innerWidth, Dark: w.matchMedia('(prefers-color-scheme: dark)').matches,
    Wide: d.documentElement.scrollWidth, Marks: 0, Hidden: [], Outside: [], Faint: [] };
  for (const svg of d.querySelectorAll('svg')) {
    const edge = svg.getBoundingClientRect(), marks = [...svg.querySelectorAll('circle')];
    out.Marks += marks.length;
    marks.forEach((m, i) => marks.slice(i + 1).forEach(n => {
      const a = m.getBoundingClientRect(), b = n.getBoundingClientRect();
      if (overlaps(a, b)) out.Hidden.push(m.parentNode.textContent + ' / ' + n.parentNode.textContent) }));
    const texts = [...svg.querySelectorAll('text:not(.number)')].map(t => [t.textContent, t.getBoundingClientRect()]);
    texts.forEach(([text, r], i) => {
      if (r.left < edge.left || r.right > edge.right || r.top < edge.top || r.bottom > edge.bottom) out.Outside.push(text);
      texts.slice(i + 1).forEach(([other, q]) => { if (overlaps(r, q)) out.Outside.push(text + ' / ' + other) }) });
  }
  for (const e of d.querySelectorAll('h1, h2, p, td, .label, .when, .dl, .name, .number')) {
    if (!e.textContent.trim()) continue;
    const style = w.getComputedStyle(e), color = e.closest('svg') ? style.fill : style.color;
    let ground = e; while (ground && w.getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
    const band = d.querySelector('.band'), under = e.matches('.number') ? w.getComputedStyle(e.parentNode.querySelector('circle')).fill :
      e.matches('.label') && band ? w.getComputedStyle(band).fill : w.getComputedStyle(ground).backgroundColor;
    if (contrast(color, under) < 4.5) out.Faint.push(e.textContent.trim().slice(0, 30) + ' ' + color + ' on ' + under);
  }
  return out;
}
addEventListener('load', () => { document.querySelector('#found').textContent = JSON.stringify([...document.querySelectorAll('iframe')].map(inspect)) });
`

// The page is looked at in three widths, light and dark: nothing is wider than
// the window, hidden behind something else, cut off or faint.
func TestInBrowser(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed (make deps)")
	}
	var page bytes.Buffer
	lines := []*Timeline{crowded(), example()}
	if err := HTML(&page, crowded().Title+" · ours", lines...); err != nil {
		t.Fatal(err)
	}
	var harness strings.Builder
	harness.WriteString("<!doctype html><meta charset=utf-8><script>" + measure + "</script><pre id=found></pre>")
	widths := []int{360, 768, 1280}
	for _, width := range widths {
		fmt.Fprintf(&harness, `<iframe style="border:0;width:%dpx;height:1200px" srcdoc="%s"></iframe>`, width, html.EscapeString(page.String()))
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "page.html")
	if err := os.WriteFile(file, []byte(harness.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	for scheme, dark := range map[string]bool{"0": true, "1": false} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+filepath.Join(dir, scheme),
			"--window-size=1400,1300", "--blink-settings=preferredColorScheme="+scheme, "--timeout=60000", "--dump-dom", "file://"+file)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, &stderr)
		}
		_, found, ok := strings.Cut(string(out), `<pre id="found">`)
		found, _, _ = strings.Cut(found, "</pre>")
		var looks []look
		if err := json.Unmarshal([]byte(html.UnescapeString(found)), &looks); !ok || err != nil {
			t.Fatalf("the browser measured nothing (%v): %.500s\n%s", err, out, &stderr)
		}
		if len(looks) != len(widths) {
			t.Fatalf("%d pages were looked at", len(looks))
		}
		for i, l := range looks {
			if l.Width != widths[i] || l.Dark != dark {
				t.Fatalf("page %d is %d wide, dark: %v", i, l.Width, l.Dark)
			}
			if want := len(lines[0].Marks) + len(lines[1].Marks); l.Marks != want {
				t.Errorf("%d marks are drawn, want %d", l.Marks, want)
			}
			if l.Wide > l.Width {
				t.Errorf("the page is %d wide in a window of %d", l.Wide, l.Width)
			}
			if len(l.Hidden)+len(l.Outside)+len(l.Faint) > 0 {
				t.Errorf("width %d, dark %v:\nhidden: %q\noutside or colliding: %q\nfaint: %q", l.Width, dark, l.Hidden, l.Outside, l.Faint)
			}
		}
	}
}
