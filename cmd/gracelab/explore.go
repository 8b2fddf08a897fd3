package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"gracerun.io/internal/progress"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/lifecycle/explore"
)

func exploreCommand() *cli.Command {
	return &cli.Command{
		Name:  "explore",
		Usage: "visit every state that the machine can be brought into, and check all invariants",
		Description: `Without flags it explores the sound machine in every world, and must find nothing.
With --mutant it explores a machine that is broken on purpose, and tells the
shortest story of how that was found out. With --seed it repeats a random walk.`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "states", Value: 150_000, Usage: "stop in each world after `N` distinct states (0: when all are visited)"},
			&cli.StringFlag{Name: "world", Usage: "only the worlds whose name contains `TEXT`"},
			&cli.StringFlag{Name: "mutant", Usage: "the broken machine whose name contains `TEXT`, or \"all\""},
			&cli.Uint64Flag{Name: "walks", Usage: "instead of exploring, make `N` random walks in each world"},
			&cli.Uint64Flag{Name: "seed", Usage: "the seed of the first walk", Value: 1},
			&cli.BoolFlag{Name: "list", Usage: "name the worlds and the mutants"},
			&cli.BoolFlag{Name: "coverage", Usage: "say which changes of state were seen, and how often"},
		},
		Action: func(_ context.Context, cmd *cli.Command) error {
			return explorer{cmd, os.Stdout}.run()
		},
	}
}

type explorer struct {
	*cli.Command
	out io.Writer
}

func (x explorer) run() error {
	if x.Args().Present() {
		return fmt.Errorf("explore takes no argument, found %q", x.Args().First())
	}
	setups, err := x.setups()
	switch {
	case err != nil:
		return err
	case x.Bool("list"):
		x.list(setups)
		return nil
	case x.IsSet("mutant"):
		return x.mutants(setups)
	case x.IsSet("walks") || x.IsSet("seed"):
		return x.walks(setups)
	}
	return x.exhaust(setups)
}

func (x explorer) setups() ([]*explore.Setup, error) {
	var chosen []*explore.Setup
	for _, s := range explore.Setups() {
		if strings.Contains(s.Name, x.String("world")) {
			chosen = append(chosen, s)
		}
	}
	if chosen == nil {
		return nil, fmt.Errorf("no world has %q in its name; --list names them", x.String("world"))
	}
	return chosen, nil
}

func (x explorer) list(setups []*explore.Setup) {
	fmt.Fprintln(x.out, "Worlds:")
	for _, s := range setups {
		fmt.Fprintf(x.out, "  %s\n", s.Name)
	}
	fmt.Fprintln(x.out, "Mutants:")
	for _, mu := range explore.Mutants() {
		fmt.Fprintf(x.out, "  %-40s breaks %-4s %s\n", mu.Name, mu.Breaks, mu.Model)
	}
}

// exhaust explores the sound machine.
func (x explorer) exhaust(setups []*explore.Setup) error {
	seen := explore.Transitions{}
	line := progress.Start(os.Stderr)
	defer line.End()
	begin, states, moves := time.Now(), 0, 0
	for i, s := range setups {
		limits := explore.Limits{States: int(x.Int("states"))}
		limits.Progress = func(n int) {
			share := -1.0 // of a world without a bound nobody knows how large it is
			if limits.States > 0 {
				share = (float64(i) + float64(n)/float64(limits.States)) / float64(len(setups))
			}
			line.Set(share, "world %d of %d: %d states, %.0f/s: %s", i+1, len(setups), n, float64(states+n)/time.Since(begin).Seconds(), s.Name)
		}
		limits.Progress(0)
		r := explore.Exhaust(s, seen.Watch(s.Config), limits)
		states, moves = states+r.States, moves+r.Moves
		all := ""
		if r.Complete {
			all = "  all there are"
		}
		line.Aside(func() { fmt.Fprintf(x.out, "%-55s %9d states%s\n", s.Name, r.States, all) })
		if r.Counterexample != nil {
			line.End()
			r.Counterexample.Print(x.out)
			return &finding{"an invariant is broken"}
		}
	}
	line.End()
	seconds := time.Since(begin).Seconds()
	fmt.Fprintf(x.out, "%d distinct states by %d moves in %.1f s (%.0f states/s): no invariant broken\n",
		states, moves, seconds, float64(states)/seconds)
	causes := 0
	for _, events := range seen {
		causes += len(events)
	}
	fmt.Fprintf(x.out, "Coverage: %d of %d states of a life, %d ways from one to another, by %d pairs of way and event\n",
		seen.States(), lifecycle.States, len(seen), causes)
	if x.Bool("coverage") {
		x.coverage(seen)
	}
	return nil
}

func (x explorer) coverage(seen explore.Transitions) {
	var lines []string
	for tr, events := range seen {
		for ev, n := range events {
			lines = append(lines, fmt.Sprintf("  %-9s -> %-9s by %-16s %9d times", tr.From, tr.To, ev, n))
		}
	}
	sort.Strings(lines)
	fmt.Fprintf(x.out, "%d changes of state:\n%s\n", len(lines), strings.Join(lines, "\n"))
}

func (x explorer) mutants(setups []*explore.Setup) error {
	var chosen []*explore.Mutant
	for _, mu := range explore.Mutants() {
		if name := x.String("mutant"); name == "all" || strings.Contains(mu.Name, name) {
			chosen = append(chosen, mu)
		}
	}
	if chosen == nil {
		return fmt.Errorf("no mutant has %q in its name; --list names them", x.String("mutant"))
	}
	line := progress.Start(os.Stderr)
	defer line.End()
	for i, mu := range chosen {
		line.Count(i, len(chosen), "mutants caught: "+mu.Name)
		c := explore.Hunt(mu, setups)
		if c == nil {
			return fmt.Errorf("mutant %q was not caught in the worlds chosen", mu.Name)
		}
		line.Aside(func() {
			fmt.Fprintf(x.out, "%s\n  Model: %s.\n", mu.Name, mu.Model)
			c.Print(x.out)
			fmt.Fprintln(x.out)
		})
	}
	return nil
}

func (x explorer) walks(setups []*explore.Setup) error {
	first, n := x.Uint64("seed"), max(x.Uint64("walks"), 1)
	line := progress.Start(os.Stderr)
	defer line.End()
	for i, s := range setups {
		for seed := first; seed < first+n; seed++ {
			if done := seed - first; done%1000 == 0 {
				line.Set((float64(i)+float64(done)/float64(n))/float64(len(setups)), "world %d of %d: %d of %d walks: %s", i+1, len(setups), done, n, s.Name)
			}
			subject := explore.Transitions{}.Watch(s.Config)
			if c := explore.Simulate(s, subject, seed, 200); c != nil {
				line.End()
				fmt.Fprintf(x.out, "To repeat it: gracelab explore --world %q --seed %d\n", s.Name, seed)
				c.Print(x.out)
				return &finding{"an invariant is broken"}
			}
		}
		line.Aside(func() { fmt.Fprintf(x.out, "%-55s %d walks\n", s.Name, n) })
	}
	return nil
}
