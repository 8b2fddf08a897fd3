package signalpath

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
)

// A container that is run in the foreground and ends leaves its id to the next at
// once, whether or not what is left of it has been swept away.
func TestRunAgainAtOnce(t *testing.T) {
	besides(t, func(t *testing.T, p pairing) {
		c, err := p.stack.New(t.TempDir(), testbed.Options{Workload: "exit 0"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 6 {
			if got := call(t, c, gracerun(), "run", "--bundle", c.Bundle(), c.ID); got.code != 0 {
				t.Fatalf("run %d: %+v", i+1, got)
			}
		}
	})
}

// What gracerun knows of a container is not said of another of the same id, which
// the runtime has made without it: after a stop of a container that was not
// gracerun's and that was interrupted, or after a delete behind its back.
func TestSucceededBehindItsBack(t *testing.T) {
	besides(t, func(t *testing.T, p pairing) {
		c := bare(t, p)
		if got, err := createAlone(t, c, nil); err != nil || got.code != 0 {
			t.Fatalf("create: %+v, %v", got, err)
		}
		if got := call(t, c, p.stack.Wrapped, "delete", "--force", c.ID); got.code != 0 {
			t.Fatalf("delete: %+v", got)
		}
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		again := c.Command(patience(t), p.stack.Wrapped, "create", "--bundle", c.Bundle(), c.ID)
		again.Stdout, again.Stderr = null, null
		if err := again.Run(); err != nil {
			t.Fatal(err)
		}
		if got := call(t, c, gracerun(), "state", c.ID); !strings.Contains(got.stdout, `"status": "created"`) {
			t.Errorf("state: %+v", got)
		}
		if got := call(t, c, gracerun(), "kill", c.ID, "KILL"); got.code != 0 {
			t.Errorf("kill: %+v", got)
		}
	})
}

// A command that is handed on goes to the runtime that has made the container,
// whatever is configured by then.
func TestMakerIsAsked(t *testing.T) {
	besides(t, func(t *testing.T, p pairing) {
		c := bare(t, p)
		if got, err := createAlone(t, c, nil); err != nil || got.code != 0 {
			t.Fatalf("create: %+v, %v", got, err)
		}
		other := filepath.Join(t.TempDir(), "crun")
		if err := os.WriteFile(other, []byte("#!/bin/sh\necho a stranger >&2\nexit 7\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"ps", c.ID}, {"update", "--pids-limit", "100", c.ID}, {"exec", "--cwd", "/", c.ID, "true"}, {"events", "--stats", c.ID}} {
			got, err := try(patience(t), c, gracerun(), []string{"GRACERUN_RUNTIME=" + other}, args...)
			if err != nil || got.code == 7 || strings.Contains(got.stderr, "a stranger") {
				t.Errorf("%s: %+v, %v", args[0], got, err)
			}
		}
	})
}

// A state base that is not on a tmpfs outlives the boot, and numbers, start times and
// inodes of processes come again: what was init before is not taken for one of now.
func TestAfterAnotherBoot(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		if !strings.HasPrefix(p.name, "conmon") {
			t.Skip("a gracemon does not outlive the boot")
		}
		c := start(t, p, testbed.Options{Workload: orderly, Grace: time.Minute})
		path := filepath.Join(c.StateDir(), "runtime")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		boot := regexp.MustCompile(`boot=[0-9a-f]{8}`)
		if !boot.Match(text) {
			t.Fatalf("no boot in %s", text)
		}
		if err := os.WriteFile(path, boot.ReplaceAll(text, []byte("boot=01234567")), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := call(t, c, gracerun(), "state", c.ID); !strings.Contains(got.stdout, `"status": "stopped"`) {
			t.Errorf("state: %+v", got)
		}
		for _, sig := range []string{"0", "TERM", "KILL"} {
			if got := call(t, c, gracerun(), "kill", c.ID, sig); got.code == 0 || !strings.Contains(got.stderr, "container not running") {
				t.Errorf("kill %s: %+v", sig, got)
			}
		}
		if exited, err := c.Init.Exited(); exited || err != nil {
			t.Errorf("a process of this boot was killed (%v)", err)
		}
	})
}

// Who stops a container under another root is told where there is one.
func TestStopUnderAnotherRoot(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		if !strings.Contains(p.name, "over runc") {
			t.Skip("one runtime is enough")
		}
		c := start(t, p, testbed.Options{Workload: orderly, Grace: time.Minute})
		want := "container does not exist; there is one with --root " + c.Root()
		for _, options := range [][]string{{"--root", t.TempDir()}, nil} {
			cmd := c.Command(patience(t), gracerun())
			cmd.Args = append(append(cmd.Args[:len(cmd.Args)-2], options...), "stop", c.ID)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), want) {
				t.Errorf("stop with %q: %s, %v; want %q", options, out, err, want)
			}
		}
	})
}
