package signalpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
)

// bare makes a container without a monitor: its create is for the test to call.
func bare(t *testing.T, p pairing) *testbed.Container {
	t.Helper()
	c, err := p.stack.New(t.TempDir(), testbed.Options{Workload: orderly, Grace: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, program := range []string{gracerun(), p.stack.Wrapped} {
			call(t, c, program, "delete", "--force", c.ID)
		}
	})
	return c
}

// files are those below a directory, with their whole paths.
func files(t *testing.T, dir string) (all []string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Of many creates of one id one wins, and the others are told why in the words of
// the wrapped runtime.
func TestOneOfManyCreates(t *testing.T) {
	besides(t, func(t *testing.T, p pairing) {
		c := bare(t, p)
		var created atomic.Int32
		ctx := patience(t)
		atOnce(t, 16, func(int) error {
			got, err := createAlone(t, c, nil)
			switch {
			case ctx.Err() != nil || err != nil:
				return fmt.Errorf("create: %w", errors.Join(err, ctx.Err()))
			case got.code == 0:
				created.Add(1)
			case got.code != 1 || !strings.Contains(got.stderr, "already exists"):
				return fmt.Errorf("create: %+v", got)
			}
			return nil
		})
		if n := created.Load(); n != 1 {
			t.Fatalf("%d creates have worked", n)
		}
		if got := call(t, c, gracerun(), "state", c.ID); !strings.Contains(got.stdout, `"status": "created"`) {
			t.Errorf("state: %+v", got)
		}
		if got := call(t, c, gracerun(), "start", c.ID); got != (result{}) {
			t.Errorf("start: %+v", got)
		}
	})
}

// createAlone has gracerun create the container as a monitor does: standard output and
// error are a pipe. The container's init keeps the pipe open, so createAlone reads only
// what is in it when create has returned.
func createAlone(t *testing.T, c *testbed.Container, env []string) (result, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return result{}, err
	}
	defer unix.Close(ends[0])
	if err := unix.SetNonblock(ends[0], true); err != nil {
		return result{}, err
	}
	said := os.NewFile(uintptr(ends[1]), "said")
	cmd := c.Command(patience(t), gracerun(), "create", "--bundle", c.Bundle(), c.ID)
	cmd.Env = append(append([]string(nil), cmd.Env...), env...)
	cmd.Stdout, cmd.Stderr = said, said
	_ = cmd.Run()
	said.Close()
	text := make([]byte, 64<<10)
	n, err := unix.Read(ends[0], text)
	if errors.Is(err, unix.EAGAIN) {
		n, err = 0, nil
	}
	return result{stderr: string(text[:max(n, 0)]), code: cmd.ProcessState.ExitCode()}, err
}

// gracerun dies before or after each call of the wrapped runtime. What it leaves
// can be asked, signalled, and deleted by force.
func TestCrash(t *testing.T) {
	besides(t, func(t *testing.T, p pairing) {
		for _, test := range []struct{ command, plan string }{
			{"create", "runtime.create do=crash"},
			{"create", "runtime.create after do=crash"},
			{"start", "runtime.start do=crash"},
			{"start", "runtime.start after do=crash"},
			{"delete", "runtime.delete do=crash"},
			{"delete", "runtime.delete after do=crash"},
		} {
			t.Run(test.plan, func(t *testing.T) {
				c := bare(t, p)
				faulty := []string{"GRACERUN_FAULTS=" + test.plan}
				var env []string
				if test.command == "create" {
					env = faulty
				}
				created, err := createAlone(t, c, env)
				if err != nil {
					t.Fatal(err)
				}
				steps := map[string][][]string{
					"create": nil,
					"start":  {{"start", c.ID}},
					"delete": {{"start", c.ID}, {"kill", c.ID, "KILL"}, {"delete", c.ID}},
				}[test.command]
				crashed := created
				for _, args := range steps {
					env = nil
					if args[0] == test.command {
						awaitStopped(t, c, test.command)
						env = faulty
					}
					if crashed, err = try(patience(t), c, gracerun(), env, args...); err != nil {
						t.Fatal(err)
					}
				}
				// What create has to say must not land in the container's log.
				if said := strings.Contains(crashed.stderr, "fault plan strikes"); crashed.code != -1 || said == (test.command == "create") {
					t.Fatalf("%s has not crashed: %+v", test.command, crashed)
				}
				stillWorks(t, c, test.command, strings.Contains(test.plan, "after"))

				if got := call(t, c, gracerun(), "delete", "--force", c.ID); got.code != 0 {
					t.Errorf("delete --force: %+v", got)
				}
				left := append(files(t, c.StateDir()), files(t, filepath.Join(c.Root(), c.ID))...)
				if len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
				if pids := c.Leftovers(); len(pids) > 0 {
					t.Errorf("processes are left: %v", pids)
				}
				// And the id is free.
				if got, err := createAlone(t, c, nil); err != nil || got.code != 0 {
					t.Errorf("create after all: %+v, %v", got, err)
				}
			})
		}
	})
}

// awaitStopped waits for the end of a container that was killed, if it is to be
// deleted next.
func awaitStopped(t *testing.T, c *testbed.Container, next string) {
	if next != "delete" {
		return
	}
	if err := testbed.Until(patience(t), "the container has stopped", func() bool {
		_, _ = unix.Wait4(-1, nil, unix.WNOHANG, nil)
		return strings.Contains(call(t, c, gracerun(), "state", c.ID).stdout, `"status": "stopped"`)
	}); err != nil {
		t.Fatal(err)
	}
}

// stillWorks: whatever the crash has left, state tells the truth and a signal
// arrives.
func stillWorks(t *testing.T, c *testbed.Container, crashed string, after bool) {
	t.Helper()
	status := map[string]string{"create": "created", "start": "running", "delete": ""}[crashed]
	if !after {
		status = map[string]string{"create": "", "start": "created", "delete": "stopped"}[crashed]
	}
	state := call(t, c, gracerun(), "state", c.ID)
	switch {
	case status == "" && state.code != 1:
		t.Errorf("state of what is not there: %+v", state)
	case status != "" && !strings.Contains(state.stdout, `"status": "`+status+`"`):
		t.Errorf("state is not %s: %+v", status, state)
	case status == "running" || status == "created":
		if got := call(t, c, gracerun(), "kill", c.ID, "0"); got != (result{}) {
			t.Errorf("is it there? %+v", got)
		}
		if got := call(t, c, gracerun(), "kill", c.ID, "KILL"); got != (result{}) {
			t.Errorf("kill: %+v", got)
		}
	}
}

// Who starts a container and dies does not keep it from being stopped.
func TestStopAfterADeadStart(t *testing.T) {
	besides(t, func(t *testing.T, p pairing) {
		c := bare(t, p)
		if got, err := createAlone(t, c, nil); err != nil || got.code != 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		if _, err := try(patience(t), c, gracerun(), []string{"GRACERUN_FAULTS=runtime.start do=crash"}, "start", c.ID); err != nil {
			t.Fatal(err)
		}
		// What dies is the runtime's own init. As PID 1 it is deaf to TERM, or, as a
		// Go program, it exits with 2.
		got := call(t, c, gracerun(), "stop", "--timeout", "1", c.ID)
		if got != (result{stdout: "signal=9\n", code: 137}) && got != (result{stdout: "code=2\n", code: 2}) {
			t.Errorf("stop: %+v", got)
		}
		if got := call(t, c, gracerun(), "start", c.ID); got.code == 0 {
			t.Error("it was started after it was stopped")
		}
	})
}

// What gracerun keeps of a container is damaged, or another version's. The runtime is
// there to signal it and to delete it; nobody waits for what cannot come.
func TestDamagedState(t *testing.T) {
	besides(t, func(t *testing.T, p pairing) {
		for _, test := range []struct {
			file, call, says string
		}{
			{"runtime", "kill", "the runtime sends the signal"},
			{"journal", "kill", "the runtime sends the signal"},
			{"journal", "stop", "`gracerun kill` leaves it to the runtime"},
			{"container", "kill", ""},
			{"container", "stop", "its end is not recorded"},
		} {
			t.Run(test.file+" "+test.call, func(t *testing.T) {
				c := bare(t, p)
				if got, err := createAlone(t, c, nil); err != nil || got.code != 0 {
					t.Fatalf("create: %+v, %v", got, err)
				}
				if got := call(t, c, gracerun(), "start", c.ID); got.code != 0 {
					t.Fatalf("start: %+v", got)
				}
				if err := os.WriteFile(filepath.Join(c.StateDir(), test.file), []byte("damaged\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				args := []string{"kill", c.ID, "KILL"}
				if test.call == "stop" {
					args = []string{"stop", "--timeout", "0", c.ID}
				}
				got := call(t, c, gracerun(), args...)
				if !strings.Contains(got.stderr, test.says) || test.says == "" && got.stderr != "" {
					t.Errorf("%s: %+v", test.call, got)
				}
				if ends := test.file != "journal" || test.call != "stop"; ends {
					if test.call == "kill" && got.code != 0 {
						t.Errorf("kill: %+v", got)
					}
					awaitStopped(t, c, "delete")
				}
				if got := call(t, c, gracerun(), "delete", "--force", c.ID); got.code != 0 {
					t.Errorf("delete: %+v", got)
				}
				if left := files(t, c.StateDir()); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	})
}
