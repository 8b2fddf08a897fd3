package logs

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// container is a pipe as a container's stdout, with logs on the other end.
type container struct {
	t        *testing.T
	dir      string
	warnings []string
	logs     *Logs
	out      *Stream
	pipe     int // the container's end
	options  Options
}

// Targets: no log at all, a file of the default driver, the journal.
var nowhere, toJournal = []Target{{Driver: "none"}}, []Target{{Driver: "journald"}}

func toFile(path string) []Target { return []Target{{"k8s-file", path}} }

// run opens logs with the options on a state directory of its own.
func run(t *testing.T, o Options) *container {
	t.Helper()
	c := &container{t: t, dir: t.TempDir()}
	if o.Targets == nil {
		o.Targets = toFile(c.log())
	}
	if o.Dir == 0 {
		o.Dir = openDir(t, c.dir)
	}
	o.Warn = func(text string) { c.warnings = append(c.warnings, text) }
	c.options = o
	c.open()
	return c
}

func (c *container) open() {
	c.t.Helper()
	l, err := Open(c.options)
	if err != nil {
		c.t.Fatal(err)
	}
	read, write := pipe(c.t)
	c.logs, c.out, c.pipe = l, l.Stream(Stdout, read, false), write
}

func (c *container) file() *file { return c.logs.logs[0].log.(*file) }

func (c *container) journal() *journald { return c.logs.logs[0].log.(*journald) }

func (c *container) log() string { return filepath.Join(c.dir, "log") }

func openDir(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func pipe(t *testing.T) (read, write int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return fds[0], fds[1]
}

// says has the container write something, all of which the pipe takes, and the
// logs read it.
func (c *container) says(text string) {
	c.t.Helper()
	for len(text) > 0 {
		n, err := unix.Write(c.pipe, []byte(text))
		if err != nil && err != unix.EAGAIN {
			c.t.Fatal(err)
		}
		text = text[max(n, 0):]
		c.out.Drain()
	}
}

// ends closes the container's end.
func (c *container) ends() {
	c.t.Helper()
	unix.Close(c.pipe)
	if !c.out.Drain() {
		c.t.Error("the end of the stream was not seen")
	}
	c.logs.Finish()
	c.logs.Close()
}

// read gives the log with T for each time stamp.
func (c *container) read(names ...string) string {
	c.t.Helper()
	var all string
	for _, name := range append(names, c.log())[:max(1, len(names))] {
		b, err := os.ReadFile(name)
		if err != nil {
			c.t.Fatal(err)
		}
		all += string(b)
	}
	return masked(all)
}

var timestamp = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}[+-]\d\d:\d\d `)

func masked(log string) string { return timestamp.ReplaceAllString(log, "T ") }

// content is what the container wrote, as a reader of the log puts it together.
func content(log string) string {
	var b strings.Builder
	for _, line := range strings.SplitAfter(masked(log), "\n") {
		if line == "" {
			continue
		}
		tag, text := line[len("T stdout ")], line[len("T stdout F "):]
		if tag == 'P' {
			text = strings.TrimSuffix(text, "\n")
		}
		b.WriteString(text)
	}
	return b.String()
}

func TestLinesAreWrittenAsConmonDoes(t *testing.T) {
	long := strings.Repeat("x", 20000)
	for name, test := range map[string]struct{ said, want string }{
		"line":              {"hello\n", "T stdout F hello\n"},
		"lines":             {"a\nb\n", "T stdout F a\nT stdout F b\n"},
		"empty line":        {"\n", "T stdout F \n"},
		"no end":            {"a\nb", "T stdout F a\nT stdout P b\n"},
		"NUL":               {"a\x00b\n", "T stdout F a\x00b\n"},
		"longer than 8192":  {long + "\n", "T stdout P " + long[:8192] + "\nT stdout P " + long[:8192] + "\nT stdout F " + long[:20000-16384] + "\n"},
		"8191 and newline":  {long[:8191] + "\n", "T stdout F " + long[:8191] + "\n"},
		"8192 and newline":  {long[:8192] + "\n", "T stdout P " + long[:8192] + "\nT stdout F \n"},
		"8192 without":      {long[:8192], "T stdout P " + long[:8192] + "\n"},
		"carriage returns":  {"a\r\nb\r", "T stdout F a\r\nT stdout P b\r\n"},
		"not what is UTF-8": {"\xff\xfe\n", "T stdout F \xff\xfe\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c := run(t, Options{})
			c.says(test.said)
			c.ends()
			if got := c.read(); got != test.want {
				t.Errorf("log is\n%.300q, want\n%.300q", got, test.want)
			}
		})
	}
}

func TestSinkHasEverythingOnceAndInOrder(t *testing.T) {
	c := run(t, Options{})
	var got bytes.Buffer
	c.out.Sink = func(b []byte) { got.Write(b) }
	said := strings.Repeat("one line and another\n", 30000)
	c.says(said)
	c.ends()
	if got.String() != said {
		t.Errorf("Sink was given %d bytes, want the %d that were said", got.Len(), len(said))
	}
	if content(c.read()) != said {
		t.Error("the log has something else")
	}
}
