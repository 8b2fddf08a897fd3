package crio

import (
	"os"
	"testing"

	"gracerun.io/internal/crinode"
	"gracerun.io/internal/races"
	"gracerun.io/internal/testbed"
)

// The races with a real CRI-O, as `gracelab reproduce --under crio` stages them: a
// few, or all with GRACERUN_SOAK.
func TestRaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run CRI-O with these containers")
	}
	programs, err := crinode.Find("../../.work/crio")
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "gr-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, why := range testbed.Build(dir, "gracemon", "gracerun") {
		t.Fatalf("%s: %s", name, why)
	}
	store, err := crinode.Store(programs, dir)
	if err != nil {
		t.Fatal(err)
	}
	real := &races.Real{Programs: programs, Store: store}
	scenes, err := races.All()
	if err != nil {
		t.Fatal(err)
	}
	few := map[string]bool{"early-kill": true, "manager-interrupted": true, "second-term": true}
	free := make(chan struct{}, 3)
	// In a group, which ends when all have: the store is theirs until then.
	t.Run("scenes", func(t *testing.T) {
		for _, s := range scenes {
			if !few[s.ID] && !soak() {
				continue
			}
			t.Run(s.ID, func(t *testing.T) {
				t.Parallel()
				free <- struct{}{}
				defer func() { <-free }()
				staged := real.Stage(s, dir, dir, "runc")
				if why := staged.Stock.Skipped; why != "" {
					t.Skip(why)
				}
				t.Logf("%s: stock: %q, ours: %q", staged.Outcome(), staged.Stock.Harms, staged.Ours.Harms)
				switch outcome := staged.Outcome(); {
				case outcome == "NOT HELD OFF", outcome == "OURS ALONE":
					t.Errorf("ours did harm: %q", staged.Ours.Harms)
				case staged.Ours.Skipped != "":
					t.Errorf("ours was not staged: %s", staged.Ours.Skipped)
				case few[s.ID] && outcome != "held off":
					t.Errorf("%s, not held off: stock %q", outcome, staged.Stock.Harms)
				}
			})
		}
	})
}
