//go:build linux && (amd64 || arm64)

package slumber

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

var dir string

func TestMain(m *testing.M) {
	var err error
	if dir, err = os.MkdirTemp("", "slumber-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// helper builds the program that falls asleep.
func helper(t *testing.T, name string, flags ...string) (path string) {
	t.Helper()
	path = filepath.Join(dir, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", path, "./helper")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return path
}

// A program that begins elsewhere stays awake, and says why.
func TestNeedsItsEntry(t *testing.T) {
	said, _ := exec.Command(helper(t, "plain")).Output()
	if want := "sleeps: " + ErrEntry.Error() + "\n"; string(said) != want {
		t.Errorf("it says %q, not %q", said, want)
	}
}

// Whatever is in front of the environment, or nothing, a program begins as ever.
func TestEntryIsNotNoticed(t *testing.T) {
	program := helper(t, "helper", "-tags", Tag, "-ldflags", LinkerFlags)
	for _, env := range [][]string{
		{}, {"STAGE=awake"}, {"", "STAGE=awake"}, {"_=x", "STAGE=awake"}, {"_GRACEMO", "STAGE=awake"}, {"_GRACEMON_DIR=/x", "STAGE=awake"},
		{"STAGE=awake", Variable + "=1/2/3"},
	} {
		cmd := exec.Command(program, "awake")
		cmd.Env = env
		said, _ := cmd.Output()
		if cmd.ProcessState.ExitCode() != 7 || !strings.HasPrefix(string(said), fmt.Sprintf("awake %d awake ", cmd.Process.Pid)) {
			t.Errorf("with the environment %q it says %q and ends with %v", env, said, cmd.ProcessState)
		}
	}
}

func TestUnits(t *testing.T) {
	for i, sig := range []signals.Signal{signals.TERM, signals.INT, signals.QUIT, signals.CHLD} {
		if got, want := Unit(sig), uint64(1)<<(16*i); got != want {
			t.Errorf("%v adds %x, not %x", sig, got, want)
		}
	}
}

// startAsleep starts a helper and waits until it sleeps.
func startAsleep(t *testing.T) (asleep *exec.Cmd, wake *os.File, said *bytes.Buffer) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	said = &bytes.Buffer{}
	asleep = exec.Command(helper(t, "helper", "-tags", Tag, "-ldflags", LinkerFlags))
	caught, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	eventfd := os.NewFile(uintptr(caught), "eventfd")
	defer eventfd.Close()
	asleep.Env = []string{} // what it has there is on its stack
	asleep.ExtraFiles = []*os.File{reader, eventfd}
	asleep.Stdout, asleep.Stderr = said, said
	if err := asleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		writer.Close()
		if asleep.ProcessState == nil {
			_ = asleep.Process.Kill()
			_ = asleep.Wait()
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if name := proc(asleep, "comm"); name == "a-name-of-its-o\n" {
			return asleep, writer, said
		}
		if state := proc(asleep, "stat"); strings.Contains(state, ") Z ") || time.Now().After(deadline) {
			_ = asleep.Process.Kill()
			err := asleep.Wait()
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
	if got, want := proc(helper, "cmdline"), "/some/where/a-name-of-its-own\x00an argument\x00another\x00"; got != want {
		t.Errorf("its command line is %q, not %q", got, want)
	}
	if _, err := wake.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	_ = helper.Wait()
	want := fmt.Sprintf("awake %d an argument|another STAGE=awake|GREETING=hello 0\n", helper.Process.Pid)
	if said.String() != want || helper.ProcessState.ExitCode() != 7 {
		t.Errorf("it says %q and ends with %d, not %q and 7", said, helper.ProcessState.ExitCode(), want)
	}
}

// As they do nothing to one who is awake.
func TestHarmlessSignals(t *testing.T) {
	helper, wake, said := startAsleep(t)
	for _, sig := range harmless {
		if err := helper.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
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
	_ = helper.Process.Signal(syscall.SIGSTOP) // so that all are there when it wakes
	for !strings.Contains(proc(helper, "stat"), ") T ") {
		time.Sleep(time.Millisecond)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGCHLD} {
		_ = helper.Process.Signal(sig)
	}
	_ = helper.Process.Signal(syscall.SIGCONT)
	_ = helper.Wait()
	if !strings.HasSuffix(said.String(), "|GREETING=hello 1000100010001\n") || helper.ProcessState.ExitCode() != 7 {
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

// What it is for. The rest of a process is the kernel's: task, stack, tables. What
// it has of the program are pages of a file, which all have together. Where its stack
// begins is random (ASLR), so that the same stack takes a page more at times.
func TestTakesFewPages(t *testing.T) {
	helper, _, _ := startAsleep(t)
	for line := range strings.Lines(proc(helper, "smaps_rollup")) {
		if digits, ok := strings.CutPrefix(line, "Anonymous:"); ok {
			kib, err := strconv.Atoi(strings.Fields(digits)[0])
			if most := 4 * os.Getpagesize() / 1024; err != nil || kib == 0 || kib > most {
				t.Errorf("it takes %d KiB, not at most %d (%v)", kib, most, err)
			}
			return
		}
	}
	t.Error("nobody knows how much it takes")
}

// The words that the assembly compares with, and the path that it executes.
func TestWords(t *testing.T) {
	for text, words := range map[string][2]uint64{Variable: {variable1, variable2}, "/proc/self/exe\x00\x00": {path1, path2}} {
		var b []byte
		for _, word := range words {
			b = binary.LittleEndian.AppendUint64(b, word)
		}
		if string(b) != text {
			t.Errorf("%q is written %q", text, b)
		}
	}
}
