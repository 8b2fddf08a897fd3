// Gracelab reproduces the races between "stop this container" and "it has
// exited", explores the machine that holds them off, and draws what happened.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v3"

	"gracerun.io/internal/version"
)

func main() {
	err := application().Run(context.Background(), os.Args)
	if err == nil {
		return
	}
	var harm *finding
	if errors.As(err, &harm) {
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "gracelab: %v\n", err)
	os.Exit(2)
}

func application() *cli.Command {
	return &cli.Command{
		Name:    "gracelab",
		Usage:   "fault injection and evidence for the signal path of containers",
		Version: version.Version,
		Commands: []*cli.Command{
			checkCommand(),
			demoCommand(),
			drainCommand(),
			exploreCommand(),
			exportCommand(),
			matrixCommand(),
			metricsCommand(),
			planCommand(),
			reproduceCommand(),
			traceCommand(),
		},
		Action:         chooseCommand,
		ExitErrHandler: func(context.Context, *cli.Command, error) {}, // main prints it, once

		EnableShellCompletion: true,
	}
}

// chooseCommand runs when no command was named, or none that there is.
func chooseCommand(_ context.Context, cmd *cli.Command) error {
	if name := cmd.Args().First(); name != "" {
		return fmt.Errorf("unknown command %q; gracelab --help lists them", name)
	}
	return cli.ShowAppHelp(cmd)
}

// finding is the error of a command that worked and found what it looks for;
// it has said so already. The exit code is 1 then, and 2 when it did not work.
type finding struct{ what string }

func (f *finding) Error() string { return f.what }
