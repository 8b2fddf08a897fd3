package explore

import (
	"hash/maphash"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/lifecycle/invariant"
)

// narrator hears of every step of a machine, for a story.
type narrator func(now lifecycle.Instant, ev lifecycle.Event, effects []lifecycle.Effect)

// Result is what an exploration found.
type Result struct {
	States   int  // distinct states visited
	Moves    int  // moves made, many of which led to a state already visited
	Settled  int  // states from which a kind world was played to its end
	Complete bool // every state that there is was visited
	// Counterexample is the shortest way to the first broken promise, nil if none was.
	Counterexample *Counterexample
}

// Counterexample is a way to a broken promise.
type Counterexample struct {
	Violation *invariant.Violation
	Setup     *Setup
	Moves     []Move
	settled   bool // the promise broke in the kind world after the moves
	subject   func() Subject
}

// settleEvery is how many states there are to one from which a kind world is
// played to its end. The kind world's own moves are moves of the exploration
// too, so what it misses at one state it finds at another.
const settleEvery = 8

// Limits says when to stop. Zero means never.
type Limits struct {
	States   int              // distinct states
	Moves    int              // moves from the beginning
	Progress func(states int) // if not nil, told of every 10,000th state
}

// Exhaust visits the states of the world that setup describes, breadth first,
// so that the first counterexample is a shortest one.
func Exhaust(setup *Setup, subject func() Subject, limits Limits) Result {
	x := explorer{setup: setup, subject: subject, limits: limits, seed: maphash.MakeSeed(), visited: newHashSet()}
	return x.run()
}

// Hunt looks for the shortest way to catch the mutant in any of the setups: a
// little in all of them first, and more only if that finds nothing.
func Hunt(mu *Mutant, setups []*Setup) *Counterexample {
	var found *Counterexample
	for _, states := range []int{20_000, 200_000, 2_000_000} {
		for _, s := range setups {
			limits := Limits{States: states}
			if found != nil {
				limits.Moves = len(found.Moves) - 1
			}
			if c := Exhaust(s, mu.Subject(s.Config), limits).Counterexample; c != nil {
				found = c
			}
		}
		if found != nil {
			break
		}
	}
	return found
}

type explorer struct {
	setup   *Setup
	subject func() Subject
	limits  Limits

	seed    maphash.Seed
	visited *hashSet
	// How each visited state was come by, to tell the way to it.
	parents []uint32
	by      []Move

	result  Result
	scratch []byte
	moves   []Move
}

// node is a state whose moves have not been made yet.
type node struct {
	world *world
	index uint32
}

func (x *explorer) run() Result {
	start := newWorld(x.setup, x.subject())
	x.add(start, 0, Move{})
	frontier := []node{{start, 0}}
	for depth := 0; len(frontier) > 0; depth++ {
		if x.limits.Moves > 0 && depth >= x.limits.Moves {
			return x.result
		}
		var next []node
		for i := range frontier {
			n := frontier[i]
			frontier[i] = node{}
			var done bool
			if next, done = x.expand(n, next); done {
				return x.result
			}
		}
		frontier = next
	}
	x.result.Complete = true
	return x.result
}

// expand makes every move that n allows. It reports whether to stop.
func (x *explorer) expand(n node, next []node) ([]node, bool) {
	x.moves = n.world.moves(x.moves[:0])
	for i, mv := range x.moves {
		w := n.world
		if i < len(x.moves)-1 {
			w = w.clone() // the last move may have the original
		}
		x.result.Moves++
		if v := w.apply(mv, nil); v != nil {
			x.fail(v, n.index, mv, false)
			return next, true
		}
		index, isNew := x.add(w, n.index, mv)
		if !isNew {
			continue
		}
		if index%settleEvery == 0 {
			x.result.Settled++
			if v := w.clone().settle(nil); v != nil {
				x.fail(v, n.index, mv, true)
				return next, true
			}
		}
		if x.result.States == x.limits.States {
			return next, true
		}
		next = append(next, node{w, index})
	}
	return next, false
}

func (x *explorer) add(w *world, parent uint32, mv Move) (uint32, bool) {
	x.scratch = w.appendState(x.scratch[:0])
	if !x.visited.add(maphash.Bytes(x.seed, x.scratch)) {
		return 0, false
	}
	index := uint32(len(x.parents))
	x.parents = append(x.parents, parent)
	x.by = append(x.by, mv)
	x.result.States++
	if x.limits.Progress != nil && x.result.States%10_000 == 0 {
		x.limits.Progress(x.result.States)
	}
	return index, true
}

func (x *explorer) fail(v *invariant.Violation, from uint32, last Move, settled bool) {
	way := []Move{last}
	for i := from; i != 0; i = x.parents[i] {
		way = append(way, x.by[i])
	}
	for i, j := 0, len(way)-1; i < j; i, j = i+1, j-1 {
		way[i], way[j] = way[j], way[i]
	}
	x.result.Counterexample = &Counterexample{v, x.setup, way, settled, x.subject}
}

// hashSet is a set of 64-bit hashes with open addressing: a map would take
// several times the memory at ten million states.
type hashSet struct {
	slots []uint64
	used  int
}

func newHashSet() *hashSet { return &hashSet{slots: make([]uint64, 1<<16)} }

// add reports whether h was not in the set.
func (s *hashSet) add(h uint64) bool {
	h = max(h, 1) // 0 marks a free slot
	if s.used*2 >= len(s.slots) {
		old := s.slots
		s.slots = make([]uint64, 2*len(old))
		for _, h := range old {
			if h != 0 {
				s.slots[s.slot(h)] = h
			}
		}
	}
	i := s.slot(h)
	if s.slots[i] == h {
		return false
	}
	s.slots[i] = h
	s.used++
	return true
}

// slot returns where h is, or where it would be.
func (s *hashSet) slot(h uint64) int {
	mask := uint64(len(s.slots) - 1)
	i := h & mask
	for s.slots[i] != 0 && s.slots[i] != h {
		i = (i + 1) & mask
	}
	return int(i)
}
