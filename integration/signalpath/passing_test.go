package signalpath

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
)

// fake is a runtime that says how it was called and with what, and exits with the
// status in $STATUS.
const fake = `#!/bin/bash
echo "args:"; for a in "$@"; do echo "  <$a>"; done
echo "cwd: $PWD"
echo "listen: ${LISTEN_FDS-none} ${LISTEN_PID-none} $([ "$LISTEN_PID" = $$ ] && echo mine)"
echo "fds:"; for fd in 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$fd ] && echo "  $fd $(readlink /proc/$$/fd/$fd)"; done
echo "stdin: $(cat)"
echo "to stderr" >&2
exit ${STATUS-0}
`

// fakeRuntime gives the path of one.
func fakeRuntime(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "runc")
	if err := os.WriteFile(path, []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// outcome runs a program with inherited descriptors 3 and 5.
func outcome(t *testing.T, program string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(patience(t), program, args...)
	cmd.Dir = "/"
	cmd.Env = append(append(os.Environ(), "GRACERUN_STATE_DIR="+t.TempDir()), env...)
	cmd.Stdin = strings.NewReader("what is piped in")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	for _, path := range []string{"/etc/passwd", "/dev/null", "/etc/group"} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	_ = cmd.Run()
	return fmt.Sprintf("stdout: %sstderr: %scode: %d", &stdout, &stderr, cmd.ProcessState.ExitCode())
}

// Everything that is not gracerun's own goes through unchanged: arguments,
// environment, standard files, inherited descriptors, exit code.
func TestPassThrough(t *testing.T) {
	runtime := fakeRuntime(t)
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"ociVersion":"1.0.2"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"exec", "--tty", "--env", "A=b c", "id", "sh", "-c", "exit 3"},
		{"--root", "/r", "--systemd-cgroup", "--log", "/dev/null", "--log-format=json", "--rootless=auto", "ps", "id", "-ef"},
		{"--cgroup-manager=cgroupfs", "--debug", "list", "-q"},
		{"-debug", "--criu", "/criu", "checkpoint", "--image-path", "/i", "id"},
		{"restore", "--bundle", bundle, "id"},
		{"spec", "--rootless"}, {"update", "--memory", "1", "id"}, {"events", "--stats", "id"}, {"pause", "id"}, {"resume", "id"},
		{"start", "id"}, {"state", "id"}, {"delete", "-f", "id"}, {"kill", "id", "TERM"}, {"kill", "--regex", ".*", "9"},
		{"create", "--bundle", bundle, "--pid-file", "/p", "--console-socket", "/c", "--preserve-fds", "3", "--no-pivot", "id"},
		{"run", "--detach", "-b", bundle, "--pidfd-socket", "/s", "id"},
		{"run", "--bundle=" + bundle, "id"},
		{"create", "-b" + bundle, "-f", "config.json", "id"},
		{"create", "--bundle", bundle, "id", "--help"},
		{"frobnicate", ""}, {"--frobnicate"}, {},
	} {
		for _, env := range [][]string{nil, {"STATUS=42"}, {"LISTEN_FDS=2", "LISTEN_FDNAMES=a:b"}} {
			env = append(env, "GRACERUN_RUNTIME="+runtime)
			ours, theirs := outcome(t, gracerun(), env, args...), outcome(t, runtime, env, args...)
			if len(args) > 0 && (args[0] == "create" || args[0] == "run") && !strings.HasSuffix(theirs, "code: 42") {
				// It believes the fake, and says that it does not know where it keeps
				// what it has created.
				head, tail, _ := strings.Cut(ours, "to stderr\n")
				ours = head + "to stderr\n" + tail[strings.LastIndex(tail, "code:"):]
			}
			if ours != theirs {
				t.Errorf("%q %v:\ngracerun gives\n%s\nthe runtime gives\n%s", args, env, ours, theirs)
			}
		}
	}
}

// A runtime that takes LISTEN_PID for its own number must find it there.
func TestListenPid(t *testing.T) {
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"ociVersion":"1.0.2"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"create", "--bundle", bundle, "id"}, {"exec", "id"}} {
		// The shell becomes gracerun, and has the number before.
		script := `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"`
		got := outcome(t, "/bin/sh", []string{"GRACERUN_RUNTIME=" + fakeRuntime(t)}, append([]string{"-c", script, gracerun()}, args...)...)
		if !strings.Contains(got, " mine\n") {
			t.Errorf("%v: %s", args, got)
		}
	}
}

// The runtime dies with gracerun, as it would if gracerun were not there.
func TestKilledWithItsRuntime(t *testing.T) {
	bundle, pids := t.TempDir(), filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"ociVersion":"1.0.2"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	runtime := filepath.Join(t.TempDir(), "runc")
	if err := os.WriteFile(runtime, []byte("#!/bin/sh\necho $$ > "+pids+".new; mv "+pids+".new "+pids+"\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(patience(t))
	cmd := exec.CommandContext(ctx, gracerun(), "--root", t.TempDir(), "create", "--bundle", bundle, "id")
	cmd.Env = append(os.Environ(), "GRACERUN_RUNTIME="+runtime, "GRACERUN_STATE_DIR="+t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if err := testbed.Until(patience(t), "the runtime runs", func() bool {
		text, _ := os.ReadFile(pids)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0
	}); err != nil {
		t.Fatal(err)
	}
	cancel() // kills gracerun
	_ = cmd.Wait()
	if err := testbed.Until(patience(t), "the runtime has ended", func() bool {
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		return unix.Kill(pid, 0) == unix.ESRCH
	}); err != nil {
		t.Error(err)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}
