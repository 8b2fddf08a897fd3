package control

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

// stateDir has a path that does not fit into a socket's address.
func stateDir(t *testing.T) (fd int, path string) {
	path = t.TempDir() + "/" + strings.Repeat("long-", 40)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd, path
}

// serve answers one request on one connection.
func serve(t *testing.T, listener int, answer func(packet string, conn int)) {
	poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, 10_000); err != nil && err != unix.EINTR {
		t.Error(err)
	}
	conn, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(conn)
	var packet [MaxPacket]byte
	n, err := unix.Read(conn, packet[:])
	if err != nil {
		t.Error(err)
	}
	answer(string(packet[:n]), conn)
}

func TestAskAndReply(t *testing.T) {
	dir, path := stateDir(t)
	listener, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	if info, err := os.Stat(path + "/" + Name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v (%v), want 0600", info.Mode(), err)
	}
	go serve(t, listener, func(packet string, conn int) {
		if packet != "stop sig=TERM grace=10s" {
			t.Errorf("the supervisor reads %q", packet)
		}
		unix.Write(conn, []byte("ended code=3"))
	})
	conn, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if pid, err := conn.Supervisor(); err != nil || pid != os.Getpid() {
		t.Errorf("Supervisor() = %d, %v", pid, err)
	}
	reply, err := conn.Ask(Request{Verb: Stop, Signal: signals.TERM, Grace: 10 * lifecycle.Second}, time.Minute)
	if want := (Reply{Answer: Ended, Exit: lifecycle.Exited(3)}); err != nil || reply != want {
		t.Errorf("got %+v, %v; want %+v", reply, err, want)
	}
}

func TestNobodyListens(t *testing.T) {
	dir, _ := stateDir(t)
	if _, err := Dial(dir); err != ErrNoSupervisor {
		t.Errorf("without a socket: %v", err)
	}
	listener, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(listener) // what a killed supervisor leaves behind
	if _, err := Dial(dir); err != ErrNoSupervisor {
		t.Errorf("with a dead socket: %v", err)
	}
	listener, err = Listen(dir)
	if err != nil {
		t.Fatalf("the next supervisor cannot listen: %v", err)
	}
	unix.Close(listener)
}

func TestNoReply(t *testing.T) {
	dir, _ := stateDir(t)
	listener, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)

	silent, err := Dial(dir) // nobody accepts it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := silent.Ask(Request{Verb: State}, time.Millisecond); err != ErrTimeout {
		t.Errorf("from a supervisor that hangs: %v", err)
	}
	serve(t, listener, func(string, int) {})
	silent.Close()

	dropped, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dropped.Close()
	go serve(t, listener, func(string, int) {})
	if _, err := dropped.Ask(Request{Verb: State}, -1); err != ErrHungUp {
		t.Errorf("from a supervisor that hangs up: %v", err)
	}
}

// A path leads to the supervisor of the directory that is open, however long it is
// and whatever has taken the directory's place.
func TestDialAt(t *testing.T) {
	for name, depth := range map[string]int{"short": 1, "long": 40} {
		t.Run(name, func(t *testing.T) {
			top, err := os.MkdirTemp("", "dial")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(top) })
			path := top + strings.Repeat("/dir", depth)
			open := func() int {
				if err := os.MkdirAll(path, 0o700); err != nil {
					t.Fatal(err)
				}
				dir, err := unix.Open(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Close(dir) })
				return dir
			}
			dir := open()
			if _, err := DialAt(dir, path); err != ErrNoSupervisor {
				t.Errorf("without a socket: %v", err)
			}
			listener, err := Listen(dir)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := DialAt(dir, path)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if err := os.Rename(path, top+"/old"); err != nil {
				t.Fatal(err)
			}
			other, err := Listen(open())
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(other)
			if conn, err = DialAt(dir, path); err != nil {
				t.Errorf("by a path that leads elsewhere: %v", err)
			}
			conn.Close()
			unix.Close(listener)
			if _, err := DialAt(dir, path); err != ErrNoSupervisor {
				t.Errorf("of a dead supervisor, whose place a live one has: %v", err)
			}
		})
	}
}
