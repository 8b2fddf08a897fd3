//go:build linux && (amd64 || arm64)

package ownsignal

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

var catcher = sync.OnceValues(func() (Catcher, error) {
	return Catch(signals.TERM, signals.USR1, signals.CHLD)
})

func catch(t *testing.T) Catcher {
	t.Helper()
	c, err := catcher()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// await waits until that signal was caught, whatever else comes.
func await(t *testing.T, c Catcher, want signals.Signal) {
	t.Helper()
	for {
		fds := []unix.PollFd{{Fd: int32(c.FD()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 30_000)
		if err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		if err == nil && n == 0 {
			t.Fatalf("%v did not come", want)
		}
		if c.Take().Has(want) {
			return
		}
	}
}

func TestTake(t *testing.T) {
	c := catch(t)
	for range 1000 {
		if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		await(t, c, signals.TERM)
	}
}

// Signals come while goroutines grow their stacks and the collector stops them.
func TestBesideTheRuntime(t *testing.T) {
	c := catch(t)
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 4 {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					deep(200)
					runtime.GC()
				}
			}
		})
	}
	for range 2000 {
		if err := unix.Kill(os.Getpid(), unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		await(t, c, signals.USR1)
	}
	close(stop)
	busy.Wait()
}

func deep(n int) [64]byte {
	if n == 0 {
		return [64]byte{}
	}
	b := deep(n - 1)
	b[n%64]++
	return b
}

// A program that is started has no signal blocked, no handler, and ignores only
// what this process was itself started to ignore, as a shell's background jobs are.
func TestChildrenAreFree(t *testing.T) {
	c := catch(t)
	text, err := exec.Command("cat", "/proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	await(t, c, signals.CHLD)
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, ignored, _ := strings.Cut(string(own), "SigIgn:")
	ignored, _, _ = strings.Cut(ignored, "\n")
	for _, line := range []string{"SigBlk:\t0000000000000000", "SigIgn:" + ignored, "SigCgt:\t0000000000000000"} {
		if !strings.Contains(string(text), line) {
			t.Errorf("want %q in\n%s", line, text)
		}
	}
}

func TestNext(t *testing.T) {
	s := Set(1<<signals.TERM | 1<<signals.INT)
	first, rest := s.Next()
	second, rest := rest.Next()
	if none, _ := rest.Next(); first != signals.INT || second != signals.TERM || none != 0 {
		t.Errorf("Next gives %v, %v, %v", first, second, none)
	}
}
