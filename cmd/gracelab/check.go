package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v3"

	"gracerun.io/check"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "is this node affected? Looks at versions, scopes, running containers, the kernel, limits and labels; changes nothing",
		Description: `The exit code is 0 if nothing was found that can harm, 1 if something was, and 2
if it did not work. What has "info" is true of every version there is.`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print the report as JSON"}},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return fmt.Errorf("check takes no argument, found %q", cmd.Args().First())
			}
			report := check.Node(ctx)
			if cmd.Bool("json") {
				e := json.NewEncoder(os.Stdout)
				e.SetIndent("", "  ")
				if err := e.Encode(report); err != nil {
					return err
				}
			} else {
				printReport(os.Stdout, report)
			}
			if worst := report.Worst(); worst == check.Warning || worst == check.Harm {
				return &finding{"this node is affected"}
			}
			return nil
		},
	}
}

func printReport(out io.Writer, r *check.Report) {
	fmt.Fprintln(out, "Programs")
	for _, p := range r.Programs {
		fmt.Fprintf(out, "  %-9s %-10s %s\n", p.Name, p.Version, p.Path)
		printFindings(out, p.Found)
	}
	fmt.Fprintln(out, "Containers")
	if len(r.Containers) == 0 {
		fmt.Fprintln(out, "  none runs under conmon or gracemon")
	}
	for _, c := range r.Containers {
		fmt.Fprintln(out, "  "+c.String())
		printFindings(out, c.Found)
	}
	fmt.Fprintln(out, "Kernel")
	for _, f := range r.Kernel {
		has := "yes"
		if !f.Has {
			has = "no"
		}
		fmt.Fprintf(out, "  %-3s %s\n", has, f.Name)
		printFindings(out, f.Findings())
	}
	fmt.Fprintln(out, "Limits")
	for _, l := range r.Limits {
		fmt.Fprintf(out, "  %s %s: %s\n", l.Process, l.Name, l.Value)
		printFindings(out, l.Found)
	}
	if r.SELinux != nil {
		fmt.Fprintln(out, "SELinux\n  "+r.SELinux.Mode)
		printFindings(out, r.SELinux.Found)
	}
	if r.AppArmor != nil {
		fmt.Fprintln(out, "AppArmor")
		if len(r.AppArmor.Profiles) == 0 {
			fmt.Fprintln(out, "  no profile of its own for gracerun's programs")
		}
		for _, profile := range r.AppArmor.Profiles {
			fmt.Fprintln(out, "  "+profile)
		}
		printFindings(out, r.AppArmor.Found)
	}
	for _, text := range r.NotLookedAt {
		fmt.Fprintf(out, "Not looked at: %s\n", text)
	}
	switch r.Worst() {
	case check.Harm:
		fmt.Fprintln(out, "This node is affected: containers will come to harm.")
	case check.Warning:
		fmt.Fprintln(out, "This node can be affected.")
	default:
		fmt.Fprintln(out, "Nothing was found that does harm by itself.")
	}
}

func printFindings(out io.Writer, found []check.Finding) {
	for _, f := range found {
		race := ""
		if f.Race != "" {
			race = " (" + f.Race + ")"
		}
		fmt.Fprintf(out, "    %-7s %s%s\n", strings.ToUpper(string(f.Level)), f.Text, race)
	}
}
