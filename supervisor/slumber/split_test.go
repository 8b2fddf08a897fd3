//go:build linux && (amd64 || arm64)

package slumber

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// manager calls the helper as a manager calls a monitor. It gives the foreground's
// number, what was said, and the status.
func manager(t *testing.T, write bool, args, env []string) (pid int, said string, status int) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(helper(t, "helper", "-tags", Tag, "-ldflags", LinkerFlags), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = env, &out, &out, []*os.File{reader}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader.Close()
	// It waits for the pipe, and has no child before that is written.
	time.Sleep(10 * time.Millisecond)
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", cmd.Process.Pid))
	if len(children) > 0 {
		t.Errorf("it has forked %s before it may", children)
	}
	if write {
		_, _ = writer.Write([]byte{0})
	}
	writer.Close()
	_ = cmd.Wait()
	return cmd.Process.Pid, out.String(), cmd.ProcessState.ExitCode()
}

// Who is called by a manager is forked before it is a Go program, with the signals of a
// supervisor blocked and one processor; its foreground ends as it says.
func TestIsForked(t *testing.T) {
	for _, write := range []bool{true, false} {
		pid, said, status := manager(t, write, []string{"fork", "9"}, []string{"FIRST=1", "_OCI_STARTPIPE=3", "LAST=" + strings.Repeat("x", 5000)})
		if status != 9 {
			t.Errorf("the foreground ends with %d: %s", status, said)
		}
		var its, processors int
		var mask uint64
		var rest string
		if _, err := fmt.Sscanf(said, "%d %d %x %s", &its, &processors, &mask, &rest); err != nil {
			t.Fatalf("%v: %q", err, said)
		}
		const supervisors = 1<<14 | 1<<1 | 1<<2 | 1<<16 // TERM, INT, QUIT, CHLD
		if its == pid || processors != 1 || mask != supervisors {
			t.Errorf("process %d of %d has %d processors and blocks %x", its, pid, processors, mask)
		}
		words := strings.Split(rest, "|")
		if len(words) != 7 || words[2] != "GOMAXPROCS=1" || !strings.HasPrefix(words[3], ForkedVariable+"=") ||
			words[4] != "FIRST=1" || words[5] != "_OCI_STARTPIPE=3" || len(words[6]) != 5005 {
			t.Errorf("it has arguments and environment %.300q", words)
		}
	}
}

// One that ends without a word: its foreground ends as it has.
func TestForkedEndsWithoutAWord(t *testing.T) {
	for arg, want := range map[string]int{"ends": 5, "dies": 1} {
		_, said, status := manager(t, true, []string{"fork", "5", arg}, []string{"_OCI_STARTPIPE=3"})
		if status != want || !strings.Contains(said, "GOMAXPROCS=1") {
			t.Errorf("%s: %d, not %d: %s", arg, status, want, said)
		}
	}
}

// Who is not called by a manager, or is to stay the caller's child, begins as ever.
func TestIsNotForked(t *testing.T) {
	for _, test := range []struct{ args, env []string }{
		{nil, []string{"A=1"}},
		{nil, nil},
		{nil, []string{"_OCI_STARTPIPE="}},
		{nil, []string{"_OCI_STARTPIPE=0"}},
		{nil, []string{"_OCI_STARTPIPE=3x"}},
		{nil, []string{"_OCI_STARTPIPE=-1"}},
		{nil, []string{"_OCI_STARTPIPE=99999999999999999999999"}},
		{nil, []string{"_OCI_STARTPIPE=77"}}, // which is not open
		{nil, []string{"_OCI_STARTPIPE"}},
		{nil, []string{"_OCI_STARTPIPE=3", "GOMAXPROCS=2"}},
		{nil, []string{"_OCI_STARTPIPE=3", "_GRACEMON_STAGE=command"}},
		{[]string{"--sync"}, []string{"_OCI_STARTPIPE=3"}},
	} {
		pid, said, status := manager(t, true, append([]string{"fork", "6"}, test.args...), test.env)
		if its, _, _ := strings.Cut(said, " "); status != 6 || its != strconv.Itoa(pid) || strings.Contains(said, ForkedVariable) {
			t.Errorf("%v %v: status %d: %s", test.args, test.env, status, said)
		}
	}
}
