package crio

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gracerun.io/internal/crinode"
)

var streamCases = []testCase{
	{
		name:    "exec: input, both outputs, exit status",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve"})
			u.note("%v", u.do("exec", "--sync", c.id, "sh", "-c", "echo out; echo err >&2; exit 9"))
			u.note("%v", u.do("exec", c.id, "sh", "-c", "echo out; echo err >&2; exit 9").code)
			u.note("%v", u.finish(u.begin(strings.NewReader("1\n2\n"), "exec", "--interactive", c.id, "cat")).out)
			u.note("nothing: %d", u.do("exec", "--sync", c.id, "/bin/nothing").code)
			r := u.do("exec", "--sync", c.id, "sh", "-c", "dd if=/dev/zero bs=1000 count=1000 2> /dev/null | tr '\\0' x")
			u.note("%d, %d bytes", r.code, len(strings.TrimSpace(r.out)))
			u.ok("stop", "--timeout", "30", c.id)
			c.saw(u)
			p.remove()
		},
		want: "0, 1000000 bytes",
	},
	{
		name:    "exec: a timeout ends it, and nothing of it is left",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve"})
			begin := time.Now()
			r := u.do("exec", "--sync", "--timeout", "1", c.id, "sh", "-c", "echo begun; sleep 4242; echo ended")
			u.note("%d %s", r.code, lastLine(r.err))
			u.between("exec", time.Since(begin), 900*time.Millisecond, 60*time.Second) // conmon's timer can be a little early
			u.until("the command has ended", func() bool {
				return !strings.Contains(u.ok("exec", "--sync", c.id, "ps"), "sleep 4242")
			})
			u.ok("stop", "--timeout", "30", c.id)
			c.saw(u)
			p.remove()
		},
		want: "heard \"SIGTERM\"",
	},
	{
		name:    "exec: in a terminal that changes its size",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve"})
			t := u.sit("exec", "--interactive", "--tty", c.id, "/bin/box", "size")
			t.drag("size 77 22", 77, 22)
			t.drag("size 90 33", 90, 33)
			t.types("\n")
			code, _ := t.leave()
			u.note("exit status seen: %v", code != 0)
			u.ok("stop", "--timeout", "30", c.id)
			p.remove()
		},
		want: "exit status seen: true",
		skip: func(s *crinode.Stack) string {
			if strings.Contains(s.Name, "crun 1.8") {
				return "crun before 1.8.7 does not look at SIGWINCH while it waits for the process of an exec, on stock or ours"
			}
			return ""
		},
	},
	{
		name: "attach: input and output of a container",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"sh", "-c", "echo ready > /data/said; while read line; do echo got $line; done; echo end; exit 8"}, set("stdin", true))
			c.says("ready")
			reader, writer := io.Pipe()
			r := u.begin(reader, "attach", "--stdin", c.id)
			// Who attaches gets what is written from then on.
			u.until("the attached client is answered", func() bool {
				fmt.Fprintln(writer, "ping")
				return strings.Contains(r.out.String(), "got ping")
			})
			fmt.Fprintln(writer, "last")
			u.until("the last answer", func() bool { return strings.Contains(r.out.String(), "got last") })
			writer.Close()
			u.note("attach ended: %v", u.finish(r).code == 0)
			u.ok("stop", "--timeout", "0", c.id)
			lines := slices.Compact(c.logged())
			u.note("log %q", lines)
			p.remove()
		},
		want: `log ["got ping" "got last"`,
	},
	{
		name: "attach: to a container with a terminal",
		do: func(u *user) {
			p := u.pod()
			c := p.create([]string{"box", "size"}, set("stdin", true), set("tty", true))
			u.ok("start", c.id)
			t := u.sit("attach", "--stdin", "--tty", c.id)
			t.drag("size 78 21", 78, 21)
			t.types("\n")
			t.leave()
			s := c.ended()
			u.note("exit code %d", s.ExitCode)
			u.note("log: %v", slices.Contains(c.logged(), "size 78 21\r"))
			p.remove()
		},
		want: "exit code 5\nlog: true",
	},
	{
		name:    "logs: rotated as the kubelet does, under full output",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-flood"})
			for n := range 5 {
				u.until("the log grows", func() bool {
					info, err := os.Stat(c.log)
					return err == nil && info.Size() > 100_000
				})
				u.must(os.Rename(c.log, fmt.Sprintf("%s.%d", c.log, n)))
				u.ok("logs", "--reopen", "--tail", "1", c.id) // else it reads behind the flood for ever
			}
			u.ok("stop", "--timeout", "60", c.id)
			u.note("exit code %d", c.ended().ExitCode)
			u.note("%s", wholeFlood(append(rotated(c.log), c.log)))
			p.remove()
		},
		want: "exit code 0\nevery line once, in order",
	},
	{
		name: "logs: followed by crictl to the last line",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-line", "20ms"})
			r := u.begin(nil, "logs", "--follow", c.id)
			u.until("something is followed", func() bool { return strings.Contains(r.out.String(), "line 10 ") })
			u.ok("stop", "--timeout", "60", c.id)
			c.ended()
			u.finish(r)
			u.note("%v", strings.HasSuffix(strings.TrimSpace(r.out.String()), "closed"))
			u.note("%s", wholeFlood([]string{c.log}))
			p.remove()
		},
		want: "true\nevery line once, in order",
	},
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	line := lines[len(lines)-1]
	if _, after, found := strings.Cut(line, "rpc error:"); found {
		return "rpc error:" + after
	}
	return line
}

// rotated gives the logs that were moved away, the oldest first.
func rotated(log string) []string {
	paths, _ := filepath.Glob(log + ".*")
	slices.Sort(paths)
	return paths
}

// wholeFlood says whether the logs have every line of box, and what is wrong if not.
func wholeFlood(logs []string) string {
	var text strings.Builder
	for _, log := range logs {
		piece, err := os.ReadFile(log)
		if err != nil {
			return err.Error()
		}
		text.Write(piece)
	}
	next, part, counted := 1, "", -1
	for line := range strings.Lines(text.String()) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 {
			return fmt.Sprintf("not a line of a log: %q", line)
		}
		part += fields[3]
		if fields[2] == "P" {
			continue
		}
		whole := part
		part = ""
		var n int
		switch {
		case strings.HasPrefix(whole, "line "):
			if _, err := fmt.Sscanf(whole, "line %d", &n); err != nil || n != next || !strings.HasSuffix(whole, "to rotate") {
				return fmt.Sprintf("after line %d: %q", next-1, whole)
			}
			next++
		case strings.HasPrefix(whole, "lines: "):
			_, _ = fmt.Sscanf(whole, "lines: %d", &counted)
		}
	}
	switch {
	case counted < 0:
		return fmt.Sprintf("cut off after line %d", next-1)
	case counted != next-1:
		return fmt.Sprintf("%d lines of %d", next-1, counted)
	}
	return "every line once, in order"
}
