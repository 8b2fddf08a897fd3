// Package signalpath holds the signal path of gracerun under many callers at
// once, with each of {conmon, gracemon} x {stock runtime, gracerun}, and what it
// says beside what the wrapped runtime says.
package signalpath

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
)

// A pairing is a monitor and a runtime that the monitor calls. Signals are always
// sent by gracerun.
type pairing struct {
	name  string
	stack *testbed.Stack

	machine bool // there is a machine: a gracemon, or gracerun has made the container
	forgets bool // what is known of a container goes with its end: nobody will delete it by gracerun
}

var programs = sync.OnceValues(func() (dir string, missing map[string]string) {
	dir, err := os.MkdirTemp("", "gracerun-signalpath-")
	if err != nil {
		panic(err)
	}
	return dir, testbed.Build(dir, "gracemon", "gracerun", "gracerun-native")
})

func gracerun() string {
	dir, _ := programs()
	return filepath.Join(dir, "gracerun")
}

func TestMain(m *testing.M) {
	// Inits of containers without a monitor are reparented to this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	code := m.Run()
	dir, _ := programs()
	os.RemoveAll(dir)
	os.Exit(code)
}

// pairings gives all four for each runtime that is installed.
func pairings(t *testing.T) (all []pairing) {
	dir, missing := programs()
	for name, why := range missing {
		t.Fatalf("%s: %s", name, why)
	}
	conmon, err := exec.LookPath("conmon")
	for _, name := range []string{"crun", "runc"} {
		ours := testbed.Ours(dir, name)
		all = append(all, pairing{"gracemon and gracerun over " + name, ours, true, false})
		stock := *ours
		stock.Runtime = ours.Wrapped
		all = append(all, pairing{"gracemon and " + name, &stock, true, true})
		alone := *ours
		alone.Monitor = conmon
		if err != nil && alone.Missing == "" {
			alone.Missing = "conmon is not installed"
		}
		all = append(all, pairing{"conmon and gracerun over " + name, &alone, true, false})
		neither := alone
		neither.Runtime = ours.Wrapped
		all = append(all, pairing{"conmon and " + name, &neither, false, true})
	}
	return all
}

// each runs a test with each pairing.
func each(t *testing.T, machine bool, test func(t *testing.T, p pairing)) {
	for _, p := range pairings(t) {
		if machine && !p.machine {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			if p.stack.Missing != "" {
				t.Skip(p.stack.Missing)
			}
			test(t, p)
		})
	}
}

// start makes a container and waits until its workload says "ready".
func start(t *testing.T, p pairing, o testbed.Options) *testbed.Container {
	t.Helper()
	ctx := patience(t)
	c := create(t, p, o)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Await(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	return c
}

func create(t *testing.T, p pairing, o testbed.Options) *testbed.Container {
	t.Helper()
	c, err := p.stack.New(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(); err != nil && !strings.Contains(err.Error(), "does not exist") && !strings.Contains(err.Error(), "No such file") {
			t.Error(err)
		}
	})
	if err := c.Create(patience(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testbed.Patience)
	t.Cleanup(cancel)
	return ctx
}

// A result is what a call of a runtime has come to.
type result struct {
	stdout, stderr string
	code           int
}

// call calls a runtime for the container.
func call(t *testing.T, c *testbed.Container, program string, args ...string) result {
	t.Helper()
	r, err := try(patience(t), c, program, nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// try is call for goroutines of a test.
func try(ctx context.Context, c *testbed.Container, program string, env []string, args ...string) (r result, err error) {
	cmd := c.Command(ctx, program, args...)
	cmd.Env = append(append([]string(nil), cmd.Env...), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && (exit.Exited() || env != nil) {
		err = nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%s hangs", strings.Join(args, " "))
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, err
}

// atOnce makes so many calls, a few dozen of them at a time.
func atOnce(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	free := make(chan struct{}, 32)
	errs := make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		free <- struct{}{}
		wait.Go(func() {
			errs[i] = do(i)
			<-free
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}
