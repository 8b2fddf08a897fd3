//go:build linux && (amd64 || arm64)

package monitor

import (
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/keeper"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// A keeper that is stopped, and has no room for one more, holds no deadline up and
// is not asked without a pause. It gets the deposit when it goes on.
func TestStoppedKeeper(t *testing.T) {
	base := t.TempDir()
	t.Setenv("GRACERUN_STATE_DIR", base)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path, err := keeper.Socket(base, 0)
	must(err)
	stopped, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	must(err)
	defer unix.Close(stopped)
	must(unix.Bind(stopped, &unix.SockaddrUnix{Name: path}))
	must(unix.Listen(stopped, 0))
	first, err := keeper.Connect(0, "gracemon", 0)
	must(err)
	defer unix.Close(first)

	l, err := loop.New()
	must(err)
	c := &Container{s: &Supervisor{loop: l, signals: -1}, o: &cmdline.Options{ID: "patient"}, notes: new(notes)}
	c.prepare()
	c.streams.ours = [3]int{-1, -1, -1}
	c.dir, err = statedir.Create("", "patient")
	must(err)
	must(c.server.listen(c))
	c.machine = lifecycle.New(lifecycle.DefaultConfig())
	c.beginJournal(lifecycle.DefaultConfig())
	c.beginMemo()
	if c.memo == nil {
		t.Fatal("there are no notes")
	}
	begun := loop.Now()
	c.deposit.make(c)
	if c.deposit.conn > 0 {
		t.Fatal("it is connected to a keeper without room")
	}
	var deadline, late loop.Timer
	inTime := false
	deadline.Fire = func() {
		inTime = true
		if took, waits := loop.Now()-begun, c.deposit.waits; took < lifecycle.Instant(firstWait<<(waits-1)-firstWait) {
			t.Errorf("the keeper was asked %d times in %d ns", waits, took)
		}
		fd, _, err := unix.Accept4(stopped, unix.SOCK_CLOEXEC)
		must(err)
		unix.Close(fd)
		must(l.Add(stopped, loop.Readable, loop.HandlerFunc(func(uint32) { l.Stop() })))
	}
	l.Arm(&deadline, loop.Now().After(50*lifecycle.Millisecond))
	late.Fire = func() { t.Error("nothing was deposited"); l.Stop() }
	l.Arm(&late, loop.Now().After(60*lifecycle.Second))
	must(l.Run())
	if !inTime || c.deposit.waits != 0 {
		t.Errorf("the deadline was kept: %v; %d waits are left", inTime, c.deposit.waits)
	}
	conn, _, err := unix.Accept4(stopped, unix.SOCK_CLOEXEC)
	must(err)
	defer unix.Close(conn)
	var packet [unix.PathMax]byte
	n, err := unix.Read(conn, packet[:])
	must(err)
	if got, want := string(packet[:n]), "hold "+c.dir.Path(); got != want {
		t.Errorf("the keeper gets %q, want %q", got, want)
	}
}
