package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be a process that has a host and is killed.
func TestMain(m *testing.M) {
	if pidFile := os.Getenv("GRACELAB_TEST_BOUND"); pidFile != "" {
		err := runBound(exec.Command("sh", "-c", "echo $$ >"+pidFile+".new; mv "+pidFile+".new "+pidFile+"; exec sleep 1000"))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestNothingOutlivesItsTest: a program that is run for a host ends with the
// process that has started it, which had no time to see to that.
func TestNothingOutlivesItsTest(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "GRACELAB_TEST_BOUND="+pidFile)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Wait()
	defer parent.Process.Kill()
	pid := 0
	eventually(t, "the program runs", func() bool {
		text, err := os.ReadFile(pidFile)
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err == nil
	})
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	eventually(t, "the program has ended", func() bool {
		n, _ := unix.Poll(ended, 100)
		return n == 1
	})
}

// TestProgress: silence ends a host, slowness does not.
func TestProgress(t *testing.T) {
	var p progress
	now := time.Unix(1000, 0)
	for _, look := range []struct {
		after time.Duration
		size  int64
		want  time.Duration
	}{
		{0, 0, 0}, {4 * time.Minute, 0, 4 * time.Minute}, {time.Second, 10, 0}, {4 * time.Minute, 10, 4 * time.Minute},
		{time.Hour, 11, 0}, {time.Second, 11, time.Second}, {time.Minute, 11, 61 * time.Second},
	} {
		now = now.Add(look.after)
		if got := p.silent(now, look.size); got != look.want {
			t.Errorf("after %v with %d bytes: silent for %v, want %v", look.after, look.size, got, look.want)
		}
	}
}

func TestSilenceEndsAHost(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "output"), []byte("it boots\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	const patience = 200 * time.Millisecond
	began := time.Now()
	go watchProgress(ctx, cancel, patience, filepath.Join(dir, "console"), filepath.Join(dir, "output"))
	<-ctx.Done()
	if took := time.Since(began); took < patience {
		t.Errorf("ended after %v", took)
	}
	if err := context.Cause(ctx); !strings.Contains(err.Error(), "nothing new from it for 200ms") {
		t.Error(err)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
