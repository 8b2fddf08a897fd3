//go:build linux && (amd64 || arm64)

package monitor

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// What a container puts in the place of its notify socket keeps nobody from
// attaching to a successor.
func TestResumeWithoutNotify(t *testing.T) {
	bundle := t.TempDir()
	if err := os.MkdirAll(bundle+"/notify/notify.sock/full", 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	o := &cmdline.Options{ID: "spiteful", Bundle: bundle, FullAttach: true, NotifySocket: bundle + "/host"}
	c := &Container{s: &Supervisor{loop: l}, o: o, notes: new(notes), machine: lifecycle.New(lifecycle.DefaultConfig())}
	c.streams.ours = [3]int{-1, -1, -1}
	if err := c.clients.listen(c); err == nil {
		t.Fatal("the notify socket is made: nothing shows what happens when it is not")
	}
	if err := c.clients.resume(c, &heritage{}); err != nil {
		t.Fatal(err)
	}
	defer c.clients.close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	dir, err := unix.Open(bundle, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/attach"}); err != nil {
		t.Errorf("attach: %v", err)
	}
	for _, name := range []string{"ctl", "winsz"} {
		w, err := unix.Open(bundle+"/"+name, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Errorf("nobody reads %s: %v", name, err)
			continue
		}
		unix.Close(w)
	}
}
