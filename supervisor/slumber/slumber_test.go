//go:build linux && (amd64 || arm64)

package slumber

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the test's own program does when it is executed as a helper.
const stageVariable = "SLUMBER_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(stageVariable) {
	case "sleep":
		runtime.LockOSThread()
		fmt.Println("sleeps:", fallAsleep())
		os.Exit(1)
	case "awake":
		var caught uint64
		if poll := []unix.PollFd{{Fd: 4, Events: unix.POLLIN}}; must(unix.Poll(poll, 0)) == 1 {
			must(unix.Read(4, (*[8]byte)(unsafe.Pointer(&caught))[:]))
		}
		fmt.Println("awake", os.Getpid(), strings.Join(os.Args[1:], "|"), os.Getenv("GREETING"), caught)
		os.Exit(7)
	}
	os.Exit(m.Run())
}

func must(n int, err error) int {
	if err != nil {
		panic(err)
	}
	return n
}

// fallAsleep sleeps until there is something to read from descriptor 3.
func fallAsleep() error {
	epoll, err := unix.EpollCreate1(0)
	if err != nil {
		return err
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, 3, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return err
	}
	self, err := unix.Open("/proc/self/exe", unix.O_PATH, 0)
	if err != nil {
		return err
	}
	mask := unix.Sigset_t{}
	mask.Val[0] = 1<<(unix.SIGTERM-1) | 1<<(unix.SIGUSR1-1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &mask, nil); err != nil {
		return err
	}
	signals, err := unix.Signalfd(-1, &mask, unix.SFD_NONBLOCK)
	if err != nil {
		return err
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, signals, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return err
	}
	bed := Bed{Epoll: epoll, Self: self, Signals: signals, Caught: 4, Name: "a-name-of-its-own"}
	bed.Units[unix.SIGTERM], bed.Units[unix.SIGUSR1] = 1000, 1
	return bed.Sleep([]string{"helper", "an argument", "another"}, []string{stageVariable + "=awake", "GREETING=hello"})
}

// startAsleep starts a helper and waits until it sleeps.
func startAsleep(t *testing.T) (helper *exec.Cmd, wake *os.File, said *bytes.Buffer) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	said = &bytes.Buffer{}
	helper = exec.Command("/proc/self/exe")
	helper.Env = append(os.Environ(), stageVariable+"=sleep")
	caught, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	eventfd := os.NewFile(uintptr(caught), "eventfd")
	defer eventfd.Close()
	helper.ExtraFiles = []*os.File{reader, eventfd}
	helper.Stdout, helper.Stderr = said, said
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		writer.Close()
		if helper.ProcessState == nil {
			_ = helper.Process.Kill()
			_ = helper.Wait()
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if name := proc(helper, "comm"); name == "a-name-of-its-o\n" {
			return helper, writer, said
		}
		if state := proc(helper, "stat"); strings.Contains(state, ") Z ") || time.Now().After(deadline) {
			_ = helper.Process.Kill()
			err := helper.Wait()
			t.Fatalf("it does not sleep: %v: %s", err, said)
		}
	}
}

func proc(helper *exec.Cmd, file string) string {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(helper.Process.Pid) + "/" + file)
	return string(text)
}

func TestWakesAsTheSameProcess(t *testing.T) {
	helper, wake, said := startAsleep(t)
	if got, want := proc(helper, "cmdline"), "helper\x00an argument\x00another\x00"; got != want {
		t.Errorf("its command line is %q, not %q", got, want)
	}
	if _, err := wake.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	_ = helper.Wait()
	want := fmt.Sprintf("awake %d an argument|another hello 0\n", helper.Process.Pid)
	if said.String() != want || helper.ProcessState.ExitCode() != 7 {
		t.Errorf("it says %q and ends with %d, not %q and 7", said, helper.ProcessState.ExitCode(), want)
	}
}

// As it does nothing to one who is awake.
func TestPipeDoesNothing(t *testing.T) {
	helper, wake, said := startAsleep(t)
	if err := helper.Process.Signal(unix.SIGPIPE); err != nil {
		t.Fatal(err)
	}
	if _, err := wake.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if _ = helper.Wait(); helper.ProcessState.ExitCode() != 7 {
		t.Errorf("%s: %q", helper.ProcessState, said)
	}
}

// Pending signals would end a new program, or be lost on it.
func TestSignalsAreTurnedIntoNumbers(t *testing.T) {
	helper, _, said := startAsleep(t)
	_ = helper.Process.Signal(syscall.SIGSTOP) // so that both are there when it wakes
	for !strings.Contains(proc(helper, "stat"), ") T ") {
		time.Sleep(time.Millisecond)
	}
	_ = helper.Process.Signal(syscall.SIGTERM)
	_ = helper.Process.Signal(syscall.SIGUSR1)
	_ = helper.Process.Signal(syscall.SIGCONT)
	_ = helper.Wait()
	if !strings.HasSuffix(said.String(), " hello 1001\n") || helper.ProcessState.ExitCode() != 7 {
		t.Errorf("it says %q and ends with %v", said, helper.ProcessState)
	}
}

func TestSleepsOnWhenStoppedAndContinued(t *testing.T) {
	helper, wake, said := startAsleep(t)
	for range 3 {
		_ = helper.Process.Signal(syscall.SIGSTOP)
		for !strings.Contains(proc(helper, "stat"), ") T ") {
			time.Sleep(time.Millisecond)
		}
		_ = helper.Process.Signal(syscall.SIGCONT)
		for !strings.Contains(proc(helper, "stat"), ") S ") {
			time.Sleep(time.Millisecond)
		}
	}
	wake.Close()
	_ = helper.Wait()
	if helper.ProcessState.ExitCode() != 7 {
		t.Errorf("it ends with %d: %s", helper.ProcessState.ExitCode(), said)
	}
}

// What it is for. The rest of a process is the kernel's: task, stack, tables.
func TestTakesFourPages(t *testing.T) {
	helper, _, _ := startAsleep(t)
	for line := range strings.Lines(proc(helper, "smaps_rollup")) {
		if digits, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.Atoi(strings.Fields(digits)[0])
			if most := 4 * os.Getpagesize() / 1024; err != nil || kib == 0 || kib > most {
				t.Errorf("it takes %d KiB, not at most %d (%v)", kib, most, err)
			}
			return
		}
	}
	t.Error("nobody knows how much it takes")
}
