package podman

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"gracerun.io/internal/testbed"
)

// patience is how long anything may take before the test gives up. Nothing here
// takes a tenth of it on a machine that has other work to do.
const patience = 3 * time.Minute

// A user works with one container of a stack, and notes what is seen.
type user struct {
	*stack
	name  string // of the container
	dir   string
	notes []string
	calls []string // for whoever has to find out what went wrong
}

// failed is what a user who cannot go on panics with.
type failed struct{ error }

func (u *user) fail(format string, args ...any) {
	panic(failed{fmt.Errorf(format+"\ncalls:\n%s", append(args, strings.Join(u.calls, "\n"))...)})
}

func (u *user) must(err error) {
	if err != nil {
		u.fail("%v", err)
	}
}

// note adds a line to what was seen.
func (u *user) note(format string, args ...any) {
	u.notes = append(u.notes, u.plain(fmt.Sprintf(format, args...)))
}

var (
	id   = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	when = regexp.MustCompile(`time=\S+ `)
)

// plain takes out what is different from stack to stack.
func (u *user) plain(text string) string {
	text = strings.ReplaceAll(text, u.called, "RUNTIME")
	text = strings.ReplaceAll(text, u.dir, "DIR")
	text = when.ReplaceAllString(text, "")
	return id.ReplaceAllString(text, "ID")
}

// A call of podman that has ended.
type call struct {
	code     int
	out, err string
	took     time.Duration
}

func (c call) String() string { return fmt.Sprintf("%d %q %q", c.code, c.out, c.err) }

// do calls podman and waits for its end.
func (u *user) do(args ...string) call { return u.feed(nil, args...) }

// feed does with input.
func (u *user) feed(input io.Reader, args ...string) call {
	return u.finish(u.begin(input, args...))
}

// A running call.
type running struct {
	*exec.Cmd
	args     []string
	out, err testbed.Output
	since    time.Time
}

func (u *user) begin(input io.Reader, args ...string) *running {
	r := &running{Cmd: u.podman(args...), args: args}
	r.Stdin, r.Stdout, r.Stderr = input, &r.out, &r.err
	r.since = time.Now()
	u.must(r.Start())
	return r
}

func (u *user) finish(r *running) call {
	timer := time.AfterFunc(patience, func() { _ = r.Process.Kill() })
	err := r.Wait()
	c := call{out: r.out.String(), err: r.err.String(), took: time.Since(r.since), code: r.ProcessState.ExitCode()}
	u.calls = append(u.calls, fmt.Sprintf("podman %s: %.300s (%s)", strings.Join(r.args, " "), c, c.took.Round(time.Millisecond)))
	if !timer.Stop() {
		u.fail("podman %v did not end", r.args)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		u.fail("podman %v: %v", r.args, err)
	}
	return c
}

// ok does what has to succeed, and gives its output without the last end of line.
func (u *user) ok(args ...string) string {
	c := u.do(args...)
	if c.code != 0 {
		u.fail("podman %v: exit status %d: %s", args, c.code, c.err)
	}
	return strings.TrimSuffix(c.out, "\n")
}

// run gives the arguments of run or create with a script.
func (u *user) run(script string, options ...string) []string {
	return u.command("run", append(options, "box", "/bin/sh", "-c", script)...)
}

func (u *user) command(command string, rest ...string) []string {
	return append(append([]string{command, "--name", u.name}, u.flags()...), rest...)
}

// up starts a script in the background, and waits until it has said "up".
func (u *user) up(script string, options ...string) {
	u.ok(u.run("echo up; "+script, append([]string{"--detach", "--log-opt", "path=" + u.dir + "/up.log"}, options...)...)...)
	u.says("up")
}

// says waits for a line in the log of a container that is up.
func (u *user) says(line string) {
	u.until("the container says "+line, func() bool {
		text, err := os.ReadFile(u.dir + "/up.log")
		return err == nil && strings.Contains(string(text), " F "+line+"\n")
	})
}

func (u *user) inspect(format string) string {
	return u.ok("container", "inspect", "--format", format, u.name)
}

// waited waits for the container's end and gives its exit status.
func (u *user) waited() string { return u.ok("wait", u.name) }

func (u *user) until(what string, holds func() bool) {
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			u.fail("waited in vain until %s", what)
		}
	}
}

// between notes whether something took as long as it has to.
func (u *user) between(what string, took, least, most time.Duration) {
	if took < least || took > most {
		u.note("%s took %s, not %s to %s", what, took.Round(time.Millisecond), least, most)
	}
}

// alive reports whether there is such a process.
func alive(pid string) bool {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(text), ") Z ")
}
