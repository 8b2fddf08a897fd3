package explore

import (
	"bytes"
	"testing"

	"gracerun.io/supervisor/lifecycle"
)

// forgetful is the sound machine that dies after every step and is restored
// from its snapshot.
type forgetful struct {
	*lifecycle.Machine
	config lifecycle.Config
	t      *testing.T
}

func (f *forgetful) Step(now lifecycle.Instant, ev lifecycle.Event) []lifecycle.Effect {
	effects := f.Machine.Step(now, ev)
	snapshot := f.AppendAdditions(append(f.AppendSnapshot(nil), ' '))
	restored, err := lifecycle.Restore(f.config, string(snapshot))
	if err != nil {
		f.t.Fatalf("%s: %v", snapshot, err)
	}
	if !bytes.Equal(restored.AppendState(nil, now), f.AppendState(nil, now)) {
		f.t.Fatalf("%s: restored as %s", snapshot, restored.AppendSnapshot(nil))
	}
	f.Machine = restored
	return effects
}

func (f *forgetful) Clone() Subject { return &forgetful{f.Machine.Clone(), f.config, f.t} }

// TestSnapshots: a machine that is written down and read back after every step
// is the same machine.
func TestSnapshots(t *testing.T) {
	for _, s := range Setups() {
		subject := func() Subject { return &forgetful{lifecycle.New(s.Config), s.Config, t} }
		if c := Exhaust(s, subject, Limits{States: effort(500, 5_000, 50_000)}).Counterexample; c != nil {
			t.Errorf("\n%s", story(c))
		}
	}
}
