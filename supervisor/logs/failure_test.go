package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs/spool"
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
	c := run(t, Options{Targets: toFile(filepath.Join(disk, "log"))})
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
	c := run(t, Options{Targets: toFile(log), SpoolMax: 1 << 20})
	c.says(numbered(0, 10))
	release := fill(t, filepath.Join(disk, "ballast"))
	c.says(numbered(10, 100000))
	if used := spoolPages(t, c); used > 2<<20 {
		t.Errorf("the spool has %d bytes of pages, want at most its limit and a batch", used)
	}
	release()
	c.logs.tryAgain(lifecycle.Never)
	c.says(numbered(100000, 100010))
	totals := c.logs.cursor.Totals()
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
	if totals.Lost != int64(missing) {
		t.Errorf("the cursor says that %d bytes are missing, the log %d", totals.Lost, missing)
	}
	if len(before)+missing+len(after) != len(all) {
		t.Errorf("the log says that %d bytes are missing; they are %d", missing, len(all)-len(before)-len(after))
	}
}

// A container ends over a full disk, and nobody waits any longer: what is still owed to
// the log counts as lost.
func TestForgo(t *testing.T) {
	disk := smallDisk(t, 4<<20)
	c := run(t, Options{Targets: toFile(filepath.Join(disk, "log"))})
	c.says(numbered(0, 10))
	defer fill(t, filepath.Join(disk, "ballast"))()
	c.says(numbered(10, 20000))
	unix.Close(c.pipe)
	c.out.Drain()
	c.logs.Finish()
	owed := c.logs.Owed()
	if totals := c.logs.cursor.Totals(); owed == 0 || totals.Lost != 0 {
		t.Fatalf("%d bytes are owed, %d are lost already", owed, totals.Lost)
	}
	c.logs.Forgo()
	if totals := c.logs.cursor.Totals(); totals.Lost != owed {
		t.Errorf("%d bytes are lost, want the %d that were owed", totals.Lost, owed)
	}
	c.logs.Close()
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
	c := run(t, Options{Dir: openDir(t, disk), Targets: toFile(log), SpoolMax: 64 << 10})
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
	c := run(t, Options{Targets: toFile(log)})
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
	c := run(t, Options{Targets: toFile(filepath.Join(dir, "log"))})
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

// What a container leaves behind may write faster than its log can be written.
func TestDrainEndsWhileTheContainerWrites(t *testing.T) {
	for name, targets := range map[string][]Target{"k8s-file": nil, "none": nowhere} {
		t.Run(name, func(t *testing.T) {
			c := run(t, Options{Targets: targets})
			text, wrote := []byte(numbered(0, 40000)), 0
			refill := func([]byte) {
				for wrote < 100<<20 {
					n, err := unix.Write(c.pipe, text)
					if wrote += max(n, 0); err != nil {
						return
					}
				}
			}
			c.out.Sink = refill
			if _, err := unix.FcntlInt(uintptr(c.pipe), unix.F_SETPIPE_SZ, bigPipe); err != nil {
				t.Fatal(err)
			}
			refill(nil)
			c.out.Drain()
			if wrote >= 100<<20 {
				t.Error("Drain has returned only when the container had nothing more to say")
			}
			c.out.Sink = nil
			c.out.Drain()
			unix.Close(c.pipe)
			c.out.Drain()
			if !c.out.Drain() {
				t.Error("the end of the stream was not seen")
			}
			c.logs.Finish()
			c.logs.Close()
		})
	}
}

// Where the state directory is full, the beginning of a line goes to memory with
// what follows.
func TestNoRoomWithinALine(t *testing.T) {
	j := startJournal(t, t.TempDir()+"/socket")
	state := smallDisk(t, 1<<20)
	c := run(t, Options{Targets: toJournal, ID: testID, JournalSocket: j.path, Dir: openDir(t, state)})
	c.says("begin ")
	release := fill(t, filepath.Join(state, "ballast"))
	if c.says(strings.Repeat("middle ", 1000)); !c.out.volatile {
		t.Error("Drain has left something in the pipe")
	}
	if n := c.logs.Carried(); n != 7006 || c.logs.Kept() {
		t.Errorf("it carries %d bytes", n)
	}
	c.says("and end\n")
	release()
	c.logs.Tick()
	c.says("last, without an end")
	if n := c.logs.Carried(); n != 0 || !c.logs.Kept() {
		t.Errorf("with room it carries %d bytes", n)
	}
	c.ends()
	if got, want := strings.Join(j.all(), "|"), "begin "+strings.Repeat("middle ", 1000)+"and end\n|last, without an end"; got != want {
		t.Errorf("the journal has %.1000q", got)
	}
}

// There is no room in the state directory, and no descriptor for a spool in
// memory, from some moment on or from the beginning.
func TestNoRoomAndNoDescriptor(t *testing.T) {
	state := smallDisk(t, 640<<10)
	c := run(t, Options{Dir: openDir(t, state)})
	c.says(numbered(0, 10))
	release := fill(t, filepath.Join(state, "ballast"))
	// More warnings than there can be reasons for: it would go on for ever.
	warn := c.logs.options.Warn
	c.logs.options.Warn = func(text string) {
		if warn(text); len(c.warnings) > 20 {
			panic(text)
		}
	}
	withoutDescriptors(t, func() { c.says(numbered(10, 50000)) })
	c.logs.options.Warn = warn
	release()
	c.says("at last\n")
	c.ends()
	if got := content(c.read()); !strings.HasPrefix(got, numbered(0, 10)) || !strings.HasSuffix(got, "at last\n") || !strings.Contains(got, "bytes of output are missing here") {
		t.Errorf("the log ends with %.200q", got[max(0, len(got)-200):])
	}
}

func TestNoDescriptorForTheSpool(t *testing.T) {
	c := run(t, Options{})
	withoutDescriptors(t, func() {
		c.logs.streams[Stdout] = nil
		c.out = c.logs.Stream(Stdout, c.out.fd, false)
		c.says("lost\n")
	})
	if c.logs.Due() == lifecycle.Never {
		t.Error("it does not look for descriptors again")
	}
	c.logs.Tick()
	c.says("at last\n")
	c.ends()
	if got, want := content(c.read()), "[gracerun: 5 bytes of output are missing here: the log could not be written]\nat last\n"; got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
}

// withoutDescriptors does something while this process gets no descriptors.
func withoutDescriptors(t *testing.T, do func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	none := before
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	do()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
}

// A successor that cannot see what became of the last write, for so long that
// what was written is given up: that is neither written again nor said to be nothing.
func TestUnsettledForLong(t *testing.T) {
	for _, done := range []bool{false, true} {
		t.Run("written="+strconv.FormatBool(done), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "logs")
			os.Mkdir(dir, 0o700)
			log := filepath.Join(dir, "log")
			c := run(t, Options{Targets: toFile(log), SpoolMax: 1 << 20})
			if done {
				c.says("one\n")
			}
			var st unix.Stat_t
			if err := unix.Stat(log, &st); err != nil {
				t.Fatal(err)
			}
			intent := spool.Intent{To: 4, Dev: st.Dev, Ino: st.Ino, Bytes: prefixLen + 4, Total: prefixLen + 4}
			c.logs.Close()
			os.WriteFile(filepath.Join(c.dir, "spool.stdout"), []byte("one\n"), 0o600)
			cursor, err := spool.OpenCursor(c.options.Dir)
			if err != nil {
				t.Fatal(err)
			}
			cursor.SetPos(0, 0, 0, false)
			cursor.Begin(0, &intent)
			cursor.Close()
			os.Rename(dir, dir+".away")
			c.open()
			c.says(numbered(0, 200_000))
			os.Rename(dir+".away", dir)
			c.logs.tryAgain(lifecycle.Never)
			c.ends()
			all := "one\n" + numbered(0, 200_000)
			got := content(c.read(log))
			before, after, _ := strings.Cut(got, "[gracerun: ")
			number, after, found := strings.Cut(after, " bytes of output are missing here: the log could not be written]\n")
			missing, _ := strconv.Atoi(number)
			if !found || before != all[:len(before)] || !strings.HasSuffix(all, after) || (before != "") != done {
				t.Fatalf("the log has %q before and %d bytes after the gap of %d", before, len(after), missing)
			}
			if gap := len(all) - len(before) - len(after); missing < gap || missing > gap+4 {
				t.Errorf("the log says that %d bytes are missing; they are %d", missing, gap)
			}
		})
	}
}
