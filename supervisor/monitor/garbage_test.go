//go:build linux && (amd64 || arm64)

package monitor

import (
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// Callers ask over and over as long as the container runs. The daemon has no use
// for a garbage collector, which would take 250 KiB for itself.
func TestRequestsMakeNoGarbage(t *testing.T) {
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := loop.New()
	must(err)
	c := &Container{s: &Supervisor{loop: l}, o: &cmdline.Options{ID: "quiet"}, notes: new(notes)}
	c.prepare()
	c.dir, err = statedir.Create("", "quiet")
	must(err)
	must(c.server.listen(c))
	config := lifecycle.DefaultConfig()
	c.machine = lifecycle.New(config)
	c.beginJournal(config)
	c.init.pid = unix.Getpid() // it hears CONT, and does nothing about it
	c.init.pidfd, err = process.Open(c.init.pid)
	must(err)
	c.step(lifecycle.Event{Kind: lifecycle.CreateDone})
	c.step(lifecycle.Event{Kind: lifecycle.StartDone})

	// One turn of the loop for each thing that happens.
	stop := l.Stop
	turn := func() {
		l.Defer(stop)
		must(l.Run())
	}
	for _, request := range []control.Request{
		{Verb: control.State},
		{Verb: control.Signal, Signal: signals.CONT, By: lifecycle.NewCaller("/usr/bin/crio", 812, 4711, 0, "crio.service")},
	} {
		packet := request.Append(nil)
		var reply [control.MaxPacket]byte
		address := &unix.SockaddrUnix{Name: c.dir.Path() + "/" + control.Name}
		ask := func() {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			must(err)
			must(unix.Connect(fd, address))
			turn()
			must(unix.Send(fd, packet, 0))
			turn()
			turn()
			n, err := unix.Read(fd, reply[:])
			must(err)
			if n == 0 || string(reply[:3]) == "bad" {
				t.Fatalf("%s: %q", packet, reply[:n])
			}
			unix.Close(fd)
			turn()
		}
		for range 10 {
			ask()
		}
		// The journal begins a new file now and then.
		if n := testing.AllocsPerRun(200, ask); n >= 1 {
			t.Errorf("%s: %v allocations", packet, n)
		}
	}
}
