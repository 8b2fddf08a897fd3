// Package races stages the races of docs/races.md on real containers: each one
// on a stock stack, and the same on ours.
package races

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"gracerun.io/faults/plan"
	"gracerun.io/internal/testbed"
	files "gracerun.io/testdata/races"
)

// Scenario is a race and how it is staged.
type Scenario struct {
	ID     string `yaml:"-"` // the file's name without its end
	faults string // the plan for ours, compiled

	Race     string        `yaml:"race"`     // its section in docs/races.md
	Title    string        `yaml:"title"`    // one line: who does what to whom
	Runtimes []string      `yaml:"runtimes"` // that can have it; default: crun and runc
	Workload string        `yaml:"workload"` // a script, or the name of one in workloads/
	Grace    time.Duration `yaml:"grace"`
	HostPID  bool          `yaml:"host-pid"` // the container shares the host's pid namespace
	MemoryMB int64         `yaml:"memory-mb"`
	Trials   int           `yaml:"trials"` // of a race that is lost only sometimes

	Trouble       *testbed.Trouble `yaml:"runtime-trouble"` // of the runtime that does the work
	CallerTrouble *testbed.Trouble `yaml:"call-trouble"`    // of the manager's call
	SlowMonitor   time.Duration    `yaml:"slow-monitor"`

	// Sound says why the stock stack of today is expected to do no harm: the scene
	// is there for stacks that do.
	Sound string `yaml:"sound"`
	// NeedsRecovery: ours needs a gracemon that takes over from a dead one.
	NeedsRecovery bool `yaml:"needs-recovery"`

	Exec  string   `yaml:"exec"`  // a script for the step exec; it has say TEXT
	Drain int      `yaml:"drain"` // instead of steps: so many containers, all stopped at once
	Steps []Step   `yaml:"steps"`
	Harm  []string `yaml:"harm"` // names of harms; one of them is enough
	Ours  struct {
		Policy string    `yaml:"policy"` // default: what gracerun does without a word
		Stop   string    `yaml:"stop"`   // who owns the stop: crio (default), or gracerun: one call of `gracerun stop`
		Faults yaml.Node `yaml:"faults"` // a fault plan for gracemon and gracerun, as docs/fault-plans.md has it
		Cannot string    `yaml:"cannot"` // why no stack can hold it off; gracelab check must tell of it then
	} `yaml:"ours"`
}

// Step is one thing that is done: "do" or "do: what".
type Step struct {
	Do, What string
	By       string // who does it, from "what by whom"
}

// UnmarshalYAML reads "create" and "await: ready" alike.
func (s *Step) UnmarshalYAML(node *yaml.Node) error {
	what := ""
	switch {
	case node.Kind == yaml.ScalarNode:
		s.Do = node.Value
	case node.Kind == yaml.MappingNode && len(node.Content) == 2 && node.Content[1].Kind == yaml.ScalarNode:
		s.Do, what = node.Content[0].Value, node.Content[1].Value
	default:
		return fmt.Errorf("line %d: a step is one word, or one \"word: what\"", node.Line)
	}
	s.What, s.By, _ = strings.Cut(what, " by ")
	if _, ok := deeds[s.Do]; !ok {
		return fmt.Errorf("line %d: unknown step %q", node.Line, s.Do)
	}
	return nil
}

// Parse reads a scenario. Its errors name the line where they can.
func Parse(id string, text []byte) (*Scenario, error) {
	s := &Scenario{ID: id}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(s); err != nil {
		return nil, err
	}
	if s.Runtimes == nil {
		s.Runtimes = []string{"crun", "runc"}
	}
	s.Trials = max(s.Trials, 1)
	if s.Drain == 0 && !strings.Contains(s.Workload, "\n") {
		script, err := files.Files.ReadFile(path.Join("workloads", s.Workload+".sh"))
		if err != nil {
			return nil, fmt.Errorf("workload: there is no workloads/%s.sh", s.Workload)
		}
		s.Workload = string(script)
	}
	if !s.Ours.Faults.IsZero() {
		text, err := yaml.Marshal(map[string]*yaml.Node{"faults": &s.Ours.Faults})
		if err != nil {
			return nil, err
		}
		rules, err := plan.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("ours: faults: %w", err)
		}
		s.faults = plan.Compile(rules)
	}
	return s, s.check()
}

func (s *Scenario) check() error {
	for _, t := range []*testbed.Trouble{s.Trouble, s.CallerTrouble} {
		if t == nil {
			continue
		}
		if err := t.Check(); err != nil {
			return err
		}
	}
	switch {
	case s.Race == "" || s.Title == "":
		return errors.New("race and title are needed")
	case s.Grace <= 0:
		return errors.New("grace is missing")
	case len(s.Steps) == 0 && s.Drain == 0:
		return errors.New("steps are missing")
	case len(s.Harm) == 0:
		return errors.New("harm is missing: say what would be one")
	case s.Ours.Stop != "" && s.Ours.Stop != "crio" && s.Ours.Stop != "gracerun":
		return fmt.Errorf("ours: stop: unknown owner %q: want crio or gracerun", s.Ours.Stop)
	}
	for _, h := range s.Harm {
		if _, ok := harms[h]; !ok {
			return fmt.Errorf("unknown harm %q", h)
		}
	}
	return nil
}

// All reads every scenario there is, by name.
func All() ([]*Scenario, error) {
	names, err := fs.Glob(files.Files, "*.yaml")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []*Scenario
	for _, name := range names {
		text, err := files.Files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		s, err := Parse(strings.TrimSuffix(name, ".yaml"), text)
		if err != nil {
			return nil, fmt.Errorf("testdata/races/%s: %w", name, err)
		}
		all = append(all, s)
	}
	return all, nil
}

// Find gives the scenarios of that name, or of that race.
func Find(name string) ([]*Scenario, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	var found []*Scenario
	for _, s := range all {
		if s.ID == name || s.Race == name {
			found = append(found, s)
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no scenario or race is named %q; --list names them", name)
	}
	return found, nil
}

// Get gives the scenario of that name.
func Get(id string) (*Scenario, error) {
	text, err := files.Files.ReadFile(id + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("there is no scenario %q", id)
	}
	return Parse(id, text)
}
