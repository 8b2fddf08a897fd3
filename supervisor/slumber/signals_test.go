//go:build linux && (amd64 || arm64)

package slumber

import (
	"bufio"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

// Whenever a signal comes, to who is awake, falls asleep, sleeps or wakes up, it is
// heard, once.
func TestNoSignalIsLost(t *testing.T) {
	rounds := 500
	if os.Getenv("GRACERUN_SOAK") != "" {
		rounds = 100_000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	path := helper(t, "helper", "-tags", Tag, "-ldflags", LinkerFlags)
	for _, cpus := range []string{"1", "2"} {
		cmd := exec.Command(path, "hear")
		cmd.Env = []string{"GOMAXPROCS=" + cpus}
		input, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		output, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := make(chan string, 100)
		go func() {
			defer close(lines)
			for s := bufio.NewScanner(output); s.Scan(); {
				lines <- s.Text()
			}
		}()
		awake, heard := 0, 0
		next := func() string {
			for {
				select {
				case line, ok := <-lines:
					switch {
					case !ok:
						t.Fatalf("after %d signals and %d wakes it has ended: %v", heard, awake, cmd.Wait())
					case line == "awake":
						awake++
						continue
					}
					return line
				case <-time.After(20 * time.Second):
					status, _ := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status")
					t.Fatalf("after %d signals and %d wakes one is not heard:\n%s", heard, awake, status)
				}
			}
		}
		// From its first word on it catches them.
		if line := <-lines; line != "awake" {
			t.Fatal(line)
		}
		// The first of a round wakes it up at most, and the others come in the midst of that.
		for heard < rounds {
			missing := map[string]bool{}
			for _, i := range random.Perm(3)[:1+random.IntN(3)] {
				sig := [...]syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT}[i]
				if err := cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				missing[signals.Signal(sig).String()] = true
				pause(random, 2*time.Millisecond)
			}
			for len(missing) > 0 {
				line := next()
				if !missing[line] {
					t.Fatalf("after %d signals: it hears %s, not %v", heard, line, missing)
				}
				delete(missing, line)
				heard++
			}
			pause(random, 10*time.Millisecond)
		}
		t.Logf("GOMAXPROCS=%s: %d signals, woken %d times", cpus, heard, awake)
		if awake < rounds/10 {
			t.Errorf("it has hardly slept")
		}
		input.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// pause is one of up to that length.
func pause(random *rand.Rand, most time.Duration) {
	for end := time.Now().Add(time.Duration(random.Int64N(int64(most)))); time.Now().Before(end); {
		if random.IntN(2) == 0 {
			time.Sleep(50 * time.Microsecond)
		}
	}
}
