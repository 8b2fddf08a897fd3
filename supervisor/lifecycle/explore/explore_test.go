package explore

import (
	"os"
	"strings"
	"testing"

	"gracerun.io/supervisor/lifecycle"
)

func sound(c lifecycle.Config) func() Subject {
	return func() Subject { return Sound{lifecycle.New(c)} }
}

// TestTmp
func TestExhaustAll(t *testing.T) {
	for _, s := range Setups() {
		r := Exhaust(s, sound(s.Config), Limits{States: 200_000})
		t.Logf("%-50s states %8d moves %9d complete %v", s.Name, r.States, r.Moves, r.Complete)
		if r.Counterexample != nil {
			var b strings.Builder
			r.Counterexample.Tell(&b)
			t.Errorf("%s", b.String())
			if os.Getenv("ALL") == "" {
				return
			}
		}
	}
}

// TestMutants
func TestMutants(t *testing.T) {
	for _, mu := range Mutants() {
		t.Run(mu.Name, func(t *testing.T) {
			found := Hunt(mu, Setups())
			if found == nil {
				t.Fatal("not caught")
			}
			var b strings.Builder
			found.Tell(&b)
			t.Logf("\n%s: %s\n%s", mu.Name, mu.Model, b.String())
			if found.Violation.Invariant != mu.Breaks {
				t.Errorf("broke %s, want %s", found.Violation.Invariant, mu.Breaks)
			}
		})
	}
}
