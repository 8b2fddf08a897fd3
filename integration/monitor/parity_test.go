package monitor

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Whatever a case sees must be what is written here, under gracemon and under
// Debian's conmon alike.
var parity = []struct {
	name string
	// conmon's own fault, or what its version 2.1.6 lacks: only gracemon is tested.
	oursOnly string
	run      func(c *container) string
	script   string
	want     string
}{
	{
		name:   "exit code and output",
		script: "echo out; echo err >&2; exit 7",
		run: func(c *container) string {
			c.started()
			return c.ended()
		},
		want: `exit 7, persisted 7
stderr F err
stdout F out`,
	},
	{
		name:   "killed",
		script: "echo up; sleep 1000",
		run: func(c *container) string {
			c.started()
			c.says("stdout F up")
			c.call("kill", c.id, "KILL")
			return c.ended()
		},
		want: "exit 137, persisted 137\nstdout F up",
	},
	{
		name:   "API version 1",
		script: "exit 0",
		run: func(c *container) string {
			c.create("--api-version", "1")
			message := c.message()
			c.call("start", c.id)
			return message + "\n" + c.ended()
		},
		want: `{"data": PID}` + "\nexit 0, persisted 0",
	},
	{
		name:   "without an end of line",
		script: "printf unfinished",
		run: func(c *container) string {
			c.started()
			return c.ended()
		},
		want: "exit 0, persisted 0\nstdout P unfinished",
	},
	{
		name:   "everything is in the log when the exit file is there",
		script: "seq 1 100000",
		run: func(c *container) string {
			c.started()
			exit := c.exitFile()
			// A line is in parts where a read ended.
			text := strings.NewReplacer("stdout P ", "", "stdout F ", "", "\x00", "").Replace(strings.Join(c.lines(), "\x00"))
			whole := strings.Count(strings.Join(c.lines(), "\n"), "stdout F ")
			return fmt.Sprintf("exit %s, %d bytes of numbers, %d ends of lines", exit, len(text), whole)
		},
		want: "exit 0, 488895 bytes of numbers, 100000 ends of lines",
	},
	{
		name:   "terminal",
		script: "echo out; echo err >&2; test -t 0 && test -t 1 && test -t 2 && echo terminal",
		run: func(c *container) string {
			c.spec.Process.Terminal = true
			c.started("-t")
			return c.ended()
		},
		want: "exit 0, persisted 0\nstdout F err\r\nstdout F out\r\nstdout F terminal\r",
	},
	{
		name:   "streams are anonymous pipes",
		script: "for n in 0 1 2; do readlink /proc/1/fd/$n; done | tr 0-9 N",
		run: func(c *container) string {
			c.started("-i")
			return strings.ReplaceAll(c.ended(), "N", "")
		},
		want: "exit 0, persisted 0\nstdout F pipe:[]\nstdout F pipe:[]\nstdout F pipe:[]",
	},
	{
		name:   "streams of an exec are anonymous pipes",
		script: "sleep 1000",
		run: func(c *container) string {
			c.started()
			e, code := c.exec("for n in 0 1 2; do readlink /proc/$$/fd/$n; done | tr 0-9 N", "-i", "--sync")
			return strings.ReplaceAll(fmt.Sprint(code, " ", e.message(), " ", e.lines()), "N", "")
		},
		want: `0 {"exit_code": 0} [stdout F pipe:[] stdout F pipe:[] stdout F pipe:[]]`,
	},
	{
		name: "create fails",
		run: func(c *container) string {
			c.spec.Process.Args = []string{"/nonexistent"}
			code := c.create(c.exitCommand()...)
			message := c.message()
			message, rest, _ := strings.Cut(message, ": \"")
			complains := strings.Contains(rest, "nonexistent") && strings.Contains(strings.ToLower(rest), "no such file or directory")
			c.until("the exit command has run", func() bool { return c.exitCommandSaw() != "" })
			return fmt.Sprintf("status %d, %s, complains: %v, exit command: %s", code, message, complains, c.exitCommandSaw())
		},
		want: `status 0, {"pid": -1, "message", complains: true, exit command: one two words exit file: none`,
	},
	{
		name:   "exit command",
		script: "exit 3",
		run: func(c *container) string {
			c.started(c.exitCommand()...)
			c.until("the exit command has run", func() bool { return c.exitCommandSaw() != "" })
			return c.exitCommandSaw()
		},
		want: "one two words exit file: 3",
	},
	{
		name:   "exec",
		script: "sleep 1000",
		run: func(c *container) string {
			c.started()
			e, code := c.exec("echo inside; exit 9")
			message := e.message()
			return fmt.Sprint(code, " ", message, " ", e.lines())
		},
		want: `0 {"exit_code": 9} [stdout F inside]`,
	},
	{
		name:   "exec with API version 1",
		script: "sleep 1000",
		run: func(c *container) string {
			c.started()
			e, code := c.exec("echo inside; exit 9", "--api-version", "1", "-u", "exec")
			return fmt.Sprint(code, " ", e.message(), " ", e.message(), " ", e.lines())
		},
		want: `0 {"data": PID} {"data": 9} [stdout F inside]`,
	},
	{
		name:   "exec stays a child",
		script: "sleep 1000",
		run: func(c *container) string {
			c.started()
			e, code := c.exec("echo inside; exit 9", "--sync")
			return fmt.Sprint(code, " ", e.message(), " ", e.lines())
		},
		want: `9 {"exit_code": 9} [stdout F inside]`,
	},
	{
		name:   "exec with a terminal",
		script: "sleep 1000",
		run: func(c *container) string {
			c.started()
			e, _ := c.exec("test -t 1 && echo terminal; exit 4", "--sync", "-t")
			return fmt.Sprint(e.message(), " ", e.lines())
		},
		want: "{\"exit_code\": 4} [stdout F terminal\r]",
	},
	{
		name:     "exec that fails",
		oursOnly: "conmon 2.1.6 says nothing, later ones do",
		script:   "sleep 1000",
		run: func(c *container) string {
			c.started()
			c.spec.Process.Cwd = "/nonexistent"
			e, code := c.exec("true")
			message, rest, _ := strings.Cut(e.message(), ": \"")
			return fmt.Sprint(code, " ", message, " ", strings.Contains(rest, "nonexistent"))
		},
		want: `0 {"exit_code": -1, "message" true`,
	},
	{
		name:   "exec times out",
		script: "sleep 1000",
		run: func(c *container) string {
			c.started()
			e, code := c.exec("echo begun; sleep 1000 & wait", "--sync", "-T", "1")
			return fmt.Sprint(code, " ", e.message(), " ", e.lines())
		},
		want: `255 {"exit_code": -1, "message": "command timed out"} [stdout F begun]`,
	},
	{
		name:   "exec whose child keeps the output open",
		script: "sleep 1000",
		run: func(c *container) string {
			c.started()
			e, code := c.exec("sleep 1000 & echo left it", "--sync")
			return fmt.Sprint(code, " ", e.message(), " ", e.lines())
		},
		want: `0 {"exit_code": 0} [stdout F left it]`,
	},
	{
		name:   "sockets are handed on",
		script: "readlink /proc/self/fd/3",
		run: func(c *container) string {
			f, err := os.Open("/dev/zero")
			c.must(err)
			defer f.Close()
			c.files = []*os.File{f}
			c.env = []string{"LISTEN_FDS=1", "LISTEN_PID=1"}
			c.wrapRuntime(`test "$LISTEN_PID" = $$ && echo mine > ` + c.dir + `/listen`)
			c.started("--replace-listen-pid", "--runtime-opt", "--preserve-fds", "--runtime-opt", "1")
			listen, err := os.ReadFile(c.dir + "/listen")
			c.must(err)
			return c.ended() + "\nLISTEN_PID: " + strings.TrimSpace(string(listen))
		},
		want: "exit 0, persisted 0\nstdout F /dev/zero\nLISTEN_PID: mine",
	},
	{
		name:   "no log",
		script: "echo lost; exit 2",
		run: func(c *container) string {
			c.args = []string{"-l", "none"}
			c.log = "none"
			c.started()
			return "exit " + c.exitFile()
		},
		want: "exit 2",
	},
	{
		name:   "timeout of a container",
		script: "echo up; sleep 1000",
		run: func(c *container) string {
			c.started("--timeout", "1")
			return c.ended()
		},
		want: "exit -1, persisted -1\nstdout F up",
	},
	{
		name:   "TERM to the monitor reaches init",
		script: "trap 'echo got it; exit 5' TERM; echo up; while :; do sleep 0.05; done",
		run: func(c *container) string {
			c.started()
			c.says("stdout F up")
			c.signalMonitor("TERM")
			return c.ended()
		},
		want: "exit 5, persisted 5\nstdout F got it\nstdout F up",
	},
	{
		name:   "INT to the monitor reaches init",
		script: "trap 'echo got it; exit 5' INT; echo up; while :; do sleep 0.05; done",
		run: func(c *container) string {
			c.started()
			c.says("stdout F up")
			c.signalMonitor("INT")
			return c.ended()
		},
		want: "exit 5, persisted 5\nstdout F got it\nstdout F up",
	},
}

func TestParity(t *testing.T) {
	for _, runtime := range []string{"runc", "crun"} {
		ours, theirs := stacks(runtime)
		for _, s := range []*stack{ours, theirs} {
			t.Run(s.name, func(t *testing.T) {
				s.need(t)
				for _, p := range parity {
					t.Run(p.name, func(t *testing.T) {
						if p.oursOnly != "" && !s.ours {
							t.Skip(p.oursOnly)
						}
						c := s.container(t, p.script)
						got := p.run(c)
						if got != p.want && !s.ours {
							// It has races of its own.
							t.Logf("conmon did otherwise the first time:\n%s", got)
							c = s.container(t, p.script)
							got = p.run(c)
						}
						if got != p.want {
							t.Errorf("got:\n%s\nwant:\n%s\nstderr: %s", got, p.want, c.stderr)
						}
					})
				}
			})
		}
	}
}
