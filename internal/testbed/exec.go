package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/timeline"
)

// Exec is a command in the container that a monitor of its own looks after.
type Exec struct {
	Log string // its log, in the k8s-file format

	container *Container
	cmd       *exec.Cmd
	sync      *os.File
	monitor   process.Pidfd
	said      bytes.Buffer
}

// ExecSync begins to run a script in the container as CRI-O does
// (internal/oci/runtime_oci.go, ExecSyncContainer); timeout in whole seconds.
func (c *Container) ExecSync(ctx context.Context, script string, timeout time.Duration) (*Exec, error) {
	spec, err := json.Marshal(&specs.Process{
		Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}, Args: []string{"/bin/sh", "-c", script},
	})
	if err != nil {
		return nil, err
	}
	specFile := filepath.Join(c.dir, "exec-process.json")
	if err := os.WriteFile(specFile, spec, 0o644); err != nil {
		return nil, err
	}
	sync, syncChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer syncChild.Close()
	startChild, start, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer start.Close()
	defer startChild.Close()
	e := &Exec{Log: filepath.Join(c.dir, "exec-log"), container: c, sync: sync, monitor: -1}
	e.cmd = c.stack.command(ctx, c.bundle, c.stack.Monitor,
		"-c", c.ID, "-n", c.ID, "-r", c.runtime, "-p", filepath.Join(c.dir, "exec-pidfile"), "-e", "-l", e.Log,
		"--socket-dir-path", c.dir+"/attach", "--log-level", "info", "--sync",
		"-T", strconv.Itoa(int(timeout.Seconds())), "--exec-process-spec", specFile, "--runtime-arg", "--root="+c.root)
	e.cmd.Env = append(c.env, "_OCI_SYNCPIPE=3", "_OCI_STARTPIPE=4")
	e.cmd.ExtraFiles = []*os.File{syncChild, startChild}
	e.cmd.Stdout, e.cmd.Stderr = &e.said, &e.said
	e.cmd.WaitDelay = time.Second
	c.Note(timeline.Caller, timeline.Note, "CRI-O: exec within %s, by %s", timeout, filepath.Base(c.stack.Monitor))
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	if e.monitor, err = process.Open(e.cmd.Process.Pid); err != nil {
		return nil, err
	}
	_, err = start.Write([]byte{0})
	return e, err
}

// Signal sends a signal to the monitor of the exec.
func (e *Exec) Signal(who string, sig signals.Signal) error {
	e.container.Note(timeline.Caller, timeline.Note, "%s: %s to %s of the exec", who, sig, filepath.Base(e.container.stack.Monitor))
	return e.monitor.Send(sig)
}

// Wait waits for the monitor's end, and closes everything.
func (e *Exec) Wait() error {
	defer e.sync.Close()
	defer e.monitor.Close()
	err := e.cmd.Wait()
	e.container.Note(timeline.Monitor, timeline.Exit, "the exec's monitor has ended")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("exec: %w: %s", err, e.said.String())
	}
	return nil // the exit status is the command's, or of its being timed out
}
