package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"gracerun.io/internal/progress"
	"gracerun.io/internal/races"
	"gracerun.io/internal/testbed"
)

func drainCommand() *cli.Command {
	return &cli.Command{
		Name:  "drain",
		Usage: "start many containers and stop them all at once, as a node drain does: stock, then ours",
		Description: `Every tenth container does not end by itself and has to be killed at its deadline;
the others take a second. The exit code is 1 if ours killed one early or late, or
lost an exit.`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "n", Value: 30, Usage: "how many"},
			&cli.DurationFlag{Name: "grace", Value: 3 * time.Second, Usage: "their grace period"},
			&cli.StringFlag{Name: "runtime", Value: "crun", Usage: "crun or runc"},
			&cli.BoolFlag{Name: "json", Usage: "print the result as JSON"},
		},
		Action: func(_ context.Context, cmd *cli.Command) error {
			n, grace := int(cmd.Int("n")), cmd.Duration("grace")
			switch {
			case cmd.Args().Present():
				return fmt.Errorf("drain takes no argument, found %q", cmd.Args().First())
			case n < 1 || grace < 2*time.Second:
				return fmt.Errorf("want at least one container, and a grace period of 2s: they take one second to end")
			case testbed.Stock(cmd.String("runtime")).Missing != "" && testbed.Ours(programsDir(), cmd.String("runtime")).Missing != "":
				return noRuntime(cmd.String("runtime"), testbed.Ours(programsDir(), cmd.String("runtime")).Missing)
			case os.Geteuid() != 0:
				return fmt.Errorf("only root can drain: containers and the kernel's trace of signals need it")
			}
			return drain(races.Drain{Containers: n, Grace: grace}, cmd.String("runtime"), cmd.Bool("json"), os.Stdout)
		},
	}
}

func drain(d races.Drain, runtime string, asJSON bool, out io.Writer) error {
	type column struct {
		Stack   string         `json:"stack"`
		Skipped string         `json:"skipped,omitempty"`
		Result  *races.Drained `json:"result,omitempty"`
		ours    bool
	}
	var columns []column
	line := progress.Start(os.Stderr)
	defer line.End()
	stacks := []*testbed.Stack{testbed.Stock(runtime), testbed.Ours(programsDir(), runtime)}
	for i, stack := range stacks {
		c := column{Stack: stack.Name, Skipped: stack.Missing, ours: stack.Ours()}
		if c.Skipped == "" {
			dir, err := os.MkdirTemp("", "gracelab-")
			if err != nil {
				return err
			}
			d.Progress = drainProgress(line, stack.Name, i, len(stacks))
			c.Result, err = d.Run(stack, dir)
			os.RemoveAll(dir)
			if err != nil {
				return fmt.Errorf("%s: %w", stack.Name, err)
			}
		}
		columns = append(columns, c)
	}
	line.End()
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if err := e.Encode(columns); err != nil {
			return err
		}
	} else {
		t := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
		fmt.Fprintf(t, "%d containers, grace %s", d.Containers, d.Grace)
		for _, c := range columns {
			fmt.Fprintf(t, "\t%s", c.Stack)
		}
		fmt.Fprintln(t)
		for _, row := range drainRows {
			fmt.Fprint(t, row.name)
			for _, c := range columns {
				if c.Result == nil {
					fmt.Fprint(t, "\t-")
					continue
				}
				fmt.Fprintf(t, "\t%s", row.value(c.Result))
			}
			fmt.Fprintln(t)
		}
		t.Flush()
		for _, c := range columns {
			if c.Skipped != "" {
				fmt.Fprintf(out, "%s: skipped: %s\n", c.Stack, c.Skipped)
			}
			if c.Result != nil {
				for _, text := range c.Result.Complaints {
					fmt.Fprintf(out, "%s: %s\n", c.Stack, text)
				}
			}
		}
	}
	for _, c := range columns {
		if r := c.Result; c.ours && r != nil && r.EarlyKills+r.LateKills+r.LostExits+r.Untold > 0 {
			return &finding{"ours did harm"}
		}
	}
	return nil
}

var drainRows = []struct {
	name  string
	value func(*races.Drained) string
}{
	{"all running after", func(r *races.Drained) string { return seconds(r.ToCreate) }},
	{"first SIGTERM after", func(r *races.Drained) string { return millis(r.FirstTERM) }},
	{"last SIGTERM after", func(r *races.Drained) string { return millis(r.LastTERM) }},
	{"least grace, if the node waits for one period", func(r *races.Drained) string { return seconds(r.LeastGrace) }},
	{"never told", func(r *races.Drained) string { return fmt.Sprint(r.Untold) }},
	{"told twice", func(r *races.Drained) string { return fmt.Sprint(r.SignaledTwice) }},
	{"killed early", func(r *races.Drained) string { return fmt.Sprint(r.EarlyKills) }},
	{"killed late", func(r *races.Drained) string { return fmt.Sprint(r.LateKills) }},
	{"exits lost or wrong", func(r *races.Drained) string { return fmt.Sprint(r.LostExits) }},
	{"all gone after", func(r *races.Drained) string { return seconds(r.ToEnd) }},
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

// drainPhases are the phases of a drain, and where each begins, as a share of the whole
// time of one stack: to start the containers takes longest.
var drainPhases = map[string][2]float64{"started": {0, 0.5}, "stopped": {0.5, 0.9}, "removed": {0.9, 1}}

// drainProgress tells how far the drain has come that is the nth of so many.
func drainProgress(line *progress.Line, stack string, n, stacks int) func(phase string, done, all int) {
	return func(phase string, done, all int) {
		p := drainPhases[phase]
		share := p[0] + (p[1]-p[0])*float64(done)/float64(all)
		line.Set((float64(n)+share)/float64(stacks), "%s: %d of %d %s", stack, done, all, phase)
	}
}
