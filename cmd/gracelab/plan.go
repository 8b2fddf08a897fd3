package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v3"

	"gracerun.io/faults"
	"gracerun.io/faults/plan"
)

func planCommand() *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "check a fault plan, and print it as gracerun and gracemon take it in " + faults.Variable,
		ArgsUsage: "FILE",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "points", Usage: "list the points of the signal path, and what can go wrong there"}},
		Action: func(_ context.Context, cmd *cli.Command) error {
			if cmd.Bool("points") {
				for _, p := range faults.Points {
					var names []string
					for _, a := range p.Actions.List() {
						names = append(names, a.String())
					}
					fmt.Printf("%-24s %s\n%24s %s\n", p.Point, p.Meaning, "", strings.Join(names, ", "))
				}
				return nil
			}
			if cmd.Args().Len() != 1 {
				return fmt.Errorf("plan takes one file, found %d arguments", cmd.Args().Len())
			}
			rules, err := readPlan(cmd.Args().First())
			if err != nil {
				return err
			}
			fmt.Println(plan.Compile(rules))
			return nil
		},
	}
}

func readPlan(file string) ([]faults.Rule, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	rules, err := plan.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return rules, nil
}
