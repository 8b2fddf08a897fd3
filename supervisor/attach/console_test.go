package attach

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// runtime connects as one does.
func (r *rig) runtime(path string) (conn int) {
	r.t.Helper()
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { unix.Close(conn) })
	if err := unix.Connect(conn, &unix.SockaddrUnix{Name: path}); err != nil {
		r.t.Fatal(err)
	}
	return conn
}

func (r *rig) pass(conn int, fds ...int) {
	r.t.Helper()
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(conn, []byte("/dev/ptmx\x00"), rights, nil, 0); err != nil {
		r.t.Fatal(err)
	}
}

func TestConsole(t *testing.T) {
	r := newRig(t)
	t.Setenv("TMPDIR", r.dir)
	got := -1
	c, err := ListenConsole(r.loop, func(fd int) { got = fd }, r.warn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !strings.HasPrefix(c.Path(), r.dir+"/conmon-term.") {
		t.Errorf("path %s", c.Path())
	}
	if info, err := os.Lstat(c.Path()); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("%v %v", info, err)
	}
	before := openFDs(t)

	// What is of no use is passed over.
	master, slave := terminal(t)
	unix.Shutdown(r.runtime(c.Path()), unix.SHUT_RDWR)
	quietSoon(t, r)
	r.pass(r.runtime(c.Path()))
	quietSoon(t, r)
	r.pass(r.runtime(c.Path()), master, slave)
	quietSoon(t, r)
	silent := r.runtime(c.Path())
	late := r.runtime(c.Path())
	quietSoon(t, r)
	if got >= 0 {
		t.Fatal("received something")
	}
	if len(r.warnings) != 3 {
		t.Errorf("warned of %q", r.warnings)
	}

	settings, err := unix.IoctlGetTermios(slave, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	settings.Oflag &^= unix.ONLCR
	if err := unix.IoctlSetTermios(slave, unix.TCSETS, settings); err != nil {
		t.Fatal(err)
	}
	unix.Shutdown(silent, unix.SHUT_RDWR)
	r.pass(late, master)
	r.until("received", func() bool { return got >= 0 })
	var theirs, ours unix.Stat_t
	if unix.Fstat(master, &theirs) != nil || unix.Fstat(got, &ours) != nil || theirs.Rdev != ours.Rdev || theirs.Ino != ours.Ino {
		t.Errorf("received %+v, want %+v", ours, theirs)
	}
	if settings, err = unix.IoctlGetTermios(slave, unix.TCGETS); err != nil || settings.Oflag&unix.ONLCR == 0 {
		t.Errorf("no carriage returns: %v", err)
	}
	flags, err := unix.FcntlInt(uintptr(got), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %x: %v", flags, err)
	}
	if flags, err = unix.FcntlInt(uintptr(got), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Error("an exit command would inherit the terminal")
	}
	if _, err := os.Lstat(c.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	unix.Close(got)
	c.Close()
	// Ours are gone, the test's are there: two of the terminal, five connections
	// and not the listener.
	if n, want := openFDs(t), before+2+5-1; n != want {
		t.Errorf("%d descriptors are open, want %d", n, want)
	}
}

func TestConsoleThatNeverComes(t *testing.T) {
	r := newRig(t)
	t.Setenv("TMPDIR", r.dir+"/")
	before := openFDs(t)
	c, err := ListenConsole(r.loop, func(int) { t.Error("received") }, r.warn)
	if err != nil {
		t.Fatal(err)
	}
	conn := r.runtime(c.Path())
	r.turns()
	c.Close()
	if n := openFDs(t); n != before+1 {
		t.Errorf("%d descriptors leak", n-before-1)
	}
	if _, err := os.Lstat(c.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	var b [1]byte
	if n, err := unix.Read(conn, b[:]); n != 0 || err != nil {
		t.Errorf("the runtime reads %d bytes, %v", n, err)
	}
	t.Setenv("TMPDIR", r.dir+"/nonexistent")
	if _, err := ListenConsole(r.loop, nil, nil); err == nil || !strings.HasPrefix(err.Error(), "Failed to bind to console-socket "+r.dir+"/nonexistent/conmon-term.") {
		t.Errorf("%v", err)
	}
}
