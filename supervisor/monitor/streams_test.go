//go:build linux && (amd64 || arm64)

package monitor

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/attach"
	"gracerun.io/supervisor/pipes"
	"gracerun.io/supervisor/recovery"
)

// newStreams gives a container with stdin, stdout and stderr, its ends of which are
// with a process that does nothing with them, if it is to live, and nowhere else.
func newStreams(t *testing.T, lives bool) *Container {
	t.Helper()
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	c := newWaking(t)
	var err error
	if c.dir, err = statedir.Create("", "waking"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.dir.Close() })
	if c.memo, err = recovery.CreateNotes(c.dir.FD()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.memo.Close)
	cmd := exec.Command("/bin/sh", "-c", "read end <&3")
	var ends [3]*os.File
	for i := range ends {
		if err := c.streams.makePipe(c, i); err != nil {
			t.Fatal(err)
		}
		ends[i] = os.NewFile(uintptr(c.streams.theirs[i]), streamNames[i])
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ends[0], ends[1], ends[2]
	wait, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer wait.Close()
	cmd.ExtraFiles = []*os.File{wait}
	if lives {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c.init.pid = cmd.Process.Pid
		t.Cleanup(func() { _ = cmd.Wait() })
	}
	t.Cleanup(func() { end.Close() })
	for _, file := range ends {
		file.Close()
	}
	return c
}

// die closes what a supervisor has open.
func (s *streams) die() {
	for i, fd := range s.ours {
		if fd >= 0 {
			unix.Close(fd)
		}
		s.ours[i] = -1
	}
}

// A successor without a keeper finds the streams with the container's processes.
func TestStreamsAreFoundAgain(t *testing.T) {
	c := newStreams(t, true)
	var before [3]unix.Stat_t
	for i, fd := range c.streams.ours {
		if err := unix.Fstat(fd, &before[i]); err != nil {
			t.Fatal(err)
		}
	}
	c.streams.die()
	for i := range before {
		fd := c.reopen(&heritage{}, i)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Ino != before[i].Ino {
			t.Errorf("%s: pipe %d, %v; want %d", streamNames[i], st.Ino, err, before[i].Ino)
		}
		unix.Close(fd)
	}
}

// Of a container that has ended, with its supervisor and without a keeper, nothing is
// left but the end of its streams.
func TestStreamsHaveEnded(t *testing.T) {
	c := newStreams(t, false)
	c.streams.die()
	var buf [1]byte
	for i := range 2 {
		fd := c.reopen(&heritage{}, i+1)
		if n, err := unix.Read(fd, buf[:]); n != 0 || err != nil {
			t.Errorf("%s: %d, %v", streamNames[i+1], n, err)
		}
		unix.Close(fd)
	}
	if fd := c.reopen(&heritage{}, 0); fd >= 0 {
		t.Error("there is a stdin")
	}
}

// A stream that has ended is not looked for: it would be at every process of the host.
func TestAnEndIsNoted(t *testing.T) {
	c := newStreams(t, true)
	c.streams.isOver(c, 0)
	c.streams.die()
	fd := c.reopen(&heritage{}, 1)
	defer unix.Close(fd)
	var buf [1]byte
	if n, err := unix.Read(fd, buf[:]); n != 0 || err != nil {
		t.Errorf("a stdout that has ended: %d, %v", n, err)
	}
}

// A container that an older gracemon has made has named pipes in the state directory.
func TestNamedStreamsOfAnOlderGracemon(t *testing.T) {
	c := newStreams(t, true)
	c.streams.die()
	for i, name := range streamNames {
		c.memo.SetPipe(i, 0) // which does not know of such a note
		if err := unix.Mkfifoat(c.dir.FD(), name, 0o600); err != nil {
			t.Fatal(err)
		}
		held, err := unix.Openat(c.dir.FD(), name, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(held)
		fd := c.reopen(&heritage{}, i)
		var a, b unix.Stat_t
		if err := unix.Fstat(fd, &a); err != nil || unix.Fstat(held, &b) != nil || a.Ino != b.Ino {
			t.Errorf("%s: %d, %v; want the named pipe, %d", name, a.Ino, err, b.Ino)
		}
		unix.Close(fd)
	}
	c.inputClosed()
	c.memo.SetPipe(0, 0)
	if fd := c.reopen(&heritage{}, 0); fd >= 0 {
		t.Error("a stdin that has ended is open again")
		unix.Close(fd)
	}
}

// An input that has ended stays so, whoever goes on, and wherever its supervisor died.
func TestInputEndsForGood(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(t *testing.T, c *Container) *heritage
	}{
		{"a client ends it", func(t *testing.T, c *Container) *heritage {
			server, err := attach.Listen(c.s.loop, attach.Config{
				Place: attach.Place{Bundle: c.o.Bundle, SocketDir: t.TempDir(), UUID: "waking"}, Stdin: true, InputClosed: c.inputClosed, Warn: func(text string) { t.Error(text) },
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(server.Close)
			server.SetStdin(c.streams.ours[0])
			c.streams.ours[0] = -1
			server.CloseStdin()
			return &heritage{}
		}},
		{"its supervisor dies before it closes it", func(t *testing.T, c *Container) *heritage {
			kept, err := unix.FcntlInt(uintptr(c.streams.ours[0]), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			c.inputClosed()
			return &heritage{kept: map[string]int{streamNames[0]: kept}}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newStreams(t, true)
			theirs, err := pipes.Find(mustNote(t, c, 0), unix.O_RDONLY, c.processes)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(theirs)
			h := test.end(t, c)
			c.streams.die()
			if fd := c.reopen(h, 0); fd >= 0 {
				t.Error("it is open again")
				unix.Close(fd)
			}
			var buf [1]byte
			if n, err := unix.Read(theirs, buf[:]); n != 0 || err != nil {
				t.Errorf("the container does not see its end: %d, %v", n, err)
			}
		})
	}
}

func mustNote(t *testing.T, c *Container, i int) uint64 {
	t.Helper()
	inode, ended := c.memo.Pipe(i)
	if inode == 0 || ended {
		t.Fatalf("of %s it is noted: %d, ended %v", streamNames[i], inode, ended)
	}
	return inode
}
