package signalpath

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gracerun.io/internal/testbed"
	"gracerun.io/signals/process"
)

// hook gives the container a hook that is this script; it runs on the host, in the
// environment of a caller of gracerun.
func hook(t *testing.T, c *testbed.Container, script string, put func(*specs.Hooks, specs.Hook)) {
	t.Helper()
	path := filepath.Join(c.Bundle(), "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var config specs.Spec
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	config.Hooks = &specs.Hooks{}
	// A hook that does not read the state it is given may end before that was
	// written: the runtime then dies of SIGPIPE.
	put(config.Hooks, specs.Hook{
		Path: "/bin/sh", Args: []string{"sh", "-c", "cat >/dev/null\n" + script, gracerun(), c.Root(), c.ID, c.Data},
		Env: c.Command(t.Context(), gracerun()).Env,
	})
	if text, err = json.Marshal(&config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func poststop(hooks *specs.Hooks, h specs.Hook) { hooks.Poststop = append(hooks.Poststop, h) }

// ended makes a container whose program has ended.
func ended(t *testing.T, c *testbed.Container) {
	t.Helper()
	if got, err := createAlone(t, c, nil); err != nil || got.code != 0 {
		t.Fatalf("create: %+v, %v", got, err)
	}
	for _, args := range [][]string{{"start", c.ID}, {"kill", c.ID, "KILL"}} {
		if got := call(t, c, gracerun(), args...); got.code != 0 {
			t.Fatalf("%v: %+v", args, got)
		}
	}
	awaitStopped(t, c, "delete")
}

// A poststop hook asks gracerun about the container that is being deleted, and
// signals it: it is answered, and the delete is not kept waiting.
func TestHookCallsGracerun(t *testing.T) {
	besides(t, func(t *testing.T, p pairing) {
		c := bare(t, p)
		hook(t, c, `for command in state kill stop; do
			"$0" --root "$1" $command "$2" >/dev/null 2>"$3/$command"; echo "$?" >>"$3/$command"
		done`, poststop)
		ended(t, c)
		if got := call(t, c, gracerun(), "delete", c.ID); got.code != 0 {
			t.Fatalf("delete: %+v", got)
		}
		for _, command := range []string{"state", "kill", "stop"} {
			text, err := os.ReadFile(filepath.Join(c.Data, command))
			said, code, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
			right := isGone(said) && code == "1"
			switch command {
			case "state":
				right = right || said == "0"
			case "stop": // it says how the container has ended, if that is known
				right = said == "137" || said == "255"
			}
			if err != nil || !right {
				t.Errorf("%s in a hook of delete: %q, %v", command, text, err)
			}
		}
		if left := files(t, c.StateDir()); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// Of many deletes at once, in the midst of each other, one wins. The others are told
// that there is no such container, once there is none.
func TestOneOfManyDeletes(t *testing.T) {
	besides(t, func(t *testing.T, p pairing) {
		c := bare(t, p)
		hook(t, c, `echo once >>"$3/deleted"`, poststop)
		ended(t, c)
		var deleted atomic.Int32
		ctx := patience(t)
		atOnce(t, 12, func(int) error {
			got, err := try(ctx, c, gracerun(), nil, "delete", c.ID)
			switch {
			case err != nil:
				return err
			case got.code == 0:
				deleted.Add(1)
			case !strings.Contains(got.stderr, "does not exist") && !strings.Contains(got.stderr, "No such file or directory"):
				t.Errorf("delete: %+v", got)
			}
			return nil
		})
		if n := deleted.Load(); n != 1 {
			t.Errorf("%d deletes have worked", n)
		}
		if text, err := os.ReadFile(filepath.Join(c.Data, "deleted")); string(text) != "once\n" {
			t.Errorf("its poststop hook has run %d times, %v", strings.Count(string(text), "\n"), err)
		}
		if left := files(t, c.StateDir()); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// A poststart hook signals its container, whose program runs by then: the signal does
// not wait for the end of the start, which waits for the hook.
func TestHookOfStartSignals(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		if !strings.HasSuffix(p.name, "gracerun over crun") {
			t.Skip("runc runs these hooks at create; and without gracerun no start is asked for")
		}
		c, err := p.stack.New(t.TempDir(), testbed.Options{Workload: orderly, Grace: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { call(t, c, gracerun(), "delete", "--force", c.ID) })
		hook(t, c, `"$0" --root "$1" kill "$2" TERM 2>"$3/kill"; echo "$?" >>"$3/kill"`, func(hooks *specs.Hooks, h specs.Hook) {
			hooks.Poststart = append(hooks.Poststart, h)
		})
		ctx := patience(t)
		if err := c.Create(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.Start(ctx); err != nil {
			t.Errorf("start: %v", err)
		}
		if text, err := os.ReadFile(filepath.Join(c.Data, "kill")); string(text) != "0\n" || err != nil {
			t.Errorf("kill in a hook of start: %q, %v", text, err)
		}
		if got := call(t, c, gracerun(), "trace", c.ID); !strings.Contains(got.stdout, "SIGTERM ok") {
			t.Errorf("it was not delivered: %s", got.stdout)
		}
	})
}

// A create that hangs in a hook is stopped: with the runtime that is killed its own
// children go, such as the hook and an init that is half made.
func TestStopOfAHangingCreate(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		if !strings.HasPrefix(p.name, "gracemon") {
			t.Skip("nobody but gracemon is there to be asked before there is a container")
		}
		c, err := p.stack.New(t.TempDir(), testbed.Options{Workload: orderly})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { call(t, c, p.stack.Wrapped, "delete", "--force", c.ID) })
		hook(t, c, `echo "$$" >"$3/hook.part"; mv "$3/hook.part" "$3/hook"; exec sleep 600`, func(hooks *specs.Hooks, h specs.Hook) {
			hooks.CreateRuntime = append(hooks.CreateRuntime, h)
		})
		created := make(chan error, 1)
		go func() { created <- c.Create(patience(t)) }()
		var hung process.Pidfd
		if err := testbed.Until(patience(t), "the hook hangs", func() bool {
			text, err := os.ReadFile(filepath.Join(c.Data, "hook"))
			if err != nil {
				return false
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			hung, err = process.Open(pid)
			return err == nil
		}); err != nil {
			t.Fatal(err)
		}
		defer hung.Close()
		// There is no end of it to tell: there never was a container.
		if got := call(t, c, gracerun(), "stop", "--timeout", "0", c.ID); !strings.Contains(got.stderr, "does not exist") {
			t.Errorf("stop: %+v", got)
		}
		if err := <-created; err == nil {
			t.Error("it was created")
		}
		if exited, err := hung.Wait(testbed.Patience); !exited || err != nil {
			t.Errorf("its hook lives on: %v", err)
			_ = hung.Send(9)
		}
		if err := testbed.Until(patience(t), "nothing is left", func() bool {
			return len(c.Leftovers()) == 0 && len(files(t, filepath.Join(c.Root(), c.ID))) == 0
		}); err != nil {
			t.Errorf("%v: processes %v, files %v", err, c.Leftovers(), files(t, filepath.Join(c.Root(), c.ID)))
		}
	})
}
