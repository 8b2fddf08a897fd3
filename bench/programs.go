package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Program is one of the programs that are compared.
type Program struct {
	Name    string   `json:"name"` // as in the tables: with its version where there are several
	Version string   `json:"version,omitempty"`
	Missing string   `json:"missing,omitempty"` // why it is not measured
	path    string   // of what is executed
	env     []string // beside the environment of every program here
	ours    bool
}

// programs are all that there can be, found or not.
type programs struct {
	gracerun, gracemon, native     *Program
	crun, runc, conmon             *Program // of this Debian
	newCrun, newConmon             *Program // of the next one
	overCrun, overRunc, overNative *Program // gracerun, and what it wraps
	asleep                         *Program // gracemon that has been idle; the other one stays awake
	workload                       string
}

func (p *programs) all() []*Program {
	return []*Program{p.gracerun, p.gracemon, p.native, p.crun, p.newCrun, p.runc, p.conmon, p.newConmon}
}

// runtimes are those that are there: ours over each, and each alone.
func (p *programs) runtimes() []*Program {
	return present(p.overCrun, p.overRunc, p.overNative, p.native, p.crun, p.newCrun, p.runc)
}

func (p *programs) monitors() []*Program { return present(p.gracemon, p.conmon, p.newConmon) }

// underneath is the stock runtime that monitors are compared with.
func (p *programs) underneath() *Program {
	if found := present(p.crun, p.runc); len(found) > 0 {
		return found[0]
	}
	return p.native
}

func present(all ...*Program) (found []*Program) {
	for _, p := range all {
		if p.Missing == "" {
			found = append(found, p)
		}
	}
	return found
}

// find looks for the programs: ours in bin, the peers in $PATH and in newer, a
// tree into which packages of a later Debian were unpacked.
func find(bin, newer string) (*programs, error) {
	p := &programs{workload: filepath.Join(bin, "workload")}
	if _, err := os.Stat(p.workload); err != nil {
		return nil, fmt.Errorf("the workload of the benchmarks: %w; make bench builds it", err)
	}
	p.gracerun, p.gracemon, p.native = built(bin, "gracerun"), built(bin, "gracemon"), built(bin, "gracerun-native")
	p.gracemon.env = []string{"GRACEMON_SLEEP=off"}
	sleeper := *p.gracemon
	sleeper.Name, sleeper.env = sleeper.Name+" asleep", []string{"GRACEMON_SLEEP=100ms"}
	p.asleep = &sleeper
	p.crun, p.runc, p.conmon = installed("crun"), installed("runc"), installed("conmon")
	p.newCrun, p.newConmon = unpacked(newer, "crun"), unpacked(newer, "conmon")
	p.overCrun, p.overRunc, p.overNative = over(p.gracerun, p.crun), over(p.gracerun, p.runc), over(p.gracerun, p.native)
	return p, nil
}

func built(bin, name string) *Program {
	p := &Program{Name: name, path: filepath.Join(bin, name), ours: true}
	p.readVersion()
	return p
}

func installed(name string) *Program {
	path, err := exec.LookPath(name)
	if err != nil {
		return &Program{Name: name, Missing: "not installed"}
	}
	p := &Program{Name: name, path: path}
	p.readVersion()
	p.Name += " " + p.Version
	return p
}

// unpacked is a program in a tree that integration/install-deps made.
func unpacked(tree, name string) *Program {
	p := &Program{Name: "newer " + name, path: filepath.Join(tree, "usr/bin", name)}
	p.readVersion()
	if p.Missing == "" {
		p.Name = name + " " + p.Version
	}
	return p
}

// over puts gracerun in front of a runtime.
func over(gracerun, wrapped *Program) *Program {
	p := &Program{Name: "gracerun over " + wrapped.Name, path: gracerun.path, ours: true, env: []string{"GRACERUN_RUNTIME=" + wrapped.path}}
	for _, part := range []*Program{wrapped, gracerun} {
		if part.Missing != "" {
			p.Missing = part.Missing
		}
	}
	return p
}

// readVersion asks the program, which shows at the same time that it runs.
func (p *Program) readVersion() {
	if _, err := os.Stat(p.path); err != nil {
		p.Missing = "there is no " + p.path
		return
	}
	output, err := exec.Command(p.path, "--version").CombinedOutput()
	if err != nil {
		p.Missing = fmt.Sprintf("--version: %v: %s", err, output)
		return
	}
	first, _, _ := strings.Cut(string(output), "\n")
	if words := strings.Fields(first); len(words) > 0 {
		p.Version, _, _ = strings.Cut(words[len(words)-1], "+") // without the packager's suffix
	}
}

func (p *Program) String() string { return p.Name }

// baselines names for each section whom the others are compared with.
func (p *programs) baselines() map[string]string {
	return map[string]string{
		commandSection: p.crun.Name,
		signalSection:  p.crun.Name,
		monitorSection: p.conmon.Name,
		memorySection:  p.conmon.Name,
		stackSection:   p.conmon.Name + " and " + p.crun.Name,
		rowSection:     p.conmon.Name + " and " + p.crun.Name,
		logSection:     p.conmon.Name,
		attachSection:  p.conmon.Name,
		fullSection:    p.conmon.Name + " and " + p.crun.Name,
		podmanSection:  podmanTheirs,
		crioSection:    crioTheirs,
		drainSection:   p.conmon.Name + " and " + p.crun.Name,
	}
}
