package podman

import (
	"os"
	"path/filepath"
	"slices"
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
			// The newer podman says <nil> where there is no exit status, and one when a
			// container is removed.
			status := strings.NewReplacer("<nil>", "0", "remove 9", "remove 0")
			seen := u.ok("events", "--stream=false", "--filter", "container="+u.name, "--format", "{{.Status}} {{.ContainerExitCode}}")
			// Ends are told by whoever comes first, the caller or the monitor's exit
			// command, or by both; and a stop only if its caller does.
			var order, rest []string
			for line := range strings.Lines(status.Replace(seen)) {
				switch line = strings.TrimSpace(line); strings.Fields(line)[0] {
				case "stop":
				case "exec_died", "died", "cleanup":
					if !slices.Contains(rest, line) {
						rest = append(rest, line)
					}
				default:
					order = append(order, line)
				}
			}
			u.note("%s; %s", strings.Join(order, ", "), strings.Join(rest, ", "))
		},
		want: "create 0, init 0, start 0, exec 0, pause 0, unpause 0, remove 0; exec_died 0, died 9, cleanup 0",
	},
	{
		name: "top",
		do: func(u *user) {
			u.up("sleep 1000 & exec sleep 1001")
			var seen string
			u.until("both are there", func() bool {
				seen = strings.Join(strings.Fields(u.ok("top", u.name, "ppid", "args")), " ")
				return strings.Contains(seen, "sleep 1000") && strings.Contains(seen, "sleep 1001")
			})
			u.note("%s", seen)
		},
		want: "0 sleep 1001 1 sleep 1000",
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
			if s.monitor == "conmon" {
				return "conmon does not hear of it on every machine, and is no reference then"
			}
			return ""
		},
		do: func(u *user) {
			u.up("sh -c 'x=x; while :; do x=$x$x; done'; echo status $?; "+serve, "--memory=20m", "--memory-swap=20m")
			u.says("status 137")
			// The kernel tells the monitor when it can: a container that is killed itself
			// may be gone before.
			u.until("the monitor has heard of it", func() bool {
				_, err := os.Stat(filepath.Join(filepath.Dir(u.inspect("{{.OCIConfigPath}}")), "oom"))
				return err == nil
			})
			u.ok("kill", u.name)
			u.note("waited: %s, out of memory: %s", u.waited(), u.inspect("{{.State.OOMKilled}}"))
		},
		want: "waited: 137, out of memory: true",
	},
}
