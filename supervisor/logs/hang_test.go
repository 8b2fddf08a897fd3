package logs

import (
	"testing"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// hangingFile has a log file of which fstat(2) does not come back before release is
// called, once.
func hangingFile(t *testing.T, o Options) (c *container, release func()) {
	t.Helper()
	lp, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	o.Loop = lp
	c = run(t, o)
	k, back := c.file(), make(chan struct{})
	look := k.look
	k.look = func() {
		k.look = look
		<-back
		look()
	}
	return c, func() {
		t.Helper()
		close(back)
		ended := k.line.Ended
		k.line.Ended = func() { ended(); lp.Stop() }
		if err := lp.Run(); err != nil {
			t.Fatal(err)
		}
	}
}

// What a file is asked before a write may not come back for long. Meanwhile others are
// given what the container says, through the same buffer.
func TestOutputGoesOnWhileTheFileIsLookedAt(t *testing.T) {
	c, release := hangingFile(t, Options{})
	attached := ""
	c.out.Sink = func(data []byte) { attached += string(data) }
	c.says("first\n")
	if c.logs.Hangs() != true {
		t.Fatal("the file does not hang")
	}
	c.says("and then the second\n")
	release()
	c.ends()
	if got := c.read(); got != "T stdout F first\nT stdout F and then the second\n" {
		t.Errorf("log is %q", got)
	}
	if attached != "first\nand then the second\n" {
		t.Errorf("attached clients got %q", attached)
	}
}

// What is dropped meanwhile is dropped, and said.
func TestOutputIsDroppedWhileTheFileIsLookedAt(t *testing.T) {
	c, release := hangingFile(t, Options{SpoolMax: 2 * batch})
	c.says("first\n")
	c.file().flow.since -= lifecycle.Instant(patience) // patience is over
	c.logs.Tick()
	c.says(numbered(0, 2*batch/10))
	if c.logs.cursor.Dropped(0, 0) == 0 {
		t.Fatal("nothing was dropped")
	}
	release()
	c.ends()
	last := numbered(2*batch/10-1, 2*batch/10)
	got := content(c.read())
	if want := "[gracerun: "; got[:len(want)] != want || got[len(got)-len(last):] != last {
		t.Errorf("log is %.200q ... %q", got, got[max(0, len(got)-40):])
	}
}
