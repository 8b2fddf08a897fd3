package crio

import (
	"os"
	"regexp"
	"strings"
	"time"
)

var when = regexp.MustCompile(`time=\S+ `)

var lifeCases = []testCase{
	{
		name:    "life: run, look, stop, remove",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			message := u.dir + "/message"
			u.must(os.WriteFile(message, nil, 0o666))
			c := p.create([]string{"sh", "-c", "echo it is over > /dev/termination-log; exec box serve -save 500ms -code 3"}, func(config map[string]any) {
				config["mounts"] = append(config["mounts"].([]any), map[string]any{"container_path": "/dev/termination-log", "host_path": message})
			})
			s, _ := c.inspect()
			u.note("created: %s", s.State)
			u.ok("start", c.id)
			c.says("ready")
			s, _ = c.inspect()
			u.note("started: %s", s.State)
			u.note("ps: %q", u.ok("ps", "--quiet", "--no-trunc", "--pod", p.id))
			begin := time.Now()
			u.ok("stop", "--timeout", "30", c.id)
			u.between("stop", time.Since(begin), 500*time.Millisecond, 25*time.Second)
			c.saw(u)
			text, _ := os.ReadFile(message)
			u.note("message: %q", text)
			u.note("ps: %q", u.ok("ps", "--quiet", "--no-trunc", "--pod", p.id))
			u.note("logs: %q", u.ok("logs", c.id))
			u.ok("rm", c.id)
			p.remove()
		},
		want: `heard "SIGTERM", saved 10, exit code 3, Error; log "ready|heard SIGTERM|closed"`,
	},
	{
		name:    "life: an end by itself, with its last line",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			for _, script := range []string{
				"i=0; while [ $i -lt 2000 ]; do echo line $i; echo error $i >&2; i=$((i+1)); done; printf 'no end of line'; exit 7",
				"exit 0", "sleep 0.05 & exec true",
			} {
				c := p.run([]string{"sh", "-c", script})
				s := c.ended()
				lines := c.logged()
				last := ""
				if len(lines) > 0 {
					last = lines[len(lines)-1]
				}
				u.note("%s: exit code %d, %s; %d lines, the last %q", script, s.ExitCode, s.Reason, len(lines), last)
			}
			p.remove()
		},
		want: `exit code 7, Error; 4001 lines`,
	},
	{
		name: "life: what cannot be started",
		do: func(u *user) {
			p := u.pod()
			for _, argv := range [][]string{{"/bin/nothing"}, {"/etc/passwd"}} {
				c := u.tryCreate(p, argv)
				u.note("%v: %v", argv, when.ReplaceAllString(strings.ReplaceAll(c, "gracerun-native create failed: unable to start container process: error during container init", "runc create failed: unable to start container process"), ""))
			}
			p.remove()
		},
		want: "/bin/nothing",
	},
	{
		name: "life: with an infra container, and a network of its own",
		do: func(u *user) {
			p := u.pod(withInfra, ownNetwork)
			c := p.run([]string{"sh", "-c", "box serve-tcp :7000 & exec box serve -code 4"})
			c.says("ready")
			u.until("the port is open", func() bool { return strings.Count(strings.Join(c.logged(), "\n"), "ready") == 2 })
			forward := u.begin(nil, "port-forward", p.id, "17000:7000")
			u.until("the port is forwarded", func() bool { return strings.Contains(forward.out.String()+forward.err.String(), "Forwarding from") })
			out, err := u.Command(u.bounded(), "busybox", "timeout", "30", "sh", "-c", "{ echo over the port; sleep 1; } | nc 127.0.0.1 17000").CombinedOutput()
			u.note("port: %q %v", out, err)
			_ = forward.Process.Signal(os.Interrupt)
			u.finish(forward)
			u.ok("stopp", p.id)
			s := c.ended()
			u.note("heard %q, exit code %d", c.signals(), s.ExitCode)
			u.ok("rmp", p.id)
			p.removed = true
		},
		want: `heard "SIGTERM", exit code 4`,
	},
	{
		name: "life: thirty pods at once, and their drain",
		do: func(u *user) {
			const many = 30
			pods := make([]*pod, 0, many)
			for range many {
				pods = append(pods, u.pod())
			}
			all := make([]*container, many)
			u.beside(many, func(i int) {
				all[i] = pods[i].run([]string{"serve", "-save", "500ms", "-code", "3"})
			})
			u.beside(many, func(i int) { u.ok("stop", "--timeout", "60", all[i].id) })
			seen := map[string]int{}
			for _, c := range all {
				s := c.ended()
				text := c.signals() + " " + strings.Join(c.logged(), "|")
				if s.ExitCode != 3 || c.entries() != 10 {
					text += " and lost something"
				}
				seen[text]++
			}
			u.note("%v", seen)
			u.beside(many, func(i int) { pods[i].remove() })
		},
		want:  "map[SIGTERM ready|heard SIGTERM|closed:30]",
		alone: true, costly: true,
	},
}
