package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v3"

	"gracerun.io/internal/progress"
	"gracerun.io/internal/races"
	"gracerun.io/internal/testbed"
	"gracerun.io/timeline"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "what gracerun is for: a workload that loses data, with a stock stack and with ours",
		Flags: []cli.Flag{&cli.StringFlag{Name: "evidence", Value: "gracelab-evidence", Usage: "write the timelines as pages to `DIR`"}},
		Action: func(_ context.Context, cmd *cli.Command) error {
			if os.Geteuid() != 0 {
				return fmt.Errorf("only root can run the demo: containers and the kernel's trace of signals need it")
			}
			dir, err := os.MkdirTemp("", "gracelab-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			d := demo{out: os.Stdout, dir: dir, evidence: cmd.String("evidence")}
			return d.run()
		},
	}
}

const demoOpening = `
A container that is told to stop gets SIGTERM, and a grace period to finish what it
is doing. Only when that is over may SIGKILL follow. That is the promise; here is
what becomes of it on this machine, with real containers.

In the container runs a ledger (%d lines of sh). It has acknowledged 20 entries that
are in memory only. On SIGTERM it writes them out, which takes 2 seconds; its grace
period is 4. Like many programs it takes a second SIGTERM for "quit now".

    act 1   CRI-O stops the container. Half a second later systemd, which is shutting
            the node down, stops the monitor too: SIGTERM.
    act 2   CRI-O stops the container. A second later somebody else has no
            patience, and sends SIGKILL.
    act 3   Both.

Each act runs with conmon and the stock runtime, and with gracemon and gracerun in
two policies: "observe" passes on what it is asked for and records the breach;
"delegate", the default, leaves the end of the grace period to CRI-O alone. The signals below are what the kernel saw; the
entries are counted in the file that the ledger left behind.

`

const demoMoral = `
    stock     systemd's SIGTERM to conmon is passed on to the ledger: a second SIGTERM.
              The SIGKILL is simply delivered, and nobody writes down why.
    observe   systemd's SIGTERM joins the stop that is under way. The SIGKILL is
              delivered as asked for, and recorded as a breach, with its time.
    delegate  the SIGKILL is not CRI-O's: it is held until the ledger has ended by itself,
              and answered then.

`

// demoOthers are scenes that need no long explanation.
var demoOthers = []string{"term-never-sent", "stop-while-created", "paused-stop", "manager-interrupted", "status-invented", "monitor-killed"}

// demo is one showing.
type demo struct {
	out           io.Writer
	dir, evidence string
	scenarios     []*races.Scenario // of the acts
	plays         []*demoPlay
}

// demoPlay is one act on one stack.
type demoPlay struct {
	act     int
	stack   *testbed.Stack
	policy  string
	verdict *races.Verdict
}

var acts = []string{"second-term", "early-kill", "shutdown"}

func (d *demo) run() error {
	begin := time.Now()
	for _, name := range acts {
		s, err := races.Get(name)
		if err != nil {
			return err
		}
		d.scenarios = append(d.scenarios, s)
	}
	fmt.Fprintf(d.out, demoOpening, strings.Count(d.scenarios[0].Workload, "\n"))
	d.cast()
	others := d.stageOthers()
	if d.stage() == 0 {
		return fmt.Errorf("nothing could be shown: no stock runtime can be used here; `make deps` installs them")
	}
	d.tell()
	kept := d.table()
	fmt.Fprint(d.out, demoMoral)
	kept = d.tellOthers(<-others) && kept
	page, err := d.pages()
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nThe timelines to look at: %s\n", page)
	fmt.Fprintf(d.out, "Every race that this lab can stage: gracelab reproduce; the shutdown of cri-o issue 8609, on a host\n"+
		"of its own that is powered off: gracelab reproduce %s. It took %.0f s.\n", shutdownRace, time.Since(begin).Seconds())
	if !kept {
		return &finding{"gracerun did not keep its promise"}
	}
	return nil
}

// cast says who plays, and who does not and why.
func (d *demo) cast() {
	programs := programsDir()
	for _, runtime := range []string{"crun", "runc"} {
		for _, s := range []struct {
			stack  *testbed.Stack
			policy string
		}{
			{testbed.Stock(runtime), ""},
			{testbed.Ours(programs, runtime), "observe"},
			{testbed.Ours(programs, runtime), "delegate"},
		} {
			if s.policy != "delegate" { // the same as for observe
				fmt.Fprintf(d.out, "  %-32s %s\n", s.stack.Name, s.stack.Versions())
			}
			if s.stack.Missing != "" {
				continue
			}
			for act := range acts {
				d.plays = append(d.plays, &demoPlay{act: act, stack: s.stack, policy: s.policy})
			}
		}
	}
	fmt.Fprintln(d.out)
}

// stageOthers begins to stage the other scenes, over the first runtime that
// there is.
func (d *demo) stageOthers() <-chan []*races.Staged {
	runtime := "crun"
	if testbed.Stock(runtime).Missing != "" {
		runtime = "runc"
	}
	staged := make([]*races.Staged, len(demoOthers))
	done := make(chan []*races.Staged)
	var all sync.WaitGroup
	for i, name := range demoOthers {
		all.Go(func() {
			if s, err := races.Get(name); err == nil { // they are built in, and tested
				staged[i] = s.Stage(programsDir(), d.dir, runtime)
			}
		})
	}
	go func() { all.Wait(); done <- staged }()
	return done
}

// tellOthers prints what came of them, and reports whether ours did no harm.
func (d *demo) tellOthers(staged []*races.Staged) (kept bool) {
	kept = true
	fmt.Fprintln(d.out, "Other things that go wrong, each staged a moment ago:")
	for _, s := range staged {
		ours := verdictText(s.Ours)
		if s.Scenario.Ours.Policy != "" {
			ours += ", under " + s.Scenario.Ours.Policy
		}
		if s.Scenario.Ours.Stop == "gracerun" {
			ours += ", by `gracerun stop`"
		}
		fmt.Fprintf(d.out, "  %s\n      stock: %s\n      ours:  %s\n", s.Scenario.Title, verdictText(s.Stock), ours)
		kept = kept && s.Outcome() != "NOT HELD OFF" && s.Outcome() != "OURS ALONE"
	}
	return kept
}

// stage plays everything at once, and gives how much there was to play.
func (d *demo) stage() int {
	line := progress.Start(os.Stderr)
	defer line.End()
	line.Count(0, len(d.plays), "containers have ended")
	var all sync.WaitGroup
	var ended atomic.Int64
	for _, p := range d.plays {
		all.Go(func() {
			p.verdict = d.scenarios[p.act].On(p.stack, d.dir, p.policy)
			line.Count(int(ended.Add(1)), len(d.plays), "containers have ended")
		})
	}
	all.Wait()
	return len(d.plays)
}

// tell prints the timelines of the last act over one runtime.
func (d *demo) tell() {
	last := len(acts) - 1
	fmt.Fprintf(d.out, "Act %d, as it happened:\n\n", last+1)
	runtime := ""
	for _, p := range d.plays {
		if p.act != last || p.verdict.Skipped != "" {
			continue
		}
		name := filepath.Base(p.stack.Runtime)
		if p.stack.Ours() {
			name = filepath.Base(p.stack.Wrapped)
		}
		if runtime == "" {
			runtime = name
		}
		if name != runtime {
			continue
		}
		p.timeline().Text(d.out)
		fmt.Fprintln(d.out)
	}
}

func (p *demoPlay) timeline() *timeline.Timeline {
	t := p.verdict.Shown.Timeline
	t.Title = p.name()
	f := p.verdict.Shown
	t.Verdict, t.Bad = "every entry is on disk", f.Ledger.Lost() > 0
	if t.Bad {
		t.Verdict = fmt.Sprintf("%d of %d entries lost", f.Ledger.Lost(), f.Ledger.Accepted)
	}
	return t
}

func (p *demoPlay) name() string {
	if p.policy == "" {
		return p.stack.Name
	}
	return p.stack.Name + ", " + p.policy
}

// table prints what became of the ledgers, and reports whether ours were kept as
// promised: one SIGTERM always, and every entry under delegate.
func (d *demo) table() (kept bool) {
	kept = true
	fmt.Fprintf(d.out, "%-44s", "What the ledger got, and lost")
	for act := range acts {
		fmt.Fprintf(d.out, "  %-22s", fmt.Sprintf("act %d", act+1))
	}
	fmt.Fprintln(d.out)
	for i, p := range d.plays {
		if p.act == 0 {
			fmt.Fprintf(d.out, "  %-42s", p.name())
		}
		fmt.Fprintf(d.out, "  %-22s", p.cell())
		if p.act == len(acts)-1 {
			fmt.Fprintln(d.out)
		}
		kept = kept && d.plays[i].asPromised()
	}
	return kept
}

func (p *demoPlay) cell() string {
	if p.verdict.Skipped != "" {
		return "could not be played"
	}
	f := p.verdict.Shown
	got := fmt.Sprintf("%d×TERM", len(f.Sent))
	if len(f.Kills) > 0 {
		got += fmt.Sprintf(" %d×KILL", len(f.Kills))
	}
	if lost := f.Ledger.Lost(); lost > 0 {
		return fmt.Sprintf("%s  lost %d", got, lost)
	}
	return got + "  kept all"
}

// asPromised says whether ours did what its policy says; a stock stack has
// promised nothing.
func (p *demoPlay) asPromised() bool {
	switch {
	case !p.stack.Ours():
		return true
	case p.verdict.Skipped != "":
		return false
	}
	f := p.verdict.Shown
	spared := p.policy == "delegate" || acts[p.act] == "second-term"
	return len(f.Sent) == 1 && (!spared || len(f.Kills) == 0 && f.Ledger.Lost() == 0 && f.Ledger.Closed)
}

// pages writes a page for each act, and gives the last one's path; what could
// not be played is told here.
func (d *demo) pages() (page string, err error) {
	if err := os.MkdirAll(d.evidence, 0o755); err != nil {
		return "", err
	}
	for act, name := range acts {
		var lines []*timeline.Timeline
		for _, p := range d.plays {
			switch {
			case p.act != act:
			case p.verdict.Skipped != "":
				fmt.Fprintf(d.out, "Act %d with %s could not be played: %s\n", act+1, p.name(), p.verdict.Skipped)
			default:
				lines = append(lines, p.timeline())
			}
		}
		page = filepath.Join(d.evidence, "demo-"+name+".html")
		f, err := os.Create(page)
		if err != nil {
			return "", err
		}
		err = timeline.HTML(f, fmt.Sprintf("Act %d: %s", act+1, d.scenarios[act].Title), lines...)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return "", err
		}
	}
	return page, nil
}
