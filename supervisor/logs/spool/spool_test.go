package spool

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func openDir(t *testing.T) (int, string) {
	t.Helper()
	path := t.TempDir()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd, path
}

func TestSpoolHoldsWhatThePipeLost(t *testing.T) {
	dir, path := openDir(t)
	s, err := Open(dir, "spool")
	if err != nil {
		t.Fatal(err)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Fill(p[0], 100, 0); err != unix.EAGAIN {
		t.Errorf("Fill from an empty pipe: %v", err)
	}
	unix.Write(p[1], []byte("hello, world"))
	if n, _, err := s.Fill(p[0], 5, 0); n != 5 || err != nil {
		t.Errorf("Fill: %d, %v", n, err)
	}
	s.Close()
	if s, err = Open(dir, "spool"); err != nil || s.Size() != 5 {
		t.Fatalf("opened again: %v, size %d", err, s.Size())
	}
	if n, _, err := s.Fill(p[0], 100, 0); n != 7 || err != nil {
		t.Errorf("Fill: %d, %v", n, err)
	}
	if err := s.Put([]byte("!")); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 100)
	if b, err := s.Read(buf, 7); string(b) != "world!" || err != nil {
		t.Errorf("Read: %q, %v", b, err)
	}
	if b, err := s.Read(buf[:3], 0); string(b) != "hel" || err != nil {
		t.Errorf("Read: %q, %v", b, err)
	}
	unix.Close(p[1])
	if n, _, err := s.Fill(p[0], 100, 0); n != 0 || err != nil {
		t.Errorf("Fill at the end: %d, %v", n, err)
	}
	if err := s.Empty(); err != nil || s.Size() != 0 {
		t.Errorf("Empty: %v, size %d", err, s.Size())
	}
	if st, err := os.Stat(filepath.Join(path, "spool")); err != nil || st.Size() != 0 || st.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", st, err)
	}
	if _, _, err := s.Fill(dir, 100, 0); err != unix.EINVAL {
		t.Errorf("Fill from what is no pipe: %v", err)
	}
}

func TestForgetGivesPagesBack(t *testing.T) {
	for _, open := range []func() (*Spool, error){New, func() (*Spool, error) { dir, _ := openDir(t); return Open(dir, "spool") }} {
		s, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(bytes.Repeat([]byte("x"), 3<<20)); err != nil {
			t.Fatal(err)
		}
		s.Forget(2<<20+5, 3<<20) // not that many
		s.Forget(2<<20+5, 1<<20)
		var st unix.Stat_t
		unix.Fstat(s.fd, &st)
		if st.Size != 3<<20 || st.Blocks*512 > 1<<20+64<<10 {
			t.Errorf("size %d, %d bytes of pages", st.Size, st.Blocks*512)
		}
		if b, err := s.Read(make([]byte, 3), 3<<20-3); string(b) != "xxx" || err != nil {
			t.Errorf("Read: %q, %v", b, err)
		}
		s.Close()
	}
}

func TestHasRoomLeavesNothing(t *testing.T) {
	dir, path := openDir(t)
	s, err := Open(dir, "spool")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.HasRoom(1 << 20) {
		t.Skip("no room for a MiB")
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(path, "spool"), &st); err != nil || st.Size != 0 || st.Blocks != 0 {
		t.Errorf("size %d, %d blocks, %v", st.Size, st.Blocks, err)
	}
}

func TestSpoolFollowsNoLink(t *testing.T) {
	dir, path := openDir(t)
	os.Symlink("/etc/passwd", filepath.Join(path, "spool"))
	os.Symlink("/etc/passwd", filepath.Join(path, CursorName))
	if _, err := Open(dir, "spool"); err != unix.ELOOP {
		t.Errorf("spool: %v", err)
	}
	if _, err := OpenCursor(dir); err != unix.ELOOP {
		t.Errorf("cursor: %v", err)
	}
}

func TestCursorOutlivesItsWriter(t *testing.T) {
	dir, _ := openDir(t)
	c, err := OpenCursor(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.SetPos(1, 1, 77, true)
	c.SetDropped(0, 1, 5)
	want := Intent{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, log := range files {
		c.SetTotal(log, int64(9+log))
		c.Begin(log, &want)
	}
	c.Close()
	if c, err = OpenCursor(dir); err != nil {
		t.Fatal(err)
	}
	if c.Pos(1, 1) != 77 || !c.Inside(1, 1) || c.Pos(0, 0) != 0 || c.Inside(0, 0) || c.Dropped(0, 1) != 5 {
		t.Errorf("cursor is %+v", c.w)
	}
	for _, log := range files {
		if got, set := c.Intent(log); got != want || !set || c.Total(log) != int64(9+log) {
			t.Errorf("log %d: intent %+v, %v, total %d", log, got, set, c.Total(log))
		}
		c.Commit(log)
		if _, set := c.Intent(log); set || c.Pos(1, log) != 3 || c.Dropped(1, log) != 9 || c.Total(log) != 8 {
			t.Errorf("after Commit of %d the cursor is %+v", log, c.w)
		}
	}
	c.Fit(1, 0, 50)
	if c.Pos(1, 0) != 3 || c.Pos(1, 1) != 0 || !c.Inside(1, 1) || c.Pos(1, 2) != 3 {
		t.Errorf("after Fit the cursor is %+v", c.w)
	}
	c.Begin(2, &want)
	c.Truncated(1)
	if c.Pos(1, 0) != 0 || !c.Inside(1, 1) || c.Pos(1, 2) != 0 {
		t.Errorf("after Truncated the cursor is %+v", c.w)
	}
	c.Commit(2) // of a file, whatever became of the output
	if c.Pos(1, 2) != 0 || c.Total(2) != 8 {
		t.Errorf("after Commit of what was truncated the cursor is %+v", c.w)
	}
	c.Close()
}

// The totals are told to whoever asks, while the cursor is in use.
func TestTotals(t *testing.T) {
	dir, path := openDir(t)
	if _, err := ReadTotals(dir); err != unix.ENOENT {
		t.Errorf("without a cursor: %v", err)
	}
	c, err := OpenCursor(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetTotal(0, 4)
	c.SetTotal(2, 5)
	c.Lose(0, 1, 5)
	c.Lose(1, 0, 7)
	if got, err := ReadTotals(dir); err != nil || got != (Totals{Written: 9, Lost: 12}) || got != c.Totals() || c.Dropped(0, 1) != 5 || c.Dropped(1, 0) != 7 {
		t.Errorf("%+v, %v, the cursor is %+v", got, err, c.w)
	}
	for _, content := range []string{"", "x", strings.Repeat("\x00", cursorSize), strings.Repeat("\xff", cursorSize)} {
		os.WriteFile(filepath.Join(path, CursorName+".new"), []byte(content), 0o600)
		os.Rename(filepath.Join(path, CursorName+".new"), filepath.Join(path, CursorName))
		if got, err := ReadTotals(dir); err != ErrCursor || got != (Totals{}) {
			t.Errorf("%d bytes: %+v, %v", len(content), got, err)
		}
	}
}

// files are logs that have an intent.
var files = []int{0, 2, 3}

// A container may outlive the supervisor that has written its cursor.
func TestLayoutStays(t *testing.T) {
	var w words
	for name, got := range map[string][2]uintptr{
		"total": {unsafe.Offsetof(w.total), 8}, "pos": {unsafe.Offsetof(w.pos), 16}, "counted": {unsafe.Offsetof(w.counted), 80},
		"intent": {unsafe.Offsetof(w.intent), 96}, "ring": {unsafe.Offsetof(w.ring), 176}, "mark": {unsafe.Offsetof(w.mark), 224},
		"lost": {unsafe.Offsetof(w.lost), 240}, "more": {unsafe.Offsetof(w.more), 248},
	} {
		if got[0] != got[1] {
			t.Errorf("%s is at %d, was at %d", name, got[0], got[1])
		}
	}
	if size := unsafe.Sizeof(w); size > cursorSize {
		t.Errorf("%d bytes do not fit in the page", size)
	}
}

// Killed before the first store: the file may be empty, short, or without magic.
func TestCursorThatWasNotFinished(t *testing.T) {
	for _, content := range []string{"", "x", strings.Repeat("\x00", cursorSize)} {
		dir, path := openDir(t)
		os.WriteFile(filepath.Join(path, CursorName), []byte(content), 0o600)
		c, err := OpenCursor(dir)
		if err != nil {
			t.Fatalf("%d bytes: %v", len(content), err)
		}
		if _, set := c.Intent(0); set || c.Pos(0, 0) != 0 {
			t.Errorf("%d bytes: %+v", len(content), c.w)
		}
		c.Close()
	}
}

func TestResolve(t *testing.T) {
	i := Intent{Before: 100, Bytes: 10}
	for size, want := range map[int64]Outcome{0: Beyond, 99: Beyond, 100: Redo, 101: Torn, 109: Torn, 110: Done, 111: Done} {
		if got := i.Resolve(size); got != want {
			t.Errorf("size %d: %d, want %d", size, got, want)
		}
	}
}

// Whatever is in the file, it is refused or gives offsets that make sense.
func FuzzCursor(f *testing.F) {
	good := words{magic: magic, total: 5}
	good.pos[0][1].at = 7 | inside
	good.intent.set, good.intent.to = 1, 9
	size := int(unsafe.Sizeof(good))
	f.Add(bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&good)), size)))
	good.ring[0].place, good.ring[0].count, good.ring[0].to = inRing|5, 1<<20, 1<<20+9000
	good.ring[1].place, good.pos[1][0].at = 7, 9
	f.Add(bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&good)), size)))
	good.more[2].intent.set, good.more[2].intent.to, good.more[3].pos[1].at = 1, maxOffset+1, 8
	f.Add(unsafe.Slice((*byte)(unsafe.Pointer(&good)), size))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir, path := openDir(t)
		page := make([]byte, cursorSize)
		copy(page, content)
		os.WriteFile(filepath.Join(path, CursorName), page, 0o600)
		os.WriteFile(filepath.Join(path, "spool"), content, 0o600)
		os.WriteFile(filepath.Join(path, "spool.ring"), make([]byte, ringSize), 0o600)
		c, err := OpenCursor(dir)
		if err != nil {
			if err != ErrCursor {
				t.Errorf("error %v", err)
			}
			return
		}
		defer c.Close()
		for stream := range Streams {
			for log := range Logs {
				if c.Pos(stream, log) < 0 || c.Pos(stream, log) > maxOffset || c.Dropped(stream, log) < 0 {
					t.Errorf("position %d, dropped %d", c.Pos(stream, log), c.Dropped(stream, log))
				}
			}
			s, err := Open(dir, "spool")
			if err != nil {
				t.Fatal(err)
			}
			err = s.Resume(c, stream)
			for log := range Logs {
				at := c.Pos(stream, log)
				if _, unread := s.Read(make([]byte, max(0, min(s.Size()-at, 1<<20))), at); unread != nil && err == nil {
					t.Errorf("position %d, from %d to %d: %v", at, s.First(), s.Size(), unread)
				}
			}
			s.Close()
			c.Fit(stream, 0, 0)
		}
		for _, log := range files {
			if i, set := c.Intent(log); set {
				if i.Stream < 0 || i.Stream >= Streams || i.From < 0 || i.From > i.To || i.Before < 0 || i.Bytes < 0 || i.Before+i.Bytes < 0 {
					t.Errorf("intent %+v", i)
				}
				if i.Resolve(i.Before) == Torn {
					t.Errorf("intent %+v is torn before it began", i)
				}
				c.Commit(log)
			}
		}
	})
}
