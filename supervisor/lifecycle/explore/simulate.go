package explore

import "math/rand/v2"

// Simulate makes random moves in the world of setup, steps of them at most,
// and then lets the world be kind. Seed decides them all: the same seed takes
// the same way, whatever machine it runs on.
func Simulate(setup *Setup, subject func() Subject, seed uint64, steps int) *Counterexample {
	r := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(setup, subject())
	var way, moves []Move
	for range steps {
		moves = w.moves(moves[:0])
		if len(moves) == 0 {
			break
		}
		mv := moves[r.IntN(len(moves))]
		way = append(way, mv)
		if v := w.apply(mv, nil); v != nil {
			return &Counterexample{v, setup, way, false, subject}
		}
	}
	if v := w.settle(nil); v != nil {
		return &Counterexample{v, setup, way, true, subject}
	}
	return nil
}
