package scope

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLook: once the drop-in is there, systemd is asked for a unit that is not. A
// bus that hangs up instead of an answer is no reason not to go on.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	bus := filepath.Join(dir, "bus")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: bus}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	type seen struct {
		text    string
		dropIns int
	}
	asked := make(chan seen)
	go func() {
		defer close(asked)
		conn, _, err := unix.Accept(fd)
		if err != nil {
			return
		}
		text := serveBus(conn)
		files, _ := filepath.Glob(filepath.Join(dir, "units/crio-id.scope.d", dropIn))
		unix.Close(conn)
		asked <- seen{text, len(files)}
	}()
	s := Of("id", "a.slice:crio:id", true, crio, "", none)
	s.managers = []manager{{units: filepath.Join(dir, "units"), bus: []address{{bus}}}}
	failed := make(chan error, 1)
	go func() { failed <- s.Prepare() }()
	if got := <-asked; !strings.Contains(got.text, "/unit/gracerun_2dis_2dnot_2dthere_2eservice") || got.dropIns != 1 {
		t.Errorf("asked: %q, with %d drop-ins", got.text, got.dropIns)
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

// serveBus does as a bus does until it is asked for a property, and gives all that
// it was sent until then.
func serveBus(fd int) string {
	var all strings.Builder
	var buf [4096]byte
	welcomed, greeted := false, false
	for !strings.Contains(all.String(), "LoadState") {
		n, err := unix.Read(fd, buf[:])
		if err != nil || n == 0 {
			break
		}
		all.Write(buf[:n])
		if !welcomed && strings.Contains(all.String(), "BEGIN\r\n") {
			welcomed = true
			_, _ = unix.Write(fd, []byte("DATA\r\nOK 1234\r\n"))
		}
		if !greeted && strings.Contains(all.String(), "Hello") {
			greeted = true
			_, _ = unix.Write(fd, []byte("l\x02\x01\x01\x00\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x05\x01u\x00\x01\x00\x00\x00"))
		}
	}
	return all.String()
}
