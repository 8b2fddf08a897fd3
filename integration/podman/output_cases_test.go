package podman

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// oneMebibyte has numbered lines, so that one that is lost, doubled or out of
// place is seen.
const oneMebibyte = "seq 1000000 | head -c 1048576"

// sum tells long outputs apart.
func sum(text string) string {
	return fmt.Sprintf("%d bytes %x", len(text), sha256.Sum256([]byte(text)))[:40]
}

var logLine = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}[+-]\d\d:\d\d (stdout|stderr) [FP] `)

var outputCases = []testCase{
	{
		name:    "output: a mebibyte to whoever waits for it",
		telling: true,
		do: func(u *user) {
			c := u.do(u.run(oneMebibyte+"; echo enough >&2", "--rm")...)
			u.note("%d %s %q", c.code, sum(c.out), c.err)
		},
		want: "0 1048576 bytes",
	},
	{
		name: "output: a mebibyte from the log",
		do: func(u *user) {
			u.ok(u.run(oneMebibyte+"; echo", "--detach")...)
			u.note("waited: %s", u.waited())
			u.note("%s", sum(u.do("logs", u.name).out))
		},
		want: "1048577 bytes",
	},
	{
		name:    "output: logs --follow to the end",
		telling: true,
		do: func(u *user) {
			u.up("trap 'echo last words; exit 0' TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done")
			r := u.begin(nil, "logs", "--follow", u.name)
			u.says("line 30")
			u.ok("kill", "--signal", "TERM", u.name)
			followed := u.finish(r)
			u.note("waited: %s", u.waited())
			whole := u.do("logs", u.name)
			u.note("%d, all of it: %v, to the last line: %v", followed.code, followed.out == whole.out, strings.HasSuffix(followed.out, "last words\n"))
			n := 0
			for line := range strings.Lines(whole.out) {
				if strings.HasPrefix(line, "line ") {
					if n++; line != fmt.Sprintf("line %d\n", n) {
						u.note("instead of line %d: %q", n, line)
					}
				}
			}
		},
		want: "waited: 0\n0, all of it: true, to the last line: true",
	},
	{
		name: "log driver: k8s-file",
		do: func(u *user) {
			path := u.dir + "/log"
			u.ok(u.run("echo out; echo err >&2; printf unfinished", "--detach", "--log-driver=k8s-file", "--log-opt", "path="+path)...)
			u.note("waited: %s, logs: %s", u.waited(), u.do("logs", u.name))
			text, err := os.ReadFile(path)
			u.must(err)
			u.note("log file: %v", kinds(string(text)))
		},
		want: "stdout F out",
	},
	{
		name: "log driver: json-file",
		do: func(u *user) {
			u.ok(u.run("echo out; echo err >&2", "--detach", "--log-driver=json-file")...)
			u.note("waited: %s, logs: %s", u.waited(), u.do("logs", u.name))
		},
		want: `logs: 0 "out\n" "err\n"`,
	},
	{
		name: "log driver: k8s-file with a limit",
		do: func(u *user) {
			path := u.dir + "/log"
			u.ok(u.run("seq 100", "--detach", "--log-driver=k8s-file", "--log-opt", "path="+path, "--log-opt", "max-size=1kb")...)
			u.note("waited: %s", u.waited())
			info, err := os.Stat(path)
			u.must(err)
			u.note("not beyond its limit: %v, last line: %q", info.Size() <= 1024, u.ok("logs", "--tail", "1", u.name))
		},
		want: `not beyond its limit: true, last line: "100"`,
	},
	{
		name: "log driver: journald",
		skip: func(s *stack) string { return s.host.journal },
		do: func(u *user) {
			u.ok(u.run("echo out; echo err >&2; echo last", "--detach", "--log-driver=journald", "--log-opt", "tag=mark")...)
			u.note("waited: %s", u.waited())
			// journald is told, and then takes its time.
			u.until("the journal has the last line", func() bool { return strings.Contains(u.do("logs", u.name).out, "last\n") })
			u.note("logs: %s", u.do("logs", u.name))
			fields := u.host.command("/", "journalctl", "--quiet", "--output=export", "CONTAINER_NAME="+u.name, "SYSLOG_IDENTIFIER="+u.inspect("{{.Id}}")[:12], "MESSAGE=err")
			text, _ := fields.Output()
			u.note("fields: %q", notable(text))
		},
		want: `logs: 0 "out\nlast\n" "err\n"`,
	},
	{
		name: "log driver: none",
		do: func(u *user) {
			u.note("%s", u.do(u.run("echo seen; exit 2", "--log-driver=none")...))
			c := u.do("logs", u.name)
			u.note("logs: %d %q", c.code, c.out)
		},
		want: `2 "seen\n" ""`,
	},
	{
		name: "log driver: passthrough",
		do: func(u *user) {
			u.note("%s", u.do(u.run("echo out; echo err >&2; exit 5", "--log-driver=passthrough")...))
			// A service: its output is where systemd has put it.
			out, err := os.Create(u.dir + "/out")
			u.must(err)
			defer out.Close()
			u.ok("rm", u.name)
			r := &running{Cmd: u.podman(u.run("sleep 0.1; echo later; exit 5", "--detach", "--log-driver=passthrough")...)}
			r.Stdout, r.Stderr = out, out
			u.must(r.Start())
			u.note("%d", u.finish(r).code)
			u.note("waited: %s", u.waited())
			text, err := os.ReadFile(out.Name())
			u.must(err)
			u.note("%q", text)
		},
		want: `later\n`,
	},
}

// kinds gives the lines of a log file of their streams' order, without times.
func kinds(text string) string {
	var out, err []string
	for line := range strings.Lines(text) {
		at := logLine.FindString(line)
		if at == "" {
			return fmt.Sprintf("not a log line: %q", line)
		}
		rest := strings.TrimSuffix(line[strings.Index(at, " ")+1:], "\n")
		if strings.HasPrefix(rest, "stdout") {
			out = append(out, rest)
		} else {
			err = append(err, rest)
		}
	}
	return strings.Join(append(out, err...), ", ")
}

// notable are the fields of a journal entry that the container or its user chose.
func notable(entry []byte) string {
	var kept []string
	lines := bufio.NewScanner(bytes.NewReader(entry))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		switch name {
		case "PRIORITY", "MESSAGE", "CONTAINER_NAME", "CONTAINER_TAG", "CONTAINER_PARTIAL_MESSAGE", "_TRANSPORT":
			kept = append(kept, name+"="+value)
		}
	}
	return strings.Join(kept, " ")
}
