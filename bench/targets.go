package bench

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict is what ours was to reach in comparison with theirs, and whether it
// did.
type Verdict struct {
	Name     string   `json:"name"`
	Work     string   `json:"work"`
	Quantity Quantity `json:"quantity"`
	Ours     string   `json:"ours"`
	Theirs   string   `json:"theirs"`
	Want     string   `json:"want"`
	Found    string   `json:"found"` // "" if one of the two was not measured
	Met      bool     `json:"met"`
}

// target compares one quantity of two subjects.
type target struct {
	name          string
	section, work string
	quantity      Quantity
	ours, theirs  string
	limit         limit
}

// limit says how ours may compare with theirs.
type limit struct {
	times   float64 // the ratio, if it is not 0
	plus    float64 // else the difference
	atLeast bool    // the ratio is to be reached, not to be kept below
}

func (l limit) String() string {
	switch {
	case l.times == 0:
		return fmt.Sprintf("≤ +%g ms", l.plus)
	case l.atLeast:
		return fmt.Sprintf("≥ %g×", l.times)
	default:
		return fmt.Sprintf("≤ %g×", l.times)
	}
}

func (l limit) judge(ours, theirs float64) (found string, met bool) {
	switch {
	case l.times == 0:
		return fmt.Sprintf("%+.2f ms", ours-theirs), ours-theirs <= l.plus
	case l.atLeast:
		return times(ours / theirs), ours/theirs >= l.times
	default:
		return times(ours / theirs), ours/theirs <= l.times
	}
}

// targets are those of the project: what a replacement has to be, to be one.
func (p *programs) targets() (all []target) {
	under := caller{runtime: p.overCrun, monitor: p.gracemon}.String()
	for _, ours := range []string{under, p.overCrun.Name} {
		for _, work := range []string{"kill", "state"} {
			all = append(all, target{"signal path", commandSection, work, Wall, ours, p.crun.Name, limit{times: 0.6}})
		}
	}
	for _, pair := range [][2]*Program{{p.overCrun, p.crun}, {p.overRunc, p.runc}, {p.overNative, p.native}} {
		for _, work := range []string{"create", "start", "delete"} {
			all = append(all, target{"cost of wrapping", commandSection, work, Wall, pair[0].Name, pair[1].Name, limit{plus: 2}})
		}
	}
	all = append(all, p.stackTargets()...)
	for _, d := range loadNames {
		all = append(all,
			target{"log throughput", logSection, d + ", to tmpfs", Rate, p.gracemon.Name, p.conmon.Name, limit{times: 6, atLeast: true}},
			target{"log cost", logSection, d + ", to tmpfs", CPUPerGiB, p.gracemon.Name, p.conmon.Name, limit{times: 0.2}})
	}
	for _, medium := range []string{"tmpfs", "disk"} {
		for _, d := range loadNames {
			all = append(all, target{"log beside a copy", logSection, d + ", to " + medium, Rate, p.gracemon.Name, copyLimit, limit{times: 0.9, atLeast: true}})
		}
		for _, d := range loadNames[4:] {
			all = append(all, target{"a container's time", logSection, d + ", to " + medium, Rate, p.gracemon.Name, p.conmon.Name, limit{times: 1, atLeast: true}})
		}
	}
	all = append(all,
		target{"log throughput", logSection, loadNames[0] + ", to tmpfs", Rate, p.gracemon.Name, p.conmon.Name, limit{times: 3.5, atLeast: true}},
		target{"memory", memorySection, "one of 30", PSS, p.gracemon.Name, p.conmon.Name, limit{times: 1.5}})
	return append(all,
		target{"memory", memorySection, "one of 30", PSS, p.asleep.Name, p.conmon.Name, limit{times: 1.5}},
		target{"memory of one more", memorySection, "one of 30", PSS, p.asleep.Name, p.conmon.Name, limit{times: 0.3}},
		target{"exit", monitorSection, exitWork, Latency, p.gracemon.Name, p.conmon.Name, limit{times: 1}})
}

// stackTargets are those of a node: ours as a whole beside the others as a whole.
func (p *programs) stackTargets() (all []target) {
	theirs := p.conmon.Name + " and " + p.crun.Name
	add := func(name, section, work string, q Quantity, ours, theirs string, l limit) {
		all = append(all, target{name, section, work, q, ours, theirs, l})
	}
	for work, most := range map[string]float64{createWork: 1.05, startWork: 1.2, deleteWork: 1.2, execWork: 1} {
		add("a life under a monitor", stackSection, work, Wall, oursOverCrun, theirs, limit{times: most})
	}
	slices.SortFunc(all, func(a, b target) int { return strings.Compare(a.work, b.work) })
	for _, work := range []string{rowWork(manyInARow), endWork(manyInARow)} {
		add("many in a row", rowSection, work, Wall, oursOverCrun, theirs, limit{times: 1})
	}
	for _, work := range []string{podmanRun, podmanExec} {
		for _, r := range []string{"crun", "runc"} {
			add("podman", podmanSection, overRuntime(work, r), Wall, podmanOurs, podmanTheirs, limit{times: 1})
		}
	}
	for _, work := range []string{crioLife, crioExec} {
		add("CRI-O", crioSection, work, Wall, crioOurs, crioTheirs, limit{times: 1})
	}
	add("idle node", fullSection, fullWork(fullNode), CPU, oursOverCrun, theirs, limit{})
	add("drain", drainSection, fmt.Sprintf("%d containers", fullNode), LastTerm, oursOverCrun, theirs, limit{times: 0.6})
	return all
}

func (r *Report) judge(all []target) {
	for _, t := range all {
		v := Verdict{Name: t.name, Work: t.work, Quantity: t.quantity, Ours: t.ours, Theirs: t.theirs, Want: t.limit.String()}
		ours, theirs := r.row(t.section, t.work, t.ours, t.quantity), r.row(t.section, t.work, t.theirs, t.quantity)
		if ours != nil && theirs != nil {
			v.Found, v.Met = t.limit.judge(ours.Median, theirs.Median)
		}
		r.Targets = append(r.Targets, v)
	}
}
