package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v3"

	"gracerun.io/integration/debian"
	"gracerun.io/internal/matrix"
	"gracerun.io/internal/progress"
	"gracerun.io/internal/races"
)

func matrixCommand() *cli.Command {
	return &cli.Command{
		Name:      "matrix",
		Usage:     "stage the races on many versions of crun, runc and conmon, and make one table of it",
		ArgsUsage: "[ID...]",
		Description: `ID is a race, as for reproduce; without one all are staged but drain-thundering-herd,
which is about how fast the machine is and takes it for itself. Of each Debian release its own
conmon is staged with its own crun and its own runc. Each crun and each runc that is named by path is staged with
each conmon that is named so; without one with the installed conmon, and a conmon alone with the
installed crun and runc. Without any of these the installed ones are staged.

Programs of another release bring their own libc. What cannot be staged here is "skipped" in the table, with the
reason below it. The exit code is 1 if ours did harm that it should have held off.`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "crun", Usage: "stage over the crun at `PATH`; can be repeated"},
			&cli.StringSliceFlag{Name: "runc", Usage: "stage over the runc at `PATH`; can be repeated"},
			&cli.StringSliceFlag{Name: "conmon", Usage: "stage with the conmon at `PATH`; can be repeated"},
			&cli.StringSliceFlag{Name: "debian", Usage: "stage what Debian's `RELEASE` has, such as bookworm, trixie or sid; can be repeated"},
			&cli.StringFlag{Name: "debian-dir", Value: ".work/debian", Usage: "keep what apt has fetched of the releases in `DIR`"},
			&cli.StringFlag{Name: "markdown", Usage: "write the table as Markdown to `FILE`"},
			&cli.StringFlag{Name: "html", Usage: "write the table as a page to `FILE`"},
			&cli.StringFlag{Name: "evidence", Usage: "write the timelines to `DIR`, a directory for each stack"},
			&cli.IntFlag{Name: "parallel", Value: 6, Usage: "stage so many at a time"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			scenarios, err := chosenScenarios(cmd.Args().Slice())
			if err != nil {
				return err
			}
			if !cmd.Args().Present() {
				scenarios = slices.DeleteFunc(scenarios, func(s *races.Scenario) bool { return s.Drain > 0 })
			}
			if os.Geteuid() != 0 {
				return errors.New("only root can stage races: containers and the kernel's trace of signals need it")
			}
			line := progress.Start(os.Stderr)
			defer line.End()
			columns, err := columnsOf(ctx, cmd, line)
			if err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "gracelab-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			m := matrix.New(columns, scenarios)
			m.Run(dir, int(cmd.Int("parallel")), func(done, all int) { line.Count(done, all, "staged") })
			line.End()
			return writeMatrix(m, cmd, os.Stdout)
		},
	}
}

// columnsOf gives the stacks that the options name.
func columnsOf(ctx context.Context, cmd *cli.Command, line *progress.Line) (columns []*matrix.Column, err error) {
	for n, name := range cmd.StringSlice("debian") {
		line.Set(-1, "Debian %s, %d of %d releases: apt fetches it, if it is not there", name, n+1, len(cmd.StringSlice("debian")))
		release, err := debian.Get(ctx, cmd.String("debian-dir"), name, "conmon", "crun", "runc")
		if err != nil {
			return nil, fmt.Errorf("--debian %s: %w", name, err)
		}
		for _, kind := range []string{"crun", "runc"} {
			columns = append(columns, matrix.NewColumn("Debian "+name, programsDir(), release.Program("conmon"), kind, release.Program(kind)))
		}
	}
	conmons := cmd.StringSlice("conmon")
	runtimes := map[string][]string{"crun": cmd.StringSlice("crun"), "runc": cmd.StringSlice("runc")}
	for option, paths := range map[string][]string{"conmon": conmons, "crun": runtimes["crun"], "runc": runtimes["runc"]} {
		for i, path := range paths {
			// A container's monitor runs elsewhere.
			if paths[i], err = filepath.Abs(path); err != nil {
				return nil, err
			}
			if info, err := os.Stat(path); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
				return nil, fmt.Errorf("--%s %s: %w", option, path, errors.Join(err, errors.New("want a program")))
			}
		}
	}
	title := "given by path"
	switch {
	case len(runtimes["crun"])+len(runtimes["runc"]) > 0:
		if conmons == nil {
			conmons = []string{"conmon"}
		}
	case len(conmons) > 0:
		runtimes = map[string][]string{"crun": {"crun"}, "runc": {"runc"}}
	case columns == nil:
		conmons, runtimes, title = []string{"conmon"}, map[string][]string{"crun": {"crun"}, "runc": {"runc"}}, "installed"
	}
	for _, conmon := range conmons {
		for _, kind := range []string{"crun", "runc"} {
			for _, path := range runtimes[kind] {
				columns = append(columns, matrix.NewColumn(title, programsDir(), conmon, kind, path))
			}
		}
	}
	return columns, nil
}

func writeMatrix(m *matrix.Matrix, cmd *cli.Command, out io.Writer) error {
	err := errors.Join(m.Text(out), writeTo(cmd.String("markdown"), m.Markdown), writeTo(cmd.String("html"), m.HTML))
	if dir := cmd.String("evidence"); dir != "" {
		err = errors.Join(err, m.WriteEvidence(dir))
	}
	if err == nil && m.Failed() {
		return &finding{"our stack did harm"}
	}
	return err
}
