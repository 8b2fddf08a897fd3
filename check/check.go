// Package check tells whether this node is affected: by the versions of the installed
// programs, by the state of the running containers, by the kernel's features and the
// limits of the programs that start containers, and by SELinux labels that differ from
// the policy's.
package check

import (
	"context"
	"os"

	"gracerun.io/runtime/statedir"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	Info    Level = "info"    // worth knowing
	Warning Level = "warning" // can harm
	Harm    Level = "harm"    // does harm at the next stop or shutdown
)

// Finding is one thing that was found.
type Finding struct {
	Level Level  `json:"level"`
	Race  string `json:"race,omitempty"` // its id in docs/races.md
	Text  string `json:"text"`
}

// Report is what is known of a node.
type Report struct {
	Programs   []Program   `json:"programs"`
	Containers []Container `json:"containers"`
	SELinux    *SELinux    `json:"selinux,omitempty"`  // nil where there is none
	AppArmor   *AppArmor   `json:"apparmor,omitempty"` // likewise
	Kernel     []Feature   `json:"kernel"`
	Limits     []Limit     `json:"limits"`
	// NotLookedAt says what could not be looked at, and why.
	NotLookedAt []string `json:"notLookedAt,omitempty"`
}

// Node looks at this machine. It changes nothing.
func Node(ctx context.Context) *Report {
	own := ownPrograms()
	r := &Report{Programs: judgeOwn(programs(ctx), own["gracerun-native"]), Kernel: features(), Limits: limits("/proc", "/sys")}
	for i := range r.Programs {
		if p := &r.Programs[i]; p.Name == "gracemon" {
			p.Found = append(p.Found, outdated("/proc")...)
		}
	}
	if os.Geteuid() != 0 {
		r.NotLookedAt = append(r.NotLookedAt, "containers of other users: not root")
	}
	systemd := systemdRuns()
	if !systemd {
		r.NotLookedAt = append(r.NotLookedAt, "properties of scopes: systemd is not running here")
	}
	r.Containers = containers(ctx, systemd)
	base, err := statedir.Base()
	if err != nil {
		r.NotLookedAt = append(r.NotLookedAt, "the label of gracerun's state: "+err.Error())
	}
	r.SELinux = selinux("", labels(own, base))
	r.AppArmor = apparmor("", own)
	return r
}

// Worst is the highest level of all findings, "" if there is none.
func (r *Report) Worst() Level {
	worst := Level("")
	rank := map[Level]int{"": 0, Info: 1, Warning: 2, Harm: 3}
	see := func(found []Finding) {
		for _, f := range found {
			if rank[f.Level] > rank[worst] {
				worst = f.Level
			}
		}
	}
	for _, p := range r.Programs {
		see(p.Found)
	}
	for _, c := range r.Containers {
		see(c.Found)
	}
	if r.SELinux != nil {
		see(r.SELinux.Found)
	}
	if r.AppArmor != nil {
		see(r.AppArmor.Found)
	}
	for _, f := range r.Kernel {
		see(f.Findings())
	}
	for _, l := range r.Limits {
		see(l.Found)
	}
	return worst
}
