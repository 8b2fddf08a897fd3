package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"gracerun.io/metrics"
	"gracerun.io/runtime/statedir"
)

func metricsCommand() *cli.Command {
	return &cli.Command{
		Name:  "metrics",
		Usage: "count what became of the stops of this node, for Prometheus",
		Description: `Without a flag it writes OpenMetrics to standard output: all that is still known.

A container is counted after it was deleted, from the journal that is kept of it (history
in gracerun.toml(5)). With --file the counters go on from the file that is there, so that a
timer can call it again and again for node_exporter's textfile collector. With --listen it
answers GET /metrics until it is ended.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "file", Usage: "write Prometheus' text format to `FILE`, which should end in .prom, and go on with its counters"},
			&cli.StringFlag{Name: "listen", Usage: "serve /metrics on `ADDRESS`, such as 127.0.0.1:9753"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			base, err := statedir.Base()
			if err != nil {
				return err
			}
			file, address := cmd.String("file"), cmd.String("listen")
			switch {
			case cmd.Args().Present():
				return fmt.Errorf("metrics takes no argument, found %q", cmd.Args().First())
			case file != "" && address != "":
				return errors.New("--file and --listen exclude each other")
			case file != "":
				return metricsToFile(base, file)
			case address != "":
				return serveMetrics(ctx, base, address, os.Stderr)
			}
			families, err := metrics.New(base).Collect()
			if err != nil {
				return err
			}
			return metrics.Write(os.Stdout, metrics.OpenMetrics, families)
		},
	}
}

// metricsToFile replaces the file: its reader finds the old text or the new one.
func metricsToFile(base, file string) error {
	c := metrics.New(base)
	old, err := os.ReadFile(file)
	switch {
	case err == nil:
		err = c.Resume(bytes.NewReader(old))
		if err != nil {
			return fmt.Errorf("%s: %w; remove it to begin anew", file, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	families, err := c.Collect()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".gracelab-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // in vain once it has its name
	if err := errors.Join(metrics.Write(f, metrics.Text, families), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// serveMetrics serves until the context ends or a TERM comes.
func serveMetrics(ctx context.Context, base, address string, log io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM)
	defer stop()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	c := metrics.New(base)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		families, err := c.Collect()
		mu.Unlock()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		format := expfmt.NegotiateIncludingOpenMetrics(r.Header)
		w.Header().Set("Content-Type", string(format))
		_ = metrics.Write(w, format, families) // the scraper is gone
	})
	// What is deleted between two scrapes may be more than is kept: count in between.
	go func() {
		for tick := time.Tick(10 * time.Second); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick:
				mu.Lock()
				_, _ = c.Collect() // an error is the next scrape's
				mu.Unlock()
			}
		}
	}()
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	fmt.Fprintf(log, "gracelab: metrics at http://%s/metrics\n", listener.Addr())
	go func() {
		<-ctx.Done()
		deadline, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(deadline)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
