package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
)

// smallDisk mounts a tmpfs of so many bytes, in the namespace of the tests: it is
// gone with them.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fill leaves no room on the disk that holds path, until release is called.
func fill(t *testing.T, path string) (release func()) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; size /= 2 {
		for {
			if _, err := file.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
	return func() { file.Close(); os.Remove(path) }
}

func numbered(from, to int) string {
	var b strings.Builder
	for n := from; n < to; n++ {
		fmt.Fprintf(&b, "%08d some output\n", n)
	}
	return b.String()
}

// A full disk, shorter than the spool lasts: nothing is lost.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, 4<<20)
	c := run(t, Options{Paths: []string{filepath.Join(disk, "log")}})
	c.says(numbered(0, 1000))
	release := fill(t, filepath.Join(disk, "ballast"))
	c.says(numbered(1000, 20000))
	c.says("no end yet")
	if want := "Failed to write log file " + filepath.Join(disk, "log") + ": No space left on device: " +
		"output is kept, at most 8388608 bytes a stream, and written when it can be"; len(c.warnings) != 1 || c.warnings[0] != want {
		t.Errorf("warnings are %q, want %q alone", c.warnings, want)
	}
	release()
	c.logs.tryAgain(lifecycle.Never)
	c.says(" and here\n" + numbered(20000, 20100))
	c.ends()
	got := content(c.read(filepath.Join(disk, "log")))
	if want := numbered(0, 20000) + "no end yet and here\n" + numbered(20000, 20100); got != want {
		t.Errorf("the log has %d bytes of output, want %d", len(got), len(want))
	}
	if len(c.warnings) != 2 || !strings.HasSuffix(c.warnings[1], " is written again") {
		t.Errorf("warnings are %q", c.warnings)
	}
}

// A full disk, longer than the spool lasts: the newest output is kept, from the
// beginning of a line on, and the log says how much is missing.
func TestFullDiskForLong(t *testing.T) {
	disk := smallDisk(t, 4<<20)
	log := filepath.Join(disk, "log")
	c := run(t, Options{Paths: []string{log}, SpoolMax: 1 << 20})
	c.says(numbered(0, 10))
	release := fill(t, filepath.Join(disk, "ballast"))
	c.says(numbered(10, 100000))
	if used := spoolPages(t, c); used > 2<<20 {
		t.Errorf("the spool has %d bytes of pages, want at most its limit and a batch", used)
	}
	release()
	c.logs.tryAgain(lifecycle.Never)
	c.says(numbered(100000, 100010))
	c.ends()
	if len(c.warnings) != 2 {
		t.Errorf("warnings are %q", c.warnings)
	}
	got := content(c.read(log))
	before, after, found := strings.Cut(got, "[gracerun: ")
	var missing int
	fmt.Sscanf(after, "%d bytes of output are missing here: the log could not be written]\n", &missing)
	_, after, _ = strings.Cut(after, "\n")
	all := numbered(0, 100010)
	if !found || before != numbered(0, 10) && !strings.HasPrefix(all, before) || !strings.HasSuffix(all, after) || len(after) < 1<<19 {
		t.Fatalf("the log has %d bytes before and %d after the gap", len(before), len(after))
	}
	if len(before)+missing+len(after) != len(all) {
		t.Errorf("the log says that %d bytes are missing; they are %d", missing, len(all)-len(before)-len(after))
	}
}

// spoolPages is how much memory the spool of stdout takes.
func spoolPages(t *testing.T, c *container) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(c.dir, "spool.stdout"), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// The disk is full of nothing but the state directory, or of both: the container
// goes on and loses nothing that the log can take.
func TestNoRoomForTheSpool(t *testing.T) {
	state := smallDisk(t, 640<<10)
	c := run(t, Options{Dir: openDir(t, state)})
	c.says(numbered(0, 10))
	release := fill(t, filepath.Join(state, "ballast"))
	c.says(numbered(10, 50000))
	c.logs.Tick()
	if !c.out.volatile {
		t.Error("the spool is in a state directory that has no room for it")
	}
	release()
	c.says(numbered(50000, 50010))
	c.logs.Tick()
	if c.out.volatile {
		t.Error("the spool is still in memory")
	}
	c.says(numbered(50010, 50020))
	c.ends()
	if got, want := content(c.read()), numbered(0, 50020); got != want {
		t.Errorf("the log has %d bytes of output, want %d", len(got), len(want))
	}
	if len(c.warnings) != 2 || !strings.HasPrefix(c.warnings[0], "No room in the state directory") {
		t.Errorf("warnings are %q, want two about the state directory", c.warnings)
	}
}

func TestNoRoomForAnything(t *testing.T) {
	disk := smallDisk(t, 512<<10)
	log := filepath.Join(disk, "log")
	c := run(t, Options{Dir: openDir(t, disk), Paths: []string{log}, SpoolMax: 64 << 10})
	release := fill(t, filepath.Join(disk, "ballast"))
	c.says(numbered(0, 50000)) // returns: the container is not held up
	release()
	c.logs.tryAgain(lifecycle.Never)
	c.says("at last\n")
	c.ends()
	if got := content(c.read(log)); !strings.HasSuffix(got, "at last\n") || !strings.Contains(got, "bytes of output are missing here") {
		t.Errorf("the log ends with %.200q", got[max(0, len(got)-200):])
	}
	if len(c.warnings) > 4 {
		t.Errorf("%d warnings: %q", len(c.warnings), c.warnings)
	}
}

// The state directory cannot take a cursor at all.
func TestNoRoomForTheCursor(t *testing.T) {
	state := smallDisk(t, 64<<10)
	release := fill(t, filepath.Join(state, "ballast"))
	defer release()
	c := run(t, Options{Dir: openDir(t, state)})
	c.says(numbered(0, 10000))
	c.ends()
	if got, want := content(c.read()), numbered(0, 10000); got != want {
		t.Errorf("the log has %d bytes of output, want %d", len(got), len(want))
	}
	if len(c.warnings) != 1 {
		t.Errorf("warnings are %q, want one", c.warnings)
	}
}

// The directory of the log goes away, and comes back.
func TestMissingDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	log := filepath.Join(dir, "log")
	os.Mkdir(dir, 0o700)
	c := run(t, Options{Paths: []string{log}})
	c.says("lost with its file\n")
	os.RemoveAll(dir)
	c.says("kept\n")
	c.logs.Reopen()
	c.says("kept too\n")
	if len(c.warnings) == 0 || len(c.warnings) > 2 {
		t.Errorf("warnings are %q", c.warnings)
	}
	os.Mkdir(dir, 0o700)
	c.logs.tryAgain(lifecycle.Never)
	c.says("again\n")
	c.ends()
	if got := c.read(log); got != "T stdout F kept\nT stdout F kept too\nT stdout F again\n" {
		t.Errorf("log is %q", got)
	}
}

func TestDamagedCursor(t *testing.T) {
	c := run(t, Options{})
	c.says("one\n")
	c.logs.Close()
	cursor := filepath.Join(c.dir, "cursor")
	b, _ := os.ReadFile(cursor)
	b[0]++
	os.WriteFile(cursor, b, 0o600)
	c.open()
	c.says("two\n")
	c.ends()
	if got := c.read(); got != "T stdout F one\nT stdout F two\n" {
		t.Errorf("log is %q", got)
	}
	if len(c.warnings) != 1 || !strings.Contains(c.warnings[0], "damaged") {
		t.Errorf("warnings are %q", c.warnings)
	}
}

// A successor that cannot open the log takes the container over all the same.
func TestSuccessorWithoutLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	os.Mkdir(dir, 0o700)
	c := run(t, Options{Paths: []string{filepath.Join(dir, "log")}})
	c.says("one\n")
	c.logs.Close()
	os.Rename(dir, dir+".away")
	c.open()
	c.says("two\n")
	os.Rename(dir+".away", dir)
	c.logs.tryAgain(lifecycle.Never)
	c.ends()
	if got := c.read(filepath.Join(dir, "log")); got != "T stdout F one\nT stdout F two\n" {
		t.Errorf("log is %q", got)
	}
	if len(c.warnings) != 2 {
		t.Errorf("warnings are %q", c.warnings)
	}
}
