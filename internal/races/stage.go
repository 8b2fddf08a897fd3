package races

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"gracerun.io/internal/testbed"
	"gracerun.io/supervisor/settings"
	"gracerun.io/timeline"
)

// Verdict is what a scenario has shown on one stack.
type Verdict struct {
	Stack   *testbed.Stack
	Policy  string
	Skipped string   // why it was not staged there, if so
	Trials  int      // how often it was staged
	Harmed  int      // how many of these did harm
	Harms   []string // of the first trial that did
	Shown   *Facts   // of that trial, else of the last
}

// Harmful reports whether any trial did harm.
func (v *Verdict) Harmful() bool { return v.Harmed > 0 }

// Staged is a scenario on a stock stack and on ours over the same runtime.
type Staged struct {
	Scenario    *Scenario
	Stock, Ours *Verdict
}

// Outcome says in a word what a staged scenario has shown.
func (s *Staged) Outcome() string {
	switch {
	case s.Stock.Skipped != "":
		return "skipped"
	case !s.Stock.Harmful() && s.Ours.Harmful():
		return "OURS ALONE"
	case !s.Stock.Harmful():
		return "not reproduced" // and so no pass for ours, whatever it did
	case s.Ours.Skipped != "":
		return "reproduced"
	case s.Ours.Harmful() && s.Scenario.Ours.Cannot != "" && s.Ours.Shown.Warned:
		return "warned of"
	case s.Ours.Harmful():
		return "NOT HELD OFF"
	}
	return "held off"
}

// Stage stages a scenario on stock and ours over an installed runtime, trial by trial,
// both side by side.
func (s *Scenario) Stage(programs, dir, runtime string) *Staged {
	policy := s.OurPolicy()
	staged := &Staged{Scenario: s}
	if s.Drain > 0 { // which is about how fast, so one after the other
		staged.Stock = s.On(testbed.Stock(runtime), dir, "")
		staged.Ours = s.On(testbed.Ours(programs, runtime), dir, policy)
		return staged
	}
	var both sync.WaitGroup
	both.Go(func() { staged.Stock = s.On(testbed.Stock(runtime), dir, "") })
	both.Go(func() { staged.Ours = s.On(testbed.Ours(programs, runtime), dir, policy) })
	both.Wait()
	return staged
}

// OurPolicy is the policy under which ours is staged.
func (s *Scenario) OurPolicy() string {
	if s.Ours.Policy != "" {
		return s.Ours.Policy
	}
	return settings.Defaults().Stop.Policy.String()
}

// On stages the scenario on one stack.
func (s *Scenario) On(stack *testbed.Stack, dir, policy string) *Verdict {
	v := &Verdict{Stack: stack, Policy: policy, Skipped: stack.Missing}
	if s.MemoryMB > 0 && stack.Missing == "" && !memoryController(stack) {
		v.Skipped = "no memory controller where this runtime runs"
	}
	if s.NeedsRecovery && stack.Ours() && stack.Missing == "" && !stack.CanRecover() {
		v.Skipped = NoRecovery
	}
	for range s.Trials {
		if v.Skipped != "" {
			break
		}
		f, err := s.Run(stack, dir, policy)
		if err != nil {
			v.Skipped = err.Error()
			break
		}
		v.take(s, f)
	}
	return v
}

// NoRecovery is why a scene that needs it is skipped with some builds of ours.
const NoRecovery = "this gracemon cannot take over from a dead one"

func memoryController(stack *testbed.Stack) bool {
	_, err := os.Stat("/sys/fs/cgroup/memory")
	return err == nil && stack.SeesHostCgroups()
}

func (v *Verdict) take(s *Scenario, f *Facts) {
	v.Trials++
	var found []string
	for _, name := range s.Harm {
		if text := harms[name](f); text != "" {
			found = append(found, text)
		}
	}
	if found != nil {
		v.Harmed++
	}
	if v.Harmed == 0 || found != nil && v.Harmed == 1 {
		v.Harms, v.Shown = found, f
	}
}

// WriteEvidence writes the timelines of both runs, as text, as a page and for
// Perfetto, and gives the page's path.
func (s *Staged) WriteEvidence(dir, runtime string) (page string, err error) {
	var lines []*timeline.Timeline
	for _, v := range []*Verdict{s.Stock, s.Ours} {
		if v.Shown == nil || v.Shown.Timeline == nil {
			continue
		}
		t := v.Shown.Timeline
		t.Title = v.Stack.Name
		if v.Policy != "" {
			t.Title += ", policy " + v.Policy
		}
		t.Verdict, t.Bad = "no harm", v.Harmful()
		if v.Harmful() {
			t.Verdict = strings.Join(v.Harms, "; ")
		}
		lines = append(lines, t)
	}
	if lines == nil {
		return "", nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	base := filepath.Join(dir, s.Scenario.ID+"-"+runtime)
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s: %s\n\n", s.Scenario.Race, s.Scenario.Title)
	for _, t := range lines {
		t.Text(&text)
		fmt.Fprintln(&text)
	}
	if err := os.WriteFile(base+".txt", text.Bytes(), 0o644); err != nil {
		return "", err
	}
	var html, chrome bytes.Buffer
	if err := timeline.HTML(&html, s.Scenario.Race+": "+s.Scenario.Title, lines...); err != nil {
		return "", err
	}
	if err := os.WriteFile(base+".html", html.Bytes(), 0o644); err != nil {
		return "", err
	}
	if err := timeline.Chrome(&chrome, lines...); err != nil {
		return "", err
	}
	return base + ".html", os.WriteFile(base+".json", chrome.Bytes(), 0o644)
}
