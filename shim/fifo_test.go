package shim

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
)

// waitAt starts a shell in the place of a container's init.
func waitAt(t *testing.T, script string) (k known, cmd *exec.Cmd) {
	t.Helper()
	dir := t.TempDir()
	k.Container = &oci.Container{Dir: dir}
	if err := unix.Mkfifo(k.FIFO(), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("sh", "-c", script, k.FIFO())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var err error
	if k.init, err = process.Open(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		k.close()
	})
	return k, cmd
}

// A reader that is opened for reading and writing keeps the FIFO open, as crun's init does.
const (
	crunInit = `exec 3<>$0; echo ready > $0.ready; dd bs=1 count=1 <&3 2>/dev/null >/dev/null; exit 7`
	runcInit = `printf 0 > $0; exit 7`
)

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + " does not come")
		}
	}
}

func TestStartDirectly(t *testing.T) {
	for _, style := range []oci.Style{oci.Crun, oci.Runc} {
		script := crunInit
		if style == oci.Runc {
			script = runcInit
		}
		k, cmd := waitAt(t, script)
		k.Style = style
		if style == oci.Crun {
			until(t, "its reader", func() bool { _, err := os.Stat(k.FIFO() + ".ready"); return err == nil })
		}
		dir := stateOf(t)
		if startDirectly(dir, k) {
			t.Fatal("it is started though nobody has allowed it")
		}
		allow(t, dir, style, &bundle.Config{})
		t.Setenv("NOTIFY_SOCKET", "/x")
		if startDirectly(dir, k) {
			t.Fatal("it is started though its runtime is to serve a socket")
		}
		os.Unsetenv("NOTIFY_SOCKET")
		if !startDirectly(dir, k) {
			t.Fatal("it is not started")
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
			t.Error(err)
		}
		if _, err := os.Stat(k.FIFO()); err == nil {
			t.Error("the FIFO is there")
		}
		if startDirectly(dir, k) {
			t.Error("it is started twice")
		}
	}
}

// One of two that start a container lets init through; the other leaves it to the runtime.
func TestOneStarts(t *testing.T) {
	for _, style := range []oci.Style{oci.Crun, oci.Runc} {
		script := crunInit
		if style == oci.Runc {
			script = runcInit
		}
		for range 20 {
			k, cmd := waitAt(t, script)
			k.Style = style
			if style == oci.Crun {
				until(t, "its reader", func() bool { _, err := os.Stat(k.FIFO() + ".ready"); return err == nil })
			}
			dir := stateOf(t)
			allow(t, dir, style, &bundle.Config{})
			started := make(chan bool)
			for range 2 {
				go func() { started <- startDirectly(dir, k) }()
			}
			if a, b := <-started, <-started; a == b {
				t.Fatalf("%v and %v", a, b)
			}
			cmd.Wait()
		}
	}
}

// An init that dies is started by nobody, and waited for by nobody.
func TestStartOfADeadInit(t *testing.T) {
	k, cmd := waitAt(t, "exec sleep 1000")
	k.Style = oci.Runc
	dir := stateOf(t)
	allow(t, dir, oci.Runc, &bundle.Config{})
	time.AfterFunc(10*time.Millisecond, func() { cmd.Process.Kill() })
	if startDirectly(dir, k) {
		t.Error("it is started")
	}
}

// allow has the container's create allow it.
func allow(t *testing.T, dir *statedir.Dir, style oci.Style, config *bundle.Config) {
	t.Helper()
	oci.AllowDirectStart(dir, &oci.Container{Program: program(t, style), Style: style}, config)
}

// program makes one of that name that is no script.
func program(t *testing.T, style oci.Style) string {
	t.Helper()
	name := map[oci.Style]string{oci.Crun: "crun", oci.Runc: "runc"}[style]
	path := filepath.Join(t.TempDir(), name)
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func stateOf(t *testing.T) *statedir.Dir {
	t.Helper()
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	dir, err := statedir.Create("/root", "c1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}
