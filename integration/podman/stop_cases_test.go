package podman

import (
	"time"
)

// serve goes on for ever, and a trap is taken at once.
const serve = "sleep 1000 & while :; do wait; done"

var stopCases = []testCase{
	{
		name:    "stop: two seconds of a grace of five",
		telling: true,
		do: func(u *user) {
			u.up("trap 'echo got it; sleep 2; echo done; exit 3' TERM; " + serve)
			c := u.do("stop", "--time=5", u.name)
			u.note("%d %q", c.code, c.err)
			u.between("stop", c.took, 1900*time.Millisecond, patience)
			u.note("waited: %s", u.waited())
			u.note("%q", u.ok("logs", u.name))
		},
		want: "waited: 3\n\"up\\ngot it\\ndone\"",
	},
	{
		name:    "stop: TERM is ignored",
		telling: true,
		do: func(u *user) {
			u.up("trap '' TERM; " + serve)
			c := u.do("stop", "--time=2", u.name)
			u.note("%d", c.code)
			u.between("stop", c.took, 1900*time.Millisecond, patience)
			u.note("waited: %s, %s", u.waited(), u.inspect("{{.State.Status}} {{.State.ExitCode}}"))
		},
		want: "waited: 137, exited 137",
	},
	{
		name:    "stop: TERM is ignored, and the container's own grace is ten minutes",
		telling: true,
		do: func(u *user) {
			u.up("trap '' TERM; "+serve, "--annotation=io.gracerun.grace=10m")
			c := u.do("stop", "--time=2", u.name)
			u.note("%d", c.code)
			u.between("stop", c.took, 1900*time.Millisecond, patience)
			u.note("waited: %s, %s", u.waited(), u.inspect("{{.State.Status}} {{.State.ExitCode}}"))
		},
		want: "waited: 137, exited 137",
	},
	{
		name: "stop: with a signal of the container's own",
		do: func(u *user) {
			u.up("trap 'echo TERM' TERM; trap 'echo USR2; exit 8' USR2; "+serve, "--stop-signal=USR2", "--stop-timeout=20")
			u.note("%d", u.do("stop", u.name).code)
			u.note("waited: %s, %q", u.waited(), u.ok("logs", u.name))
		},
		want: `waited: 8, "up\nUSR2"`,
	},
	{
		name: "stop: created, and stopped already",
		do: func(u *user) {
			u.ok(u.command("create", "box", "/bin/true")...)
			u.note("created: %d", u.do("stop", u.name).code)
			u.ok("start", u.name)
			u.note("waited: %s", u.waited())
			u.note("exited: %d", u.do("stop", u.name).code)
		},
		want: "waited: 0\nexited: 0",
	},
	{
		name:    "kill: a signal that is caught, and KILL",
		telling: true,
		do: func(u *user) {
			u.up("trap 'echo USR1' USR1; " + serve)
			u.note("%s", u.do("kill", "--signal=USR1", u.name).out)
			u.says("USR1")
			c := u.do("kill", "--signal=NONSENSE", u.name)
			u.note("nonsense: %s", c)
			u.note("%d", u.do("kill", u.name).code)
			u.note("waited: %s, %q", u.waited(), u.ok("logs", u.name))
			u.note("again: %d", u.do("kill", u.name).code)
		},
		want: `waited: 137, "up\nUSR1"`,
	},
	{
		name:    "wait: from two places",
		telling: true,
		do: func(u *user) {
			u.up("trap 'exit 143' TERM; " + serve)
			first, second := u.begin(nil, "wait", u.name), u.begin(nil, "wait", u.name)
			u.ok("kill", "--signal=TERM", u.name)
			u.note("%s, %s", u.finish(first), u.finish(second))
		},
		want: `0 "143\n" "", 0 "143\n" ""`,
	},
	{
		name: "pause, unpause",
		do: func(u *user) {
			u.up("trap 'echo USR1' USR1; " + serve)
			u.ok("pause", u.name)
			u.note("%s", u.inspect("{{.State.Status}}"))
			c := u.do("exec", u.name, "true")
			u.note("exec: %d", c.code)
			u.ok("unpause", u.name)
			u.note("%s", u.inspect("{{.State.Status}}"))
			u.ok("kill", "--signal=USR1", u.name)
			u.says("USR1")
			u.ok("kill", u.name)
			u.note("waited: %s", u.waited())
		},
		want: "paused\nexec: 255\nrunning\nwaited: 137",
	},
	{
		name:    "rm --force of a running container",
		telling: true,
		do: func(u *user) {
			u.up("trap '' TERM; " + serve)
			pid, monitor := u.inspect("{{.State.Pid}}"), u.inspect("{{.State.ConmonPid}}")
			u.note("%d", u.do("rm", "--force", "--time=0", u.name).code)
			u.note("exists: %d", u.do("container", "exists", u.name).code)
			u.until("monitor and init have ended", func() bool { return !alive(pid) && !alive(monitor) })
		},
		want: "0\nexists: 1",
	},
}
