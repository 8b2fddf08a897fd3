//go:build linux

package program

import (
	"errors"
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
)

// This test binary is a gracemon, too: one of a name that it is told.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("conmon version 9.9.9\ncommit: gracemon v0-test")
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == "start" {
		startThem(os.Args[2:])
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == "which" {
		exe, _ := os.Readlink("/proc/self/exe")
		fmt.Println(exe, Path("fallback"))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// startThem starts what is installed at each path, as it is then.
func startThem(paths []string) {
	p := New(paths[0])
	for _, path := range paths {
		p.path = path
		pid, why, err := p.Start([]string{path, "which"}, &syscall.ProcAttr{Env: []string{}, Files: []uintptr{0, 1, 2}})
		if err == nil {
			var status unix.WaitStatus
			_, err = unix.Wait4(pid, &status, 0, nil)
		}
		fmt.Println(why, err)
	}
}

// copyOf makes an executable of its own.
func copyOf(t *testing.T, from string) string {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(text))
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gracemon")
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func self0(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheck(t *testing.T) {
	own := self0(t)
	denied := copyOf(t, own)
	if err := os.Chmod(denied, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path string
		want       error
	}{
		{"itself", own, nil},
		{"another gracemon", copyOf(t, own), nil},
		{"nothing", "/no/such/gracemon", unix.ENOENT},
		{"not executable", denied, unix.EACCES},
		{"a directory", t.TempDir(), unix.EACCES},
		{"true", "/bin/true", ErrOther},
		{"conmon's answer", write(t, "#!/bin/sh\necho conmon version 2.2.1\necho commit: abc\n"), ErrOther},
		{"what hangs", write(t, "#!/bin/sh\nsleep 1000\n"), ErrOther},
		{"what floods", write(t, "#!/bin/sh\nwhile :; do echo commit:; done\n"), ErrOther},
	} {
		begin := time.Now()
		err := Check(test.path)
		if test.want == nil && err != nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if took := time.Since(begin); took > 60*time.Second {
			t.Errorf("%s takes %v", test.name, took)
		}
	}
}

// TestStart: whatever has become of the file, a gracemon is started: the installed one
// if it is one, else the starter's own, at last from memory.
func TestStart(t *testing.T) {
	own, other, truth := copyOf(t, self0(t)), copyOf(t, self0(t)), copyOf(t, "/bin/true")
	run := func(paths ...string) []string {
		cmd := exec.Command(own, append([]string{"start"}, paths...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	got := run(own, other, truth, "/no/such/gracemon")
	want := []string{
		own + " " + own, "<nil> <nil>",
		other + " " + other, "<nil> <nil>",
		own + " " + own, ErrOther.Error() + " <nil>",
		own + " " + own, "no such file or directory <nil>",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// One that nobody may execute any more goes on from memory, and knows that it has no
// place of its own.
func TestStartFromMemory(t *testing.T) {
	own := copyOf(t, self0(t))
	cmd := exec.Command(own, "start", write(t, "#!/bin/sh\nchmod -x "+own+"\n"), own)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	// The first is asked for its version, and takes the right away.
	want := "/memfd:gracemon (deleted) fallback\n" + ErrOther.Error() + " <nil>\n" +
		"/memfd:gracemon (deleted) fallback\npermission denied <nil>\n"
	if string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

// A file is asked once.
func TestAsksOnce(t *testing.T) {
	asked := filepath.Join(t.TempDir(), "asked")
	p := New(write(t, "#!/bin/sh\necho >>"+asked+"\n"))
	for range 3 {
		if err := p.check(); !errors.Is(err, ErrOther) {
			t.Error(err)
		}
	}
	text, err := os.ReadFile(asked)
	if err != nil || len(text) != 1 {
		t.Error("it was asked ", strconv.Itoa(len(text)), " times: ", err)
	}
}
