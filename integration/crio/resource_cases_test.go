package crio

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

var resourceCases = []testCase{
	{
		name:   "out of memory: init",
		limits: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-memory"}, memory(64<<20))
			u.must(os.WriteFile(c.data+"/go", nil, 0o644))
			c.saw(u)
			p.remove()
		},
		want: `heard "", saved 0, exit code 137, OOMKilled; log "ready"`,
	},
	{
		name:   "out of memory: a child, and init goes on",
		limits: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve", "-memory", "-child", "-code", "3"}, memory(64<<20))
			u.must(os.WriteFile(c.data+"/go", nil, 0o644))
			c.says("child: signal: killed")
			u.ok("stop", "--timeout", "30", c.id)
			s := c.ended()
			u.note("heard %q, exit code %d; log %q", c.signals(), s.ExitCode, strings.Join(c.logged(), "|"))
			p.remove()
		},
		want: `heard "SIGTERM", exit code 3; log "ready|child: signal: killed|heard SIGTERM|closed"`,
	},
	{
		name:   "stats and update",
		limits: true,
		do: func(u *user) {
			p := u.pod()
			c := p.run([]string{"serve"}, memory(256<<20))
			u.note("limit: %s", u.limit(c))
			u.ok("update", "--memory", fmt.Sprint(128<<20), c.id)
			u.note("limit: %s", u.limit(c))
			var stats struct {
				Stats []struct {
					Attributes struct{ ID string }
					Memory     struct{ WorkingSetBytes struct{ Value string } }
				}
			}
			u.must(json.Unmarshal([]byte(u.ok("stats", "--output", "json", "--id", c.id)), &stats))
			u.note("stats: %v", len(stats.Stats) == 1 && len(stats.Stats[0].Memory.WorkingSetBytes.Value) > 4)
			u.ok("stop", "--timeout", "30", c.id)
			c.saw(u)
			p.remove()
		},
		want: "limit: 268435456\nlimit: 134217728\nstats: true",
	},
}

// limit reads a container's limit of memory off its cgroup.
func (u *user) limit(c *container) string {
	for _, pattern := range []string{"/sys/fs/cgroup/memory" + u.Cgroup + "/*/*" + c.id + "/memory.limit_in_bytes", "/sys/fs/cgroup" + u.Cgroup + "/*/*" + c.id + "/memory.max"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			u.must(err)
			return strings.TrimSpace(string(text))
		}
	}
	return "none"
}
