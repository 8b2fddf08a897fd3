package logs

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Of a full log without --log-rotate nothing is kept.
func TestSizeMaxDrops(t *testing.T) {
	const line = prefixLen + 6 // "line1\n"
	c := run(t, Options{SizeMax: 2 * line})
	for n := range 5 {
		c.says("line" + strconv.Itoa(n) + "\n")
	}
	c.ends()
	if got := c.read(); got != "T stdout F line4\n" {
		t.Errorf("log is %q", got)
	}
	if _, err := os.Stat(c.log() + ".tmp"); err == nil {
		t.Error("the temporary file was left")
	}
}

func TestSizeMaxWithinOneRead(t *testing.T) {
	const line = prefixLen + 6
	c := run(t, Options{SizeMax: 2 * line, Rotate: true, MaxFiles: 2})
	c.says("line0\nline1\nline2\nline3\nline4\nline5\nline6\n")
	c.ends()
	for name, want := range map[string]string{
		c.log():        "T stdout F line6\n",
		c.log() + ".1": "T stdout F line4\nT stdout F line5\n",
		c.log() + ".2": "T stdout F line2\nT stdout F line3\n",
	} {
		if got := c.read(name); got != want {
			t.Errorf("%s is %q, want %q", filepath.Base(name), got, want)
		}
	}
	if names, _ := filepath.Glob(c.log() + "*"); len(names) != 3 {
		t.Errorf("files are %q", names)
	}
}

// A line that is larger than the limit gets a file of its own.
func TestLineLargerThanSizeMax(t *testing.T) {
	c := run(t, Options{SizeMax: 10, Rotate: true, MaxFiles: 3})
	c.says("one\ntwo\n")
	c.ends()
	if got := c.read() + c.read(c.log()+".1"); got != "T stdout F two\nT stdout F one\n" {
		t.Errorf("logs are %q", got)
	}
}

// The size of a log that was there before counts.
func TestSizeMaxOfAnOldLog(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	os.WriteFile(log, []byte(strings.Repeat("x", 99)+"\n"), 0o640)
	c := run(t, Options{Targets: toFile(log), SizeMax: 120, Rotate: true, MaxFiles: 1})
	c.says("new\n")
	c.ends()
	if got := c.read(log); got != "T stdout F new\n" {
		t.Errorf("log is %q", got)
	}
}

// conmon ends a log with the line that reaches the limit.
func TestGlobalSizeMax(t *testing.T) {
	const line = prefixLen + 6
	c := run(t, Options{SizeMax: 2 * line, GlobalSizeMax: 3*line - 1, Rotate: true, MaxFiles: 5})
	for n := range 5 {
		c.says("line" + strconv.Itoa(n) + "\n")
	}
	c.logs.Close()
	c.open() // a successor goes on counting
	c.says("more!\n")
	c.ends()
	if got := c.read(c.log()+".1", c.log()); got != "T stdout F line0\nT stdout F line1\nT stdout F line2\n" {
		t.Errorf("logs are %q", got)
	}
}

func TestReopen(t *testing.T) {
	for name, test := range map[string]struct {
		options Options
		moved   bool
		want    map[string]string
	}{
		"in place":       {Options{}, false, map[string]string{"log": "T stdout F old\nT stdout F new\n"}},
		"moved":          {Options{}, true, map[string]string{"log": "T stdout F new\n", "log.moved": "T stdout F old\n"}},
		"rotate":         {Options{Rotate: true, MaxFiles: 1}, false, map[string]string{"log": "T stdout F new\n", "log.1": "T stdout F old\n"}},
		"rotate, moved":  {Options{Rotate: true, MaxFiles: 1}, true, map[string]string{"log": "T stdout F new\n", "log.moved": "T stdout F old\n"}},
		"journald alone": {Options{Targets: nowhere}, false, map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			c := run(t, test.options)
			c.says("old\n")
			if test.moved {
				os.Rename(c.log(), c.log()+".moved")
			}
			c.logs.Reopen()
			c.says("new\n")
			c.ends()
			names, _ := filepath.Glob(c.log() + "*")
			if len(names) != len(test.want) {
				t.Errorf("files are %q", names)
			}
			for name, want := range test.want {
				if got := c.read(filepath.Join(c.dir, name)); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if len(c.warnings) > 0 {
				t.Errorf("warnings are %q", c.warnings)
			}
		})
	}
}

// CRI-O waits for an event of the log, and for nothing else.
func TestReopenIsSeen(t *testing.T) {
	for name, moved := range map[string]bool{"in place": false, "moved": true} {
		t.Run(name, func(t *testing.T) {
			c := run(t, Options{})
			c.says("old\n")
			if moved {
				os.Rename(c.log(), c.log()+".moved")
			}
			watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(watch)
			if _, err := unix.InotifyAddWatch(watch, c.dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MODIFY); err != nil {
				t.Fatal(err)
			}
			c.logs.Reopen()
			events := make([]byte, 4096)
			n, err := unix.Read(watch, events)
			if err != nil || !strings.Contains(string(events[:n]), filepath.Base(c.log())+"\x00") {
				t.Errorf("a watcher sees %q, %v", events[:max(n, 0)], err)
			}
			c.ends()
		})
	}
}

// A supervisor that was killed in a rotation: its successor pushes out nothing.
func TestInterruptedRotation(t *testing.T) {
	c := run(t, Options{Rotate: true, MaxFiles: 2})
	c.says("three\n")
	os.WriteFile(c.log()+".2", []byte("two\n"), 0o640) // was .1; the rename of the log did not come
	os.WriteFile(c.log()+".new", nil, 0o640)
	c.logs.Reopen()
	c.says("four\n")
	c.ends()
	if got := c.read(c.log()+".2", c.log()+".1", c.log()); got != "two\nT stdout F three\nT stdout F four\n" {
		t.Errorf("logs are %q", got)
	}
	if _, err := os.Stat(c.log() + ".new"); err == nil {
		t.Error("log.new was left")
	}
}

// A log that cannot be replaced grows on.
func TestRotationThatFails(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "log")
	os.WriteFile(real, nil, 0o640)
	os.Symlink(real, link)
	c := run(t, Options{Targets: toFile(link), SizeMax: 60, Rotate: true, MaxFiles: 1})
	c.says("one\ntwo\nthree\n")
	c.says("four\n")
	c.ends()
	if got := c.read(real); got != "T stdout F one\nT stdout F two\nT stdout F three\nT stdout F four\n" {
		t.Errorf("log is %q", got)
	}
	if len(c.warnings) != 1 || !strings.Contains(c.warnings[0], "Log path is a symbolic link") {
		t.Errorf("warnings are %q, want one", c.warnings)
	}
}

// A log that somebody has deleted is made again, as soon as there is output.
func TestDeletedLog(t *testing.T) {
	c := run(t, Options{})
	c.says("one\n")
	os.Remove(c.log())
	c.says("two\n")
	c.ends()
	if got := c.read(); got != "T stdout F two\n" {
		t.Errorf("log is %q", got)
	}
}
