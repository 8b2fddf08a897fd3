package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// patience is how long anything may take before the test gives up. Nothing here
// takes a tenth of it.
const patience = 60 * time.Second

// A container is one container of a runtime under test. config is written to the
// bundle by create.
type container struct {
	t       *testing.T
	runtime *runtimeUnderTest
	root    string // of the runtime's state
	bundle  string
	id      string
	config  *specs.Spec
	output  *bufio.Reader // of the container's process
	reader  *os.File      // beneath it
}

var counter atomic.Int64

func newContainer(t *testing.T, r *runtimeUnderTest) *container {
	c := &container{
		t:       t,
		runtime: r,
		root:    t.TempDir(),
		bundle:  t.TempDir(),
		id:      fmt.Sprintf("lifecycle-%d-%d", os.Getpid(), counter.Add(1)),
	}
	c.config = newConfig(t, c.bundle, c.id)
	t.Cleanup(c.cleanUp)
	return c
}

// cleanUp leaves nothing behind, whatever the case has done.
func (c *container) cleanUp() {
	state, err := c.state()
	if err == nil {
		if err := c.run("delete", "--force", c.id); err != nil {
			c.t.Errorf("delete --force after the test: %v", err)
		}
		if state.Pid > 0 {
			_, _ = unix.Wait4(state.Pid, nil, unix.WNOHANG, nil)
		}
	}
	if c.reader != nil {
		c.reader.Close()
	}
}

// A commandError is what a failing call of the runtime says.
type commandError struct {
	args   []string
	code   int
	stderr string
}

func (e *commandError) Error() string {
	return fmt.Sprintf("%s: exit code %d: %s", strings.Join(e.args, " "), e.code, strings.TrimSpace(e.stderr))
}

func (c *container) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := c.runtime.command(ctx, c.bundle, append([]string{"--root", c.root}, args...)...)
	cmd.Env = append(cmd.Env, "GRACERUN_STATE_DIR="+filepath.Join(c.root, "gracerun"))
	return cmd
}

func (c *container) run(args ...string) error {
	_, err := c.ask(args...)
	return err
}

// ask runs a command and gives its standard output.
func (c *container) ask(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := c.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = patience
	err := cmd.Run()
	return stdout.Bytes(), c.failure(ctx, args, err, stderr.String())
}

func (c *container) failure(ctx context.Context, args []string, err error, stderr string) error {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s hangs: %w: %s", strings.Join(args, " "), ctx.Err(), stderr)
	case errors.As(err, &exit) && exit.Exited():
		return &commandError{args, exit.ExitCode(), stderr}
	}
	return err
}

// create writes config.json and creates the container. Its process gets a pipe
// as standard output, which line reads.
func (c *container) create() error {
	c.writeConfig()
	return c.createAs(c.id, "--bundle", c.bundle)
}

func (c *container) writeConfig() {
	text, err := json.Marshal(c.config)
	if err != nil {
		c.t.Fatal(err)
	}
	c.writeBundleFile("config.json", string(text))
}

func (c *container) writeBundleFile(name, text string) {
	if err := os.WriteFile(filepath.Join(c.bundle, name), []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

func (c *container) createAs(id string, options ...string) error {
	reader, writer, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	defer writer.Close()
	// A file, since the container keeps it: nobody would see the end of a pipe.
	stderr, err := os.Create(filepath.Join(c.bundle, "stderr"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer stderr.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	args := append(append([]string{"create"}, options...), id)
	cmd := c.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = writer, stderr
	err = cmd.Run()
	text, _ := os.ReadFile(stderr.Name())
	if err := c.failure(ctx, args, err, string(text)); err != nil {
		reader.Close()
		return err
	}
	if c.reader != nil {
		c.reader.Close()
	}
	c.reader, c.output = reader, bufio.NewReader(reader)
	return nil
}

// line waits for the next line that the container's process writes.
func (c *container) line() (string, error) {
	if err := c.reader.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	line, err := c.output.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// says is an error unless the next line is this one.
func (c *container) says(want string) error {
	got, err := c.line()
	if err != nil {
		return fmt.Errorf("the process should have said %q: %w", want, err)
	}
	if got != want {
		return fmt.Errorf("the process said %q, not %q", got, want)
	}
	return nil
}

// silent is an error if the process has written anything so far.
func (c *container) silent() error {
	fds := []unix.PollFd{{Fd: int32(c.reader.Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); err != nil {
		return err
	} else if n > 0 && fds[0].Revents&unix.POLLIN != 0 {
		line, err := c.line()
		return fmt.Errorf("the process has written %q already (%v)", line, err)
	}
	return nil
}

func (c *container) state() (*specs.State, error) {
	text, err := c.ask("state", c.id)
	if err != nil {
		return nil, err
	}
	state := &specs.State{}
	if err := json.Unmarshal(text, state); err != nil {
		return nil, fmt.Errorf("state is not JSON: %w: %s", err, text)
	}
	return state, nil
}

func (c *container) hasStatus(want specs.ContainerState) error {
	state, err := c.state()
	if err != nil {
		return err
	}
	if state.Status != want {
		return fmt.Errorf("status is %s, not %s", state.Status, want)
	}
	return nil
}

// gone is an error if the runtime still knows the container.
func (c *container) gone() error {
	if state, err := c.state(); err == nil {
		return fmt.Errorf("the container is still there, %s", state.Status)
	}
	return nil
}

// startIdle creates and starts the idle program and waits until it is ready for
// signals.
func (c *container) startIdle() error {
	if err := c.create(); err != nil {
		return err
	}
	if err := c.run("start", c.id); err != nil {
		return err
	}
	return c.says("ready")
}

// ended waits for the end of the container's process and gives its wait status.
func ended(pid int) (unix.WaitStatus, error) {
	type end struct {
		status unix.WaitStatus
		err    error
	}
	waited := make(chan end, 1)
	go func() {
		var e end
		for e.err = unix.EINTR; e.err == unix.EINTR; {
			_, e.err = unix.Wait4(pid, &e.status, 0, nil)
		}
		waited <- e
	}()
	select {
	case e := <-waited:
		return e.status, e.err
	case <-time.After(patience):
		return 0, fmt.Errorf("process %d does not end", pid)
	}
}

// stop ends the container's process with KILL, and waits.
func (c *container) stop() error {
	state, err := c.state()
	if err != nil {
		return err
	}
	if err := c.run("kill", c.id, "KILL"); err != nil {
		return err
	}
	_, err = ended(state.Pid)
	return err
}

// refused is an error if a command that must fail did not. An exit code of -1
// would be a crash, which is no way to refuse.
func refused(err error) error {
	var failed *commandError
	switch {
	case err == nil:
		return errors.New("the command should have failed")
	case errors.As(err, &failed) && strings.TrimSpace(failed.stderr) == "":
		return fmt.Errorf("%w (and it does not say why)", err)
	case errors.As(err, &failed):
		return nil
	}
	return err
}

// first gives the first error of several checks in a row.
func first(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}
