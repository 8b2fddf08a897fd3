package podman

import (
	"os"
	"strings"
)

var engineCases = []testCase{
	{
		name:    "restart policy: on-failure:2",
		telling: true,
		do: func(u *user) {
			u.ok(u.run("echo try; exit 1", "--detach", "--restart=on-failure:2")...)
			u.until("it was tried three times", func() bool {
				return u.inspect("{{.RestartCount}} {{.State.Status}}") == "2 exited"
			})
			u.note("%s %q", u.inspect("{{.State.ExitCode}}"), u.ok("logs", u.name))
		},
		want: `1 "try\ntry\ntry"`,
	},
	{
		name: "restart policy: a stop is no failure",
		do: func(u *user) {
			u.up("trap 'exit 1' TERM; "+serve, "--restart=always")
			u.ok("stop", u.name)
			u.note("%s", u.inspect("{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}"))
		},
		want: "exited 1 0",
	},
	{
		name:    "healthcheck",
		telling: true,
		do: func(u *user) {
			u.up(serve, "--health-cmd=test -e /healthy", "--health-interval=disable", "--health-retries=1")
			u.note("%d", u.do("healthcheck", "run", u.name).code)
			u.note("%s", u.inspect("{{.State.Health.Status}}"))
			u.ok("exec", u.name, "touch", "/healthy")
			u.note("%d", u.do("healthcheck", "run", u.name).code)
			u.note("%s", u.inspect("{{.State.Health.Status}}"))
		},
		want: "1\nunhealthy\n0\nhealthy",
	},
	{
		name: "events",
		do: func(u *user) {
			u.up("trap 'exit 9' TERM; " + serve)
			u.ok("exec", u.name, "true")
			u.ok("pause", u.name)
			u.ok("unpause", u.name)
			u.ok("stop", u.name)
			u.ok("rm", u.name)
			seen := u.ok("events", "--stream=false", "--filter", "container="+u.name, "--format", "{{.Status}} {{.ContainerExitCode}}")
			// The end is told by the monitor's exit command, the stop by its caller.
			var order, rest []string
			for line := range strings.Lines(seen) {
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "died") || strings.HasPrefix(line, "cleanup") {
					rest = append(rest, line)
				} else {
					order = append(order, line)
				}
			}
			u.note("%s; %s", strings.Join(order, ", "), strings.Join(rest, ", "))
		},
		want: "died 9",
	},
	{
		name: "top",
		do: func(u *user) {
			u.up("sleep 1000 & exec sleep 1001")
			u.note("%s", strings.Join(strings.Fields(u.ok("top", u.name, "pid", "args")), " "))
		},
		want: "1 sleep 1001",
	},
	{
		name: "cp, both ways",
		do: func(u *user) {
			u.up(serve)
			u.must(os.WriteFile(u.dir+"/in", []byte("there and back"), 0o644))
			u.ok("cp", u.dir+"/in", u.name+":/tmp/copy")
			u.note("%q", u.ok("exec", u.name, "cat", "/tmp/copy"))
			u.ok("cp", u.name+":/tmp/copy", u.dir+"/out")
			text, err := os.ReadFile(u.dir + "/out")
			u.must(err)
			u.note("%q", text)
		},
		want: "\"there and back\"\n\"there and back\"",
	},
	{
		name: "out of memory",
		skip: func(s *stack) string {
			if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); s.host.cgroup2 || err != nil {
				return "there is no memory controller here"
			}
			return ""
		},
		do: func(u *user) {
			c := u.do(u.run("x=x; while :; do x=$x$x; done", "--memory=20m", "--memory-swap=20m")...)
			u.note("%d, out of memory: %s", c.code, u.inspect("{{.State.OOMKilled}}"))
		},
		want: "out of memory: true",
	},
}
