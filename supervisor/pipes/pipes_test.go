package pipes

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// roleVariable has the test program be another process.
const roleVariable = "_PIPES_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "leader ends":
		runtime.LockOSThread() // the first thread, since TestMain is called from main
		go func() {
			fmt.Println("here")
			var buf [1]byte
			_, _ = os.Stdin.Read(buf[:])
			os.Exit(0)
		}()
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	case "searcher":
		inode, _ := strconv.ParseUint(os.Args[1], 10, 64)
		pid, _ := strconv.Atoi(os.Args[2])
		_, err := Find(inode, unix.O_RDONLY, func() []int { return []int{pid} })
		fmt.Println(err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// output makes a lasting output and gives the container's end as a file.
func output(t *testing.T) (ours int, theirs *os.File, inode uint64) {
	t.Helper()
	ours, fd, err := Output(true)
	if err != nil {
		t.Fatal(err)
	}
	if inode, err = Inode(ours); err != nil {
		t.Fatal(err)
	}
	theirs = os.NewFile(uintptr(fd), "theirs")
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs, inode
}

// start starts a process that has the file as its stdout and stderr, and runs until
// the test ends.
func start(t *testing.T, file *os.File, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	end, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end.Close(); _ = cmd.Wait() })
	return cmd
}

func shell(script string) *exec.Cmd { return exec.Command("/bin/sh", "-c", script) }

// line reads one line from a descriptor that does not block.
func line(t *testing.T, fd int) string {
	t.Helper()
	var text []byte
	for !bytes.HasSuffix(text, []byte("\n")) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		var buf [1]byte
		n, err := unix.Read(fd, buf[:])
		if err != nil && err != unix.EAGAIN && err != unix.EINTR || n == 0 {
			t.Fatalf("after %q: %d, %v", text, n, err)
		}
		text = append(text, buf[:max(n, 0)]...)
	}
	return string(text)
}

func TestALastingOutputHasNoEPIPE(t *testing.T) {
	for _, lasting := range []bool{true, false} {
		ours, theirs, err := Output(lasting)
		if err != nil {
			t.Fatal(err)
		}
		name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(theirs))
		inode, err2 := Inode(ours)
		if want := fmt.Sprintf("pipe:[%d]", inode); name != want || err != nil || err2 != nil {
			t.Errorf("the container's end is %q (%v, %v), want %s", name, err, err2, want)
		}
		unix.Close(ours)
		want := error(unix.EPIPE)
		if lasting {
			want = nil
		}
		if _, err := unix.Write(theirs, []byte("x")); err != want {
			t.Errorf("lasting %v: a write after the reader's death: %v, want %v", lasting, err, want)
		}
		unix.Close(theirs)
	}
}

func TestEnds(t *testing.T) {
	ours, theirs, err := Output(true)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ours)
	var buf [1]byte
	if _, err := unix.Read(ours, buf[:]); err != unix.EAGAIN {
		t.Errorf("an output that is open: %v", err)
	}
	unix.Close(theirs)
	if n, err := unix.Read(ours, buf[:]); n != 0 || err != nil {
		t.Errorf("an output that nobody has open: %d, %v", n, err)
	}
	ended, err := Ended()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ended)
	if n, err := unix.Read(ended, buf[:]); n != 0 || err != nil {
		t.Errorf("Ended: %d, %v", n, err)
	}
	in, theirs, err := Input()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(theirs)
	unix.Close(in)
	if n, err := unix.Read(theirs, buf[:]); n != 0 || err != nil {
		t.Errorf("an input that has ended: %d, %v", n, err)
	}
	for _, fd := range []int{ended, theirs} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d stays open in whatever is executed", fd)
		}
	}
}

// The container's end blocks and ours does not, whoever of the two is opened anew.
func TestBlocking(t *testing.T) {
	ours, file, inode := output(t)
	theirs := int(file.Fd()) // makes it block, so that is asked before
	start(t, file, shell("read end"))
	found, err := Find(inode, unix.O_RDONLY, func() []int { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(found)
	for fd, want := range map[int]int{ours: unix.O_NONBLOCK, found: unix.O_NONBLOCK, theirs: 0} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != want {
			t.Errorf("descriptor %d: flags %#x, %v; want %#x of them", fd, flags, err, want)
		}
	}
	unix.Close(ours)
}

// What the container does with its descriptors, its output is found.
func TestFind(t *testing.T) {
	if _, err := os.Stat("/bin/bash"); err != nil {
		t.Skip(err)
	}
	leader := exec.Command("/proc/self/exe")
	leader.Env = append(os.Environ(), roleVariable+"=leader ends")
	for _, test := range []struct {
		name    string
		cmd     *exec.Cmd
		unknown bool // nobody says which processes are the container's
	}{
		{name: "as it was made", cmd: shell("echo here; read end")},
		{name: "as another descriptor", cmd: shell("exec 2>/dev/null 7>&1 >&-; echo here >&7; read end")},
		{name: "in a child alone", cmd: shell("exec 3<&0; { while [ -e /proc/$$/fd/1 ]; do :; done; echo here; read end <&3; } & exec >&- 2>&-; read end")},
		{name: "among many", cmd: exec.Command("/bin/bash", "-c", "for n in {10..200}; do eval \"exec $n</dev/null\"; done; exec 201>&1 >&- 2>&-; echo here >&201; read end")},
		{name: "of nobody that is known", cmd: shell("echo here; read end"), unknown: true},
		{name: "the first thread has ended", cmd: leader},
	} {
		t.Run(test.name, func(t *testing.T) {
			ours, theirs, inode := output(t)
			cmd := start(t, theirs, test.cmd)
			theirs.Close()
			if got := line(t, ours); got != "here\n" {
				t.Fatalf("it says %q", got)
			}
			unix.Close(ours) // the supervisor is dead
			fd, err := Find(inode, unix.O_RDONLY, func() []int {
				if test.unknown {
					return nil
				}
				return []int{cmd.Process.Pid}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if got, err := Inode(fd); got != inode || err != nil {
				t.Errorf("found pipe %d, %v; want %d", got, err, inode)
			}
		})
	}
}

// A shell that has its output now here, now there, has it somewhere.
func TestFindWhileItMoves(t *testing.T) {
	if _, err := os.Stat("/bin/bash"); err != nil {
		t.Skip(err)
	}
	ours, theirs, inode := output(t)
	cmd := start(t, theirs, exec.Command("/bin/bash", "-c",
		`exec 2>/dev/null; echo here; while :; do exec 40>&1 1>&-; exec 1>&40 40>&-; read -t 0 && break; done`))
	theirs.Close()
	line(t, ours)
	unix.Close(ours)
	missed := 0
	for i := range 500 {
		known := i < 450 // else it is one of all processes
		fd, err := Find(inode, unix.O_RDONLY, func() []int {
			if !known {
				return nil
			}
			return []int{cmd.Process.Pid}
		})
		if err != nil {
			missed++
			continue
		}
		unix.Close(fd)
	}
	if missed > 0 {
		t.Errorf("it is missed %d times of 500", missed)
	}
}

// A pipe that is full, with a writer that waits, is read on without a gap.
func TestFindFull(t *testing.T) {
	ours, theirs, inode := output(t)
	const lines = 20000
	cmd := start(t, theirs, shell("i=0; while [ $i -lt "+strconv.Itoa(lines)+" ]; do i=$((i+1)); echo $i; done; read end"))
	theirs.Close()
	if got := line(t, ours); got != "1\n" {
		t.Fatalf("it says %q", got)
	}
	for full := false; !full; {
		there, err := unix.IoctlGetInt(ours, unix.TIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		full = there > 60000
	}
	unix.Close(ours)
	fd, err := Find(inode, unix.O_RDONLY, func() []int { return []int{cmd.Process.Pid} })
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "found")
	defer file.Close()
	in := bufio.NewReader(file)
	for want := 2; want <= lines; want++ {
		if got, err := in.ReadString('\n'); got != strconv.Itoa(want)+"\n" {
			t.Fatalf("line %d is %q, %v", want, got, err)
		}
	}
}

func TestFindInput(t *testing.T) {
	ours, theirs, err := Input()
	if err != nil {
		t.Fatal(err)
	}
	inode, err := Inode(ours)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(theirs), "theirs")
	cmd := exec.Command("/bin/sh", "-c", "exec 5<&0 </dev/null; read end <&4; read line <&5; echo $line")
	wait, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer wait.Close()
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.ExtraFiles = file, &said, []*os.File{wait, wait}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	unix.Close(ours)
	fd, err := Find(inode, unix.O_WRONLY, func() []int { return []int{cmd.Process.Pid} })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte("from the next\n")); err != nil {
		t.Error(err)
	}
	unix.Close(fd)
	end.Close()
	if err := cmd.Wait(); err != nil || said.String() != "from the next\n" {
		t.Errorf("it has read %q, %v", said.String(), err)
	}
}

// Nothing else is taken for it, and least of all is it opened.
func TestNotFound(t *testing.T) {
	ours, theirs, inode := output(t)
	unix.Close(ours)
	theirs.Close()
	fifo := filepath.Join(t.TempDir(), fmt.Sprintf("pipe:[%d]", inode))
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := start(t, file, shell("read end"))
	for _, pid := range []int{cmd.Process.Pid, 1 << 22} {
		if fd, err := Find(inode, unix.O_RDONLY, func() []int { return []int{pid} }); err != ErrGone {
			t.Errorf("process %d: descriptor %d, %v", pid, fd, err)
			unix.Close(fd)
		}
	}
	s := search{name: fifo, inode: inode, flags: unix.O_RDONLY}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	s.inode = st.Ino // of the named one: the file system tells them apart
	if fd := s.candidate("/proc/self/fd/" + strconv.Itoa(int(file.Fd()))); fd >= 0 {
		t.Error("a named pipe is taken for an anonymous one")
		unix.Close(fd)
	}
}

// A container that has as much open as it can, and its output nowhere, keeps a
// successor busy for a moment only.
func TestTooMany(t *testing.T) {
	ours, theirs, inode := output(t)
	theirs.Close()
	unix.Close(ours)
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for range 500 {
		fd, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	asked := 0
	_, err = Find(inode, unix.O_RDONLY, func() (pids []int) {
		asked++
		for range 2 * mostInRound / 500 {
			pids = append(pids, os.Getpid())
		}
		return pids
	})
	if err != errTooMany || asked != 1 {
		t.Errorf("%v, after %d rounds; want that there are too many, after 1", err, asked)
	}
}

// Who may not look says so, instead of that nobody has it.
func TestDenied(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	_, theirs, inode := output(t)
	cmd := start(t, theirs, shell("read end"))
	searcher := exec.Command("/proc/self/exe", strconv.FormatUint(inode, 10), strconv.Itoa(cmd.Process.Pid))
	searcher.Env = []string{roleVariable + "=searcher"}
	searcher.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	said, err := searcher.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("open /proc/%d/fd, which may be it: %s\n", cmd.Process.Pid, unix.EACCES.Error())
	if string(said) != want {
		t.Errorf("it says %q, want %q", said, want)
	}
}
