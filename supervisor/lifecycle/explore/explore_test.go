package explore

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"gracerun.io/internal/progress"
	"gracerun.io/supervisor/lifecycle"
)

func sound(c lifecycle.Config) func() Subject {
	return func() Subject { return Sound{lifecycle.New(c)} }
}

// effort is how much is explored: little under -short (with the race detector,
// which has nothing to find in one goroutine), more in `make test`, most in
// `make soak`.
func effort(short, normal, soak int) int {
	switch {
	case os.Getenv("GRACERUN_SOAK") != "":
		return soak
	case testing.Short():
		return short
	}
	return normal
}

func story(c *Counterexample) string {
	var b strings.Builder
	c.Print(&b)
	return b.String()
}

// TestEveryInterleaving: no order of events makes the machine break a promise.
func TestEveryInterleaving(t *testing.T) {
	limit := effort(5_000, 150_000, 1_500_000)
	least := int64(effort(16*4_000, 1_000_000, 10_000_000))
	var states, moves, settled, worlds atomic.Int64
	line := progress.ForSoak()
	t.Run("setups", func(t *testing.T) {
		for _, s := range Setups() {
			t.Run(s.Name, func(t *testing.T) {
				t.Parallel()
				line.Count(int(worlds.Load()), len(Setups()), "worlds explored")
				r := Exhaust(s, sound(s.Config), Limits{States: limit})
				line.Count(int(worlds.Add(1)), len(Setups()), "worlds explored")
				states.Add(int64(r.States))
				moves.Add(int64(r.Moves))
				settled.Add(int64(r.Settled))
				all := ""
				if r.Complete {
					all = ", which is all there are"
				}
				t.Logf("%d distinct states%s", r.States, all)
				if r.Counterexample != nil {
					t.Errorf("\n%s", story(r.Counterexample))
				}
			})
		}
	})
	line.End()
	t.Logf("%d distinct states in all, by %d moves; from %d of them a kind world was played to its end",
		states.Load(), moves.Load(), settled.Load())
	if states.Load() < least {
		t.Errorf("only %d states were visited, want %d: the worlds have become too small", states.Load(), least)
	}
}

// TestRandomWalks goes further from the beginning than breadth first comes.
// GRACERUN_SEED=N repeats one walk in every setup.
func TestRandomWalks(t *testing.T) {
	seeds := uint64(effort(100, 2_000, 100_000))
	first := uint64(1)
	if text := os.Getenv("GRACERUN_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &first); err != nil {
			t.Fatalf("GRACERUN_SEED=%s: %v", text, err)
		}
		seeds = 1
	}
	for _, s := range Setups() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			for seed := first; seed < first+seeds; seed++ {
				if c := Simulate(s, sound(s.Config), seed, 200); c != nil {
					t.Fatalf("to repeat it: GRACERUN_SEED=%d\n%s", seed, story(c))
				}
			}
		})
	}
}

// TestSeedReplays: a walk that broke something breaks it again, the same way.
func TestSeedReplays(t *testing.T) {
	setup := Setups()[0]
	caught := 0
	for _, mu := range Mutants() {
		for seed := uint64(1); seed < 300; seed++ {
			c := Simulate(setup, mu.Subject(setup.Config), seed, 200)
			if c == nil {
				continue
			}
			caught++
			again := Simulate(setup, mu.Subject(setup.Config), seed, 200)
			if again == nil || story(again) != story(c) {
				t.Errorf("%s: seed %d took another way the second time", mu.Name, seed)
			}
			break
		}
	}
	t.Logf("random walks caught %d mutants in the world %q alone", caught, setup.Name)
	if caught == 0 {
		t.Error("no walk broke any mutant")
	}
}

// TestMutants: the explorer catches every machine that is broken on purpose,
// by the promise that it breaks. Its story is the shortest one.
func TestMutants(t *testing.T) {
	broken := map[string]bool{}
	for _, mu := range Mutants() {
		broken[mu.Breaks] = true
		t.Run(mu.Name, func(t *testing.T) {
			found := Hunt(mu, Setups())
			if found == nil {
				t.Fatalf("was not caught; its model is %s", mu.Model)
			}
			text := story(found)
			t.Logf("\nModel: %s.\n%s", mu.Model, text)
			if found.Violation.Invariant != mu.Breaks {
				t.Errorf("was caught by %s, want %s", found.Violation.Invariant, mu.Breaks)
			}
			if !strings.HasSuffix(text, "Broken: "+found.Violation.Error()+"\n") {
				t.Error("the story, told again, does not end as the exploration did")
			}
		})
	}
	for _, id := range []string{"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I11", "I12"} {
		if !broken[id] {
			t.Errorf("no mutant breaks %s: nothing shows that it is checked", id)
		}
	}
}
