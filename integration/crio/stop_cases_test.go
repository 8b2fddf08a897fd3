package crio

import (
	"time"

	"golang.org/x/sys/unix"
)

var stopCases = []testCase{
	{
		name:    "stop: TERM is not enough, and the timeout is kept",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-deaf"})
			begin := time.Now()
			u.ok("stop", "--timeout", "2", c.id)
			u.between("stop", time.Since(begin), 2*time.Second, patience)
			c.saw(u)
			p.remove()
		},
		want: `heard "SIGTERM", saved 0, exit code 137, Error; log "ready|heard SIGTERM"`,
	},
	{
		name: "stop: with a timeout of 0",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-deaf"})
			begin := time.Now()
			u.ok("stop", "--timeout", "0", c.id)
			u.between("stop", time.Since(begin), 0, 25*time.Second)
			u.note("exit code %d", c.ended().ExitCode)
			p.remove()
		},
		want: "exit code 137",
	},
	{
		name:    "stop: two at once, the second shorter",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-deaf"})
			long := u.begin(nil, "stop", "--timeout", "100", c.id)
			c.hears(1)
			begin := time.Now()
			u.ok("stop", "--timeout", "2", c.id)
			u.between("the second stop", time.Since(begin), 2*time.Second, 60*time.Second)
			u.note("the first: %d", u.finish(long).code)
			c.saw(u)
			p.remove()
		},
		want: `heard "SIGTERM", saved 0, exit code 137, Error; log "ready|heard SIGTERM"`,
	},
	{
		name: "stop: two at once, the second longer",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-deaf"})
			begin := time.Now()
			short := u.begin(nil, "stop", "--timeout", "2", c.id)
			c.hears(1)
			u.ok("stop", "--timeout", "100", c.id)
			u.between("both", time.Since(begin), 2*time.Second, 60*time.Second)
			u.note("the first: %d", u.finish(short).code)
			c.saw(u)
			p.remove()
		},
		want: `heard "SIGTERM", saved 0, exit code 137, Error; log "ready|heard SIGTERM"`,
	},
	{
		name: "stop: it has ended already, and it was never started",
		do: func(u *user) {
			p := u.pod()
			ended := p.run([]string{"true"})
			ended.ended()
			u.note("ended: %d", u.do("stop", ended.id).code)
			created := p.create([]string{"serve"})
			u.note("created: %d", u.do("stop", "--timeout", "2", created.id).code)
			s := created.ended()
			u.note("exit code %d, heard %q", s.ExitCode, created.signals())
			u.note("start: %v", u.do("start", created.id).code != 0)
			p.remove()
		},
		want: "ended: 0\ncreated: 0",
	},
	{
		name:    "rm --force in the middle of a stop",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-save", "4s"})
			stop := u.begin(nil, "stop", "--timeout", "100", c.id)
			c.hears(1)
			begin := time.Now()
			u.ok("rm", "--force", c.id)
			u.note("stop: %d", u.finish(stop).code)
			u.note("heard %q, all saved: %v, at once: %v", c.signals(), c.entries() == 10, time.Since(begin) < 3*time.Second)
			p.remove()
		},
		want: `heard "SIGTERM"`,
	},
	{
		name: "rm --force of a running container",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-deaf"})
			u.note("rm: %d", u.do("rm", "--force", c.id).code)
			u.note("inspect: %d", u.do("inspect", c.id).code)
			p.remove()
		},
		want: "rm: 0\ninspect: 1",
	},
	{
		name: "stopp: of two containers, one of them with much to save",
		do: func(u *user) {
			p := u.pod()
			first, second := p.run([]string{"serve", "-save", "2s", "-code", "5"}), p.run([]string{"serve"})
			u.ok("stopp", p.id)
			first.saw(u)
			second.saw(u)
			p.remove()
		},
		want: `heard "SIGTERM", saved 10, exit code 5`,
	},
	{
		name: "stop: a signal of the image's own, and others in between",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-save", "500ms", "-code", "6"})
			u.ok("exec", "--sync", c.id, "kill", "-USR1", "1")
			c.hears(1)
			u.ok("exec", "--sync", c.id, "kill", "-HUP", "1")
			c.hears(2)
			u.ok("stop", "--timeout", "30", c.id)
			c.saw(u)
			p.remove()
		},
		want: `heard "SIGUSR1 SIGHUP SIGTERM", saved 10, exit code 6`,
	},
	{
		name:    "enforce: rm --force in the middle of a stop waits for the end",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-save", "2s"}, policy("enforce"), grace(60*time.Second))
			stop := u.begin(nil, "stop", "--timeout", "60", c.id)
			c.hears(1)
			u.ok("rm", "--force", c.id)
			u.note("stop: %d", u.finish(stop).code)
			u.note("heard %q, saved %d", c.signals(), c.entries())
			p.remove()
		},
		ours:   `heard "SIGTERM", saved 10`,
		better: "the grace period outlives an rm --force",
	},
	{
		name: "enforce: the pod's grace period is the timeout, and is kept to",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-save", "20s"}, policy("enforce"), grace(4*time.Second))
			u.ok("stop", "--timeout", "4", c.id)
			// An entry every 2 seconds: one or two are there at the deadline, ten would be the end.
			u.note("heard %q, exit code %d, at the deadline: %v", c.signals(), c.ended().ExitCode, c.entries() >= 1 && c.entries() <= 5)
			p.remove()
		},
		want: `heard "SIGTERM", exit code 137, at the deadline: true`,
	},
	{
		name: "policies: a stop whose timeout is shorter than the pod's grace period",
		do: func(u *user) {
			p := u.pod()
			policies := []string{"observe", "delegate", "enforce"}
			whole := make([]bool, len(policies))
			var all []*container
			for _, name := range policies {
				all = append(all, p.run([]string{"serve", "-deaf"}, policy(name), grace(30*time.Second)))
			}
			u.beside(len(all), func(i int) {
				u.ok("stop", "--timeout", "3", all[i].id)
				ended := now()
				whole[i] = ended-all[i].heard()[0].at >= 30*time.Second
			})
			for i, c := range all {
				u.note("%s: heard %q, exit code %d, its whole grace: %v", policies[i], c.signals(), c.ended().ExitCode, whole[i])
			}
			p.remove()
		},
		want: `observe: heard "SIGTERM", exit code 137, its whole grace: false
delegate: heard "SIGTERM", exit code 137, its whole grace: false
`,
		ours:   `enforce: heard "SIGTERM", exit code 137, its whole grace: true`,
		better: "under enforce the pod's grace period is kept",
		costly: true,
	},
}

// now is CLOCK_MONOTONIC, as box has it.
func now() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return time.Duration(t.Nano())
}
