package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"gracerun.io/internal/crinode"
	"gracerun.io/internal/progress"
	"gracerun.io/internal/races"
)

// underCRIO stages scenarios with the CRI-O that the testbed plays and with a real
// one, and says of each whether it does the same.
type underCRIO struct {
	dir, evidence string
	real          *races.Real
	out           io.Writer
}

// compared is a scenario staged both ways.
type compared struct {
	job
	played, real *races.Staged
	err          error // of the evidence
}

func newUnderCRIO(programs, dir, evidence string, out io.Writer) (*underCRIO, error) {
	found, err := crinode.Find(programs)
	if err != nil {
		return nil, fmt.Errorf("no CRI-O to be run: %w", err)
	}
	store, err := crinode.Store(found, dir)
	if err != nil {
		return nil, err
	}
	return &underCRIO{dir, evidence, &races.Real{Programs: found, Store: store}, out}, nil
}

// run stages the jobs, a few at a time.
func (u *underCRIO) run(jobs []job, parallel int) error {
	rows := make([]compared, len(jobs))
	free := make(chan struct{}, max(parallel, 1))
	line := progress.Start(os.Stderr)
	defer line.End()
	line.Count(0, len(jobs), "staged")
	var ended atomic.Int64
	var wait sync.WaitGroup
	for i, j := range jobs {
		free <- struct{}{}
		wait.Go(func() {
			defer func() { <-free }()
			row := compared{job: j}
			row.real = u.real.Stage(j.scenario, programsDir(), u.dir, j.runtime)
			if row.real.Stock.Skipped == "" {
				row.played = j.scenario.Stage(programsDir(), u.dir, j.runtime)
				_, row.err = row.real.WriteEvidence(filepath.Join(u.evidence, "crio"), j.runtime)
			}
			rows[i] = row
			line.Count(int(ended.Add(1)), len(jobs), "staged")
		})
	}
	wait.Wait()
	line.End()
	return u.conclude(rows)
}

// same says whether a verdict of the real CRI-O is that of the played one.
func same(real, played *races.Verdict) string {
	switch {
	case real.Skipped != "" || played.Skipped != "":
		return "not compared"
	case real.Harmful() == played.Harmful():
		return "the same"
	}
	return "DIFFERENT"
}

func (u *underCRIO) conclude(rows []compared) error {
	failed, count := false, map[string]int{}
	for _, row := range rows {
		fmt.Fprintf(u.out, "%s, over %s: %s\n", row.scenario.ID, row.runtime, row.scenario.Title)
		if why := row.real.Stock.Skipped; why != "" {
			fmt.Fprintf(u.out, "    not staged with a real CRI-O: %s\n", why)
			count["not staged"]++
			continue
		}
		for _, pair := range [][2]*races.Verdict{{row.real.Stock, row.played.Stock}, {row.real.Ours, row.played.Ours}} {
			how := same(pair[0], pair[1])
			count[how]++
			fmt.Fprintf(u.out, "    %s: with CRI-O %s\n", pair[0].Stack.Name, verdictText(pair[0]))
			fmt.Fprintf(u.out, "    %s  played     %s: %s\n", strings.Repeat(" ", len(pair[0].Stack.Name)), verdictText(pair[1]), how)
		}
		if row.err != nil {
			fmt.Fprintf(u.out, "    no evidence: %v\n", row.err)
		}
		outcome := row.real.Outcome()
		failed = failed || outcome == "NOT HELD OFF" || outcome == "OURS ALONE"
	}
	fmt.Fprintf(u.out, "\n%-28s %-7s %-14s %-14s %-16s %-16s\n", "race", "runtime", "stock, CRI-O", "ours, CRI-O", "stock, played", "ours, played")
	for _, row := range rows {
		if row.played == nil {
			fmt.Fprintf(u.out, "%-28s %-7s not staged\n", row.scenario.ID, row.runtime)
			continue
		}
		fmt.Fprintf(u.out, "%-28s %-7s %-14s %-14s %-16s %-16s %s\n", row.scenario.ID, row.runtime, short(row.real.Stock), short(row.real.Ours),
			short(row.played.Stock), short(row.played.Ours), row.real.Outcome())
	}
	fmt.Fprintf(u.out, "\n%d the same, %d DIFFERENT, %d not compared, %d not staged.\n",
		count["the same"], count["DIFFERENT"], count["not compared"], count["not staged"])
	if failed {
		return &finding{"our stack did harm under a real CRI-O"}
	}
	return nil
}

// underJobs are the scenarios over one runtime each: runc if it can have the race,
// since crun has no limits where version 1's controllers are mounted.
func underJobs(scenarios []*races.Scenario, only string) []job {
	all := jobsOf(scenarios, only, true)
	var jobs []job
	for _, s := range scenarios {
		var chosen *job
		for i := range all {
			if all[i].scenario == s && (chosen == nil || all[i].runtime == "runc") {
				chosen = &all[i]
			}
		}
		if chosen != nil {
			jobs = append(jobs, *chosen)
		}
	}
	return jobs
}
