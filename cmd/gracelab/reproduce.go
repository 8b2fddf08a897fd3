package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/urfave/cli/v3"

	"gracerun.io/internal/progress"
	"gracerun.io/internal/races"
)

func reproduceCommand() *cli.Command {
	return &cli.Command{
		Name:      "reproduce",
		Usage:     "stage races on real containers: on a stock stack, and the same on ours",
		ArgsUsage: "[ID...]",
		Description: `Without arguments it stages all there are. A race whose stock run does no harm is
"not reproduced", whatever ours did. scope-default-dependencies (cri-o issue 8609)
is staged only when it is named: it powers off a host of its own, three times. The exit code is 0 unless a race that was
reproduced did harm on our stack (1), or it did not work (2).`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "runtime", Usage: "only over this `RUNTIME`: crun or runc"},
			&cli.BoolFlag{Name: "all-runtimes", Usage: "over every runtime that can have the race, not the first only"},
			&cli.StringFlag{Name: "under", Usage: "also with a real manager, and compare: `crio`"},
			&cli.StringFlag{Name: "crio", Value: ".work/crio", Usage: "with --under crio: CRI-O and crictl are in `DIR` (make crio)"},
			&cli.StringFlag{Name: "evidence", Value: "gracelab-evidence", Usage: "write timelines to `DIR`"},
			&cli.IntFlag{Name: "parallel", Value: 6, Usage: "stage so many at a time"},
			&cli.StringFlag{Name: "host-image", Value: ".work/host", Usage: "keep the disk of the host that is powered off in `DIR`"},
			&cli.BoolFlag{Name: "list", Usage: "name the scenarios"},
			&cli.BoolFlag{Name: "keep", Usage: "keep the containers' files, and say where"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			names := cmd.Args().Slice()
			if i := slices.Index(names, shutdownRace); i >= 0 {
				if err := reproduceShutdown(ctx, os.Stdout, cmd.String("host-image"), cmd.String("evidence")); err != nil {
					return err
				}
				if names = slices.Delete(names, i, i+1); len(names) == 0 {
					return nil
				}
			}
			scenarios, err := chosenScenarios(names)
			if err != nil {
				return err
			}
			runtime := cmd.String("runtime")
			jobs := jobsOf(scenarios, runtime, cmd.Bool("all-runtimes"))
			if len(jobs) == 0 {
				return noRuntime(runtime, "no race is staged over it")
			}
			if cmd.Bool("list") {
				for _, s := range scenarios {
					fmt.Printf("%-26s %s\n", s.ID, s.Title)
				}
				fmt.Printf("%-26s %s\n", shutdownRace, "a host with systemd as PID 1 is powered off under a pod (cri-o issue 8609)")
				return nil
			}
			if os.Geteuid() != 0 {
				return fmt.Errorf("only root can stage races: containers and the kernel's trace of signals need it")
			}
			dir, err := os.MkdirTemp("", "gracelab-")
			if err != nil {
				return err
			}
			if cmd.Bool("keep") {
				fmt.Printf("The containers' files are in %s\n", dir)
			} else {
				defer os.RemoveAll(dir)
			}
			if under := cmd.String("under"); under != "" {
				if under != "crio" {
					return fmt.Errorf("--under %s: only crio can be run", under)
				}
				u, err := newUnderCRIO(cmd.String("crio"), dir, cmd.String("evidence"), os.Stdout)
				if err != nil {
					return err
				}
				return u.run(underJobs(scenarios, cmd.String("runtime")), int(cmd.Int("parallel")))
			}
			r := reproduction{dir: dir, evidence: cmd.String("evidence"), out: os.Stdout}
			beside, alone := parts(jobs)
			r.run(beside, int(cmd.Int("parallel")))
			r.run(alone, 1)
			return r.conclude()
		},
	}
}

func chosenScenarios(names []string) ([]*races.Scenario, error) {
	if len(names) == 0 {
		return races.All()
	}
	var chosen []*races.Scenario
	for _, name := range names {
		found, err := races.Find(name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, found...)
	}
	return chosen, nil
}

// noRuntime is the error of a --runtime that cannot be used.
func noRuntime(name, why string) error {
	return fmt.Errorf("--runtime %s: %s; want crun or runc", name, why)
}

// job is a scenario over one runtime.
type job struct {
	scenario *races.Scenario
	runtime  string
}

func jobsOf(scenarios []*races.Scenario, only string, all bool) (jobs []job) {
	for _, s := range scenarios {
		for _, r := range s.Runtimes {
			if only != "" && r != only {
				continue
			}
			jobs = append(jobs, job{s, r})
			if !all {
				break
			}
		}
	}
	return jobs
}

// parts gives the jobs that can be staged beside others, and those that are about
// how fast things are, and need the machine for themselves.
func parts(jobs []job) (beside, alone []job) {
	for _, j := range jobs {
		if j.scenario.Drain > 0 {
			alone = append(alone, j)
		} else {
			beside = append(beside, j)
		}
	}
	return beside, alone
}

// reproduction is one run of the command.
type reproduction struct {
	dir, evidence string
	out           io.Writer
	rows          []row
}

type row struct {
	job
	staged *races.Staged
	page   string
	err    error
}

// run stages the jobs, a few at a time, and prints each row as soon as those
// before it are done.
func (r *reproduction) run(jobs []job, parallel int) {
	rows, printed := make([]row, len(jobs)), 0
	free := make(chan struct{}, max(parallel, 1))
	done := make(chan int)
	var wait sync.WaitGroup
	go func() {
		for i, j := range jobs {
			free <- struct{}{}
			wait.Go(func() {
				staged := j.scenario.Stage(programsDir(), r.dir, j.runtime)
				page, err := staged.WriteEvidence(r.evidence, j.runtime)
				rows[i] = row{j, staged, page, err}
				<-free
				done <- i
			})
		}
		wait.Wait()
		close(done)
	}()
	line, ended := progress.Start(os.Stderr), 0
	defer line.End()
	line.Count(0, len(jobs), "staged")
	finished := make([]bool, len(jobs))
	for i := range done {
		finished[i] = true
		ended++
		line.Count(ended, len(jobs), "staged")
		line.Aside(func() {
			for printed < len(jobs) && finished[printed] {
				r.print(&rows[printed])
				printed++
			}
		})
	}
	r.rows = append(r.rows, rows...)
}

func (r *reproduction) print(w *row) {
	s := w.staged
	fmt.Fprintf(r.out, "%-16s %s, over %s: %s\n", strings.ToUpper(s.Outcome()), w.scenario.ID, w.runtime, w.scenario.Title)
	for _, v := range []*races.Verdict{s.Stock, s.Ours} {
		name := v.Stack.Name
		if v.Policy != "" {
			name += ", " + v.Policy
			if w.scenario.Ours.Stop == "gracerun" {
				name += ", stopped by `gracerun stop`"
			}
		}
		fmt.Fprintf(r.out, "    %s: %s\n", name, verdictText(v))
	}
	if w.err != nil {
		fmt.Fprintf(r.out, "    no evidence: %v\n", w.err)
	} else if w.page != "" {
		fmt.Fprintf(r.out, "    evidence: %s\n", w.page)
	}
}

func verdictText(v *races.Verdict) string {
	trials := ""
	if v.Trials > 1 {
		trials = fmt.Sprintf(" (in %d of %d trials)", v.Harmed, v.Trials)
	}
	switch {
	case v.Skipped != "":
		return "skipped: " + v.Skipped
	case v.Harmful():
		return "HARM" + trials + ": " + strings.Join(v.Harms, "; ")
	}
	return "no harm" + trials
}

// conclude prints the table, and says how it went.
func (r *reproduction) conclude() error {
	count := map[string]int{}
	fmt.Fprintf(r.out, "\n%-28s %-7s %-14s %-14s %s\n", "race", "runtime", "stock", "ours", "")
	failed := false
	for _, w := range r.rows {
		s := w.staged
		count[s.Outcome()]++
		failed = failed || s.Outcome() == "NOT HELD OFF" || s.Outcome() == "OURS ALONE" || s.Ours.Skipped != "" && s.Ours.Stack.Missing == "" && s.Ours.Skipped != races.NoRecovery
		fmt.Fprintf(r.out, "%-28s %-7s %-14s %-14s %s\n", w.scenario.ID, w.runtime, short(s.Stock), short(s.Ours), s.Outcome())
	}
	fmt.Fprintf(r.out, "\n%d held off, %d warned of, %d NOT HELD OFF, %d lost by ours alone, %d reproduced without ours beside it, %d not reproduced, %d skipped.\n",
		count["held off"], count["warned of"], count["NOT HELD OFF"], count["OURS ALONE"], count["reproduced"], count["not reproduced"], count["skipped"])
	if failed {
		return &finding{"our stack did harm"}
	}
	return nil
}

func short(v *races.Verdict) string {
	switch {
	case v.Skipped != "":
		return "skipped"
	case v.Harmful() && v.Trials > 1:
		return fmt.Sprintf("HARM (%d/%d)", v.Harmed, v.Trials)
	case v.Harmful():
		return "HARM"
	}
	return "no harm"
}

// programsDir is where gracelab itself is: gracemon and gracerun are beside it.
func programsDir() string {
	path, err := os.Executable()
	if err != nil {
		return "."
	}
	return filepath.Dir(path)
}
