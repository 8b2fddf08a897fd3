package crio

import (
	"os"
	"syscall"
	"time"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

// What a killed monitor means, and a killed CRI-O.
var crashCases = []testCase{
	{
		name: "crash: the monitor, while nothing happens",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-save", "500ms", "-code", "3"})
			u.killMonitor(c)
			u.ok("stop", "--timeout", "30", c.id)
			c.saw(u)
			p.remove()
		},
		ours:   `heard "SIGTERM", saved 10, exit code 3, Error; log "ready|heard SIGTERM|closed"`,
		better: "status and log outlive the monitor",
	},
	{
		name:    "crash: the monitor, under full output",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-flood", "-code", "4"})
			for range 3 {
				u.killMonitor(c)
				if !u.Stack.Ours() {
					break // there will be no other one
				}
			}
			u.ok("stop", "--timeout", "30", c.id)
			u.note("exit code %d", c.ended().ExitCode)
			u.note("%s", wholeFlood([]string{c.log}))
			p.remove()
		},
		ours:   "exit code 4\nevery line once, in order",
		better: "no line is lost with the monitor",
	},
	{
		name:    "crash: the monitor, in the middle of a stop",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-save", "2s", "-code", "3"})
			stop := u.begin(nil, "stop", "--timeout", "60", c.id)
			c.hears(1)
			u.killMonitor(c)
			u.note("stop: %d", u.finish(stop).code)
			c.saw(u)
			p.remove()
		},
		ours:   "stop: 0\n" + `heard "SIGTERM", saved 10, exit code 3, Error; log "ready|heard SIGTERM|closed"`,
		better: "status and log outlive the monitor",
	},
	{
		name: "crash: the monitor, before two rotations of the log",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-flood"})
			for n := range 4 {
				u.killMonitor(c)
				u.must(rotate(c, 2*n))
				reopen := u.begin(nil, "logs", "--reopen", "--tail", "1", c.id)
				if !u.Stack.Ours() {
					u.note("reopen: %d", u.finish(reopen).code)
					break
				}
				// And once more as soon as there is a log, whether this one is answered or not.
				u.until("there is a log", func() bool { _, err := os.Stat(c.log); return err == nil })
				u.must(rotate(c, 2*n+1))
				again := u.begin(nil, "logs", "--reopen", "--tail", "1", c.id)
				for _, r := range []call{u.finish(reopen), u.finish(again)} {
					if r.code != 0 {
						u.note("reopen %d: %v", n, r)
					}
				}
			}
			u.ok("stop", "--timeout", "30", c.id)
			u.note("exit code %d", c.ended().ExitCode)
			u.note("%s", wholeFlood(append(rotated(c.log), c.log)))
			p.remove()
		},
		ours:   "exit code 0\nevery line once, in order",
		better: "no line is lost with the monitor",
	},
	{
		name: "crash: CRI-O, in the middle of a stop",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-save", "6s", "-code", "3"}, grace(60*time.Second))
			_ = u.begin(nil, "stop", "--timeout", "60", c.id)
			c.hears(1)
			u.must(u.EndCRIO(syscall.SIGKILL))
			u.must(u.StartCRIO())
			// The kubelet repeats what was not answered.
			u.ok("stop", "--timeout", "60", c.id)
			u.note("heard %q", c.signals())
			s := c.ended()
			u.note("saved %d, exit code %d", c.entries(), s.ExitCode)
			p.remove()
		},
		want:   "heard",
		alone:  true,
		better: "under enforce a stop that is repeated is heard once",
	},
	{
		name: "crash: CRI-O, in the middle of a stop, under enforce",
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-save", "6s", "-code", "3"}, grace(60*time.Second), policy("enforce"))
			_ = u.begin(nil, "stop", "--timeout", "60", c.id)
			c.hears(1)
			u.must(u.EndCRIO(syscall.SIGKILL))
			u.must(u.StartCRIO())
			u.ok("stop", "--timeout", "60", c.id)
			c.saw(u)
			p.remove()
		},
		ours:   `heard "SIGTERM", saved 10, exit code 3, Error; log "ready|heard SIGTERM|closed"`,
		better: "under enforce a stop that is repeated is heard once",
		alone:  true,
	},
	{
		name: "crash: CRI-O, while containers run and end",
		do: func(u *user) {
			p := u.pod()
			runs := p.run([]string{"serve", "-line", "20ms", "-code", "3"})
			ends := p.run([]string{"sh", "-c", "while [ ! -e /data/go ]; do sleep 0.05; done; echo the last line; exit 7"})
			u.must(u.EndCRIO(syscall.SIGKILL))
			u.must(rotate(ends, 0)) // a file of that name is made anew only if somebody reopens it
			u.must(syscall.Rename(ends.log+".0", ends.log))
			u.must(writeFile(ends.data + "/go"))
			u.until("the program has ended", func() bool { return len(ends.logged()) > 0 })
			u.must(u.StartCRIO())
			ends.saw(u)
			u.ok("exec", "--sync", runs.id, "true")
			u.ok("stop", "--timeout", "30", runs.id)
			u.note("exit code %d, heard %q", runs.ended().ExitCode, runs.signals())
			u.note("%s", wholeFlood([]string{runs.log}))
			p.remove()
		},
		want:  "exit code 7, Error; log \"the last line\"\nexit code 3, heard \"SIGTERM\"\nevery line once, in order",
		alone: true,
	},
	{
		name:    "crash: CRI-O and all monitors, in the middle of a stop",
		telling: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-save", "6s", "-code", "3"}, grace(60*time.Second), policy("enforce"))
			_ = u.begin(nil, "stop", "--timeout", "60", c.id)
			c.hears(1)
			u.must(u.EndCRIO(syscall.SIGKILL))
			u.killMonitor(c)
			u.must(u.StartCRIO())
			u.note("stop: %d", u.do("stop", "--timeout", "60", c.id).code)
			c.saw(u)
			p.remove()
		},
		ours:   "stop: 0\n" + `heard "SIGTERM", saved 10, exit code 3, Error; log "ready|heard SIGTERM|closed"`,
		better: "nothing is lost with monitor and CRI-O",
		alone:  true,
	},
}

// killMonitor kills the monitor that there is, and waits for its end.
func (u *user) killMonitor(c *container) {
	var pid int
	u.until("the container has a monitor", func() bool { pid = c.monitor(); return pid != 0 })
	fd, err := process.Open(pid)
	u.must(err)
	defer fd.Close()
	if c.monitor() != pid { // its number is another's now
		u.fail("the monitor %d has gone by itself", pid)
	}
	u.must(fd.Send(signals.KILL))
	_, err = fd.Wait(patience)
	u.must(err)
}
