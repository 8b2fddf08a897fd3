package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"gracerun.io/otlp"
	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/history"
)

func exportCommand() *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "send stops as OpenTelemetry traces to a collector",
		ArgsUsage: "[ID...]",
		Description: `ID is a container of gracemon or gracerun, there or deleted, as for trace; without one all
are meant that are there or whose journals are kept (history in gracerun.toml(5)). A
stop that goes on is left for the next time. A stop has the same trace however often it is
sent, so that a timer can call this again and again.

Headers, certificates and compression come from the environment, as the OpenTelemetry
SDKs have it: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE and so on.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "otlp", Required: true, Usage: "send to `ENDPOINT`: http://HOST:4318, https://HOST, grpc://HOST:4317 or grpcs://HOST"},
			&cli.DurationFlag{Name: "since", Usage: "only stops that were asked for within the last `DURATION`"},
			&cli.DurationFlag{Name: "timeout", Value: 10 * time.Second, Usage: "give up when a message has taken `DURATION`"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			endpoint, err := otlp.ParseEndpoint(cmd.String("otlp"))
			if err != nil {
				return fmt.Errorf("--otlp: %w", err)
			}
			timeout, since := cmd.Duration("timeout"), cmd.Duration("since")
			if timeout <= 0 || since < 0 {
				return errors.New("--timeout and --since want a positive duration, such as 10s")
			}
			base, err := statedir.Base()
			if err != nil {
				return err
			}
			all, err := history.List(base)
			if err != nil {
				return err
			}
			if cmd.Args().Present() {
				if all, err = chosen(all, cmd.Args().Slice()); err != nil {
					return err
				}
			}
			ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM)
			defer stop()
			e := export{from: time.Time{}, out: os.Stdout, log: os.Stderr}
			if since > 0 {
				e.from = time.Now().Add(-since)
			}
			return e.run(ctx, all, endpoint, timeout)
		},
	}
}

// chosen gives the containers that the arguments mean.
func chosen(all []history.Container, names []string) (some []history.Container, err error) {
	for _, name := range names {
		c, err := history.Find(all, name)
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", name, err)
		}
		some = append(some, *c)
	}
	return some, nil
}

// export is one run of the command.
type export struct {
	from     time.Time // the earliest stop
	out, log io.Writer
}

func (e *export) run(ctx context.Context, all []history.Container, endpoint otlp.Endpoint, timeout time.Duration) error {
	var spans []otlp.Span
	stops, open, unread := 0, 0, 0
	for i := range all {
		c := &all[i]
		j, err := c.Journal()
		if err != nil {
			if !errors.Is(err, history.ErrNoJournal) {
				fmt.Fprintf(e.log, "gracelab: container %s is left out: %v\n", c.ID, err)
				unread++
			}
			continue
		}
		made, goOn := otlp.Spans(c, j, e.from)
		open += goOn
		for _, s := range made {
			if !s.Parent().IsValid() {
				stops++
			}
		}
		spans = append(spans, made...)
	}
	if len(spans) > 0 {
		if err := endpoint.Send(ctx, spans, timeout); err != nil {
			return err
		}
	}
	fmt.Fprintf(e.out, "%d stops of %d containers sent to %s", stops, len(all)-unread, endpoint)
	if open > 0 {
		fmt.Fprintf(e.out, "; %d go on, and are left for the next time", open)
	}
	fmt.Fprintln(e.out)
	return nil
}
