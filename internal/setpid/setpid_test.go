//go:build linux

package setpid

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is also who tries it without the right to.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "try" {
		fmt.Println(ForkExec(freeNumber(), "/bin/true", []string{"true"}, &syscall.ProcAttr{}))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// freeNumber is that of a process that was there a moment ago.
func freeNumber() int {
	cmd := exec.Command("/bin/true")
	if err := cmd.Run(); err != nil {
		panic(err)
	}
	return cmd.Process.Pid
}

func needRight(t *testing.T) {
	t.Helper()
	if pid := freeNumber(); errors.Is(ForkExec(pid, "/bin/true", []string{"true"}, &syscall.ProcAttr{}), unix.EPERM) {
		t.Skip("CAP_CHECKPOINT_RESTORE is needed")
	} else {
		_, _ = unix.Wait4(pid, nil, 0, nil)
	}
}

// outputOf has a script run as a process of that number, and gives what it says.
func outputOf(t *testing.T, pid int, attr *syscall.ProcAttr, script string, more ...*os.File) string {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	attr.Files = []uintptr{0, writer.Fd(), 2}
	for _, file := range more {
		attr.Files = append(attr.Files, file.Fd())
	}
	err = ForkExec(pid, "/bin/sh", []string{"sh", "-c", script}, attr)
	writer.Close()
	if err != nil {
		t.Fatal(err)
	}
	var buf [4096]byte
	n := 0
	for {
		got, err := reader.Read(buf[n:])
		if n += got; err != nil {
			break
		}
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 0 {
		t.Errorf("it ends with %v, %v", status, err)
	}
	return string(buf[:n])
}

func TestForkExec(t *testing.T) {
	needRight(t)
	a, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.WriteString("in the file"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	for range 50 { // as the same process again and again
		pid := freeNumber()
		for range 3 {
			got := outputOf(t, pid, &syscall.ProcAttr{Dir: "/usr/bin", Env: []string{"GREETING=hello"}},
				`echo $$ $GREETING $PWD $(cut -d' ' -f 6 /proc/$$/stat) $(grep SigBlk /proc/$$/status) $(cat <&3)`, a)
			want := fmt.Sprintf("%d hello /usr/bin %d SigBlk: 0000000000000000 in the file\n", pid, pid)
			if got != want {
				t.Fatalf("it says %q, not %q", got, want)
			}
			if _, err := a.Seek(0, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	needRight(t)
	for _, test := range []struct {
		name, path string
		pid        int
		attr       syscall.ProcAttr
		want       error
	}{
		{"taken", "/bin/true", os.Getpid(), syscall.ProcAttr{}, ErrTaken},
		{"no program", "/no/such/program", freeNumber(), syscall.ProcAttr{}, unix.ENOENT},
		{"no directory", "/bin/true", freeNumber(), syscall.ProcAttr{Dir: "/no/such/directory"}, unix.ENOENT},
		{"no descriptor", "/bin/true", freeNumber(), syscall.ProcAttr{Files: []uintptr{12345}}, unix.EBADF},
		{"too many", "/bin/true", freeNumber(), syscall.ProcAttr{Files: make([]uintptr, most+1)}, unix.EINVAL},
		{"no number", "/bin/true", -5, syscall.ProcAttr{}, unix.EINVAL},
	} {
		if err := ForkExec(test.pid, test.path, []string{"x"}, &test.attr); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if n, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a child is left: %d, %v", n, err)
	}
}

// A zombie has its number still.
func TestZombie(t *testing.T) {
	needRight(t)
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if err := ForkExec(cmd.Process.Pid, "/bin/true", []string{"true"}, &syscall.ProcAttr{}); !errors.Is(err, ErrTaken) {
		t.Error(err)
	}
	_ = cmd.Wait()
}

func TestWithoutTheRight(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give it up")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("setpriv", "--bounding-set", "-sys_admin,-checkpoint_restore", self, "try").CombinedOutput()
	if err != nil {
		t.Skipf("setpriv: %v: %s", err, out)
	}
	if want := unix.EPERM.Error(); strings.TrimSpace(string(out)) != want {
		t.Errorf("it says %q, not %q", out, want)
	}
}
