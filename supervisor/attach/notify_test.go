package attach

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// host is the service manager's socket.
func (r *rig) host(path string) (fd int) {
	r.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		r.t.Fatal(err)
	}
	return fd
}

func (r *rig) notify(host string) *Notify {
	r.t.Helper()
	if err := os.MkdirAll(r.dir+"/notify", 0o755); err != nil {
		r.t.Fatal(err)
	}
	n, err := ListenNotify(r.loop, r.dir, host, r.warn)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(n.Close)
	return n
}

// tell sends as a container does.
func (r *rig) tell(message string) error {
	r.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte(message), 0, &unix.SockaddrUnix{Name: r.dir + "/notify/notify.sock"})
}

func (r *rig) hears(host int) string {
	r.t.Helper()
	var buf [maxNotification]byte
	n, err := receive(host, buf[:])
	if err == unix.EAGAIN {
		return ""
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return string(buf[:n])
}

func TestNotify(t *testing.T) {
	for sent, want := range map[string]string{
		"READY=1": "READY=1",
		"READY=1\nSTATUS=up and running\nMAINPID=1\nERRNO=2\nBUSERROR=x\nRELOADING=1\nMONOTONIC_USEC=7\nSTOPPING=1": "READY=1\nSTATUS=up and running\nERRNO=2\nBUSERROR=x\nRELOADING=1\nMONOTONIC_USEC=7\nSTOPPING=1",
		"WATCHDOG=1\rWATCHDOG=trigger\n": "WATCHDOG=1\nWATCHDOG=trigger",
		"MAINPID=1":                      "",
		"FDSTORE=1\nFDNAME=x":            "",
		"READY=0":                        "",
		"READY=11":                       "",
		" READY=1":                       "",
		"X=READY=1":                      "",
		"STATUS=MAINPID=1":               "STATUS=MAINPID=1",
		"READY=1\x00MAINPID=1":           "READY=1",
		"STATUS=a\x00\nREADY=1":          "STATUS=a",
		"\n\n\r\nREADY=1\n\n":            "READY=1",
		"":                               "",
	} {
		r := newRig(t)
		host := r.host(r.dir + "/host")
		r.notify(r.dir + "/host")
		if err := r.tell(sent); err != nil {
			t.Fatal(err)
		}
		r.turns()
		if got := r.hears(host); got != want {
			t.Errorf("%q is forwarded as %q, want %q", sent, got, want)
		}
		// An empty one does not end the service, as it does conmon's.
		if err := r.tell("STOPPING=1"); err != nil {
			t.Fatal(err)
		}
		r.turns()
		if got := r.hears(host); got != "STOPPING=1" {
			t.Errorf("after %q: %q", sent, got)
		}
		if len(r.warnings) != 0 {
			t.Errorf("%q: warned of %q", sent, r.warnings)
		}
	}
}

// The host has room for a few datagrams only; nothing is lost and nothing spins.
func TestNotifyBusyHost(t *testing.T) {
	r := newRig(t)
	host := r.host(r.dir + "/host")
	r.notify(r.dir + "/host")
	sent, heard := 0, 0
	retried, blocked := false, false
	r.until("all was heard", func() bool {
		for sent < 500 {
			err := r.tell("STATUS=" + strconv.Itoa(sent))
			if err == unix.EAGAIN {
				blocked = blocked || retried
				retried = true
				break
			}
			retried = false
			if err != nil {
				t.Fatal(err)
			}
			sent++
		}
		if !blocked {
			return false // wait until the host and we are full
		}
		if got := r.hears(host); got != "" {
			if got != "STATUS="+strconv.Itoa(heard) {
				t.Fatalf("heard %q, want number %d", got, heard)
			}
			heard++
		}
		return heard == 500
	})
	if len(r.warnings) != 0 {
		t.Errorf("warned of %q", r.warnings)
	}
}

func TestNotifyHostGone(t *testing.T) {
	r := newRig(t)
	r.notify(r.dir + "/nobody")
	if err := r.tell("READY=1"); err != nil {
		t.Fatal(err)
	}
	r.turns()
	if len(r.warnings) != 1 || !r.warned("Failed to write to socket host notify socket: no such file or directory") {
		t.Errorf("warned of %q", r.warnings)
	}
	// It comes (back).
	host := r.host(r.dir + "/nobody")
	if err := r.tell("READY=1"); err != nil {
		t.Fatal(err)
	}
	r.turns()
	if got := r.hears(host); got != "READY=1" {
		t.Errorf("heard %q", got)
	}
}

func TestNotifyAbstractHost(t *testing.T) {
	r := newRig(t)
	name := "@gracerun-test" + r.dir
	host := r.host(name)
	r.notify(name)
	if err := r.tell("READY=1"); err != nil {
		t.Fatal(err)
	}
	r.turns()
	if got := r.hears(host); got != "READY=1" {
		t.Errorf("heard %q", got)
	}
}

func TestNotifyTooLong(t *testing.T) {
	r := newRig(t)
	host := r.host(r.dir + "/host")
	r.notify(r.dir + "/host")
	if err := r.tell("READY=1\nSTATUS=" + strings.Repeat("x", maxNotification)); err != nil {
		t.Fatal(err)
	}
	r.turns()
	if got := r.hears(host); got != "" {
		t.Errorf("heard %.40q", got)
	}
	if !r.warned("too long") {
		t.Errorf("warned of %q", r.warnings)
	}
}

func TestNotifyPlace(t *testing.T) {
	r := newRig(t)
	before := openFDs(t)
	for range 3 { // as a successor does
		n := r.notify("/nonexistent")
		info, err := os.Lstat(r.dir + "/notify/notify.sock")
		if err != nil || info.Mode() != os.ModeSocket|0o777 {
			t.Errorf("%v %v", info, err)
		}
		n.Close()
		n.Close()
	}
	if _, err := os.Lstat(r.dir + "/notify/notify.sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if _, err := ListenNotify(r.loop, "/nonexistent", "/x", nil); err == nil {
		t.Error("no directory, no error")
	}
	if _, err := ListenNotify(r.loop, r.dir, "/"+strings.Repeat("x", maxAddress), nil); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("%v", err)
	}
	if n := openFDs(t); n != before {
		t.Errorf("%d descriptors leak", n-before)
	}
}

// A container cannot say what it is not allowed to, however it puts it.
func FuzzNotify(f *testing.F) {
	f.Add("READY=1\nMAINPID=1")
	f.Add("STATUS=\rMAINPID=1\x00\n")
	f.Fuzz(func(t *testing.T, text string) {
		got := allowed(text)
		if got == "" {
			return
		}
		for line := range strings.SplitSeq(got, "\n") {
			if !allowedLine(line) || strings.ContainsAny(line, "\r\x00") || !strings.Contains(text, line) {
				t.Errorf("%q becomes %q", text, got)
			}
		}
		if again := allowed(got); again != got {
			t.Errorf("%q becomes %q becomes %q", text, got, again)
		}
	})
}

// The container has the directory: whatever it puts in the place of the socket as
// this is made, the mode of no file of the host's changes.
func TestNotifyHostileDirectory(t *testing.T) {
	r := newRig(t)
	dir := r.dir + "/notify"
	victim := r.dir + "/victim"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			// Only what is there is replaced.
			if unix.Access(dir+"/notify.sock", unix.F_OK) == nil {
				_ = unix.Symlink(victim, dir+"/link")
				_ = unix.Rename(dir+"/link", dir+"/notify.sock")
			}
		}
	}()
	changed := false
	for range 500 {
		if n, err := ListenNotify(r.loop, r.dir, "/x", nil); err == nil {
			n.Close()
		}
		if st, err := os.Stat(victim); err != nil || st.Mode().Perm() != 0o600 {
			changed = true
			break
		}
	}
	close(stop)
	<-ended
	if changed {
		t.Error("the mode of the host's file was changed")
	}
}
