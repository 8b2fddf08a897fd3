package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"gracerun.io/check"
	"gracerun.io/internal/story"
	"gracerun.io/recorder"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/journal"
	"gracerun.io/timeline"
)

func traceCommand() *cli.Command {
	return &cli.Command{
		Name:      "trace",
		Usage:     "show what happened around a container: as text, as a page, for Perfetto",
		ArgsUsage: "[ID|FILE...]",
		Description: `ID is a container of gracemon or gracerun, whose journal is shown. FILE is a journal,
a state directory, or a recording that was saved. Several are shown in one picture,
each from its own beginning.

With --record, a container that runs on any stack is watched from outside until it
ends: who signals it, what becomes of the signals, and when it exits.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "record", Usage: "watch container `ID` until it ends, or until Ctrl-C"},
			&cli.IntFlag{Name: "pid", Usage: "with --record: init's pid, where ID is not found by its monitor"},
			&cli.StringFlag{Name: "save", Usage: "save the recording to `FILE`"},
			&cli.StringFlag{Name: "html", Usage: "write a page with the drawing to `FILE`"},
			&cli.StringFlag{Name: "chrome", Usage: "write a trace for Perfetto to `FILE`"},
			&cli.BoolFlag{Name: "no-text", Usage: "do not print the timelines"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			return trace(ctx, cmd, os.Stdout)
		},
	}
}

func trace(ctx context.Context, cmd *cli.Command, out io.Writer) error {
	var lines []*timeline.Timeline
	for _, what := range cmd.Args().Slice() {
		t, err := readTrace(what)
		if err != nil {
			return err
		}
		lines = append(lines, t)
	}
	if id := cmd.String("record"); id != "" {
		t, err := record(ctx, id, int(cmd.Int("pid")))
		if err != nil {
			return err
		}
		lines = append(lines, t)
		if file := cmd.String("save"); file != "" {
			if err := save(file, t); err != nil {
				return err
			}
		}
	} else if cmd.IsSet("save") || cmd.IsSet("pid") {
		return errors.New("--save and --pid belong to --record")
	}
	if lines == nil {
		return errors.New("trace what? Name a container or a file, or one to --record")
	}
	if !cmd.Bool("no-text") {
		for i, t := range lines {
			if i > 0 {
				fmt.Fprintln(out)
			}
			t.Text(out)
		}
	}
	title := lines[0].Title
	for _, t := range lines[1:] {
		title += " · " + t.Title
	}
	return errors.Join(
		writeTo(cmd.String("html"), func(w io.Writer) error { return timeline.HTML(w, title, lines...) }),
		writeTo(cmd.String("chrome"), func(w io.Writer) error { return timeline.Chrome(w, lines...) }))
}

func writeTo(file string, write func(io.Writer) error) error {
	if file == "" {
		return nil
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// saved is a recording in a file.
type saved struct {
	Gracelab string             `json:"gracelab"` // what the file is
	Timeline *timeline.Timeline `json:"timeline"`
}

const recordingMark = "recording 1"

func save(file string, t *timeline.Timeline) error {
	return writeTo(file, func(w io.Writer) error { return json.NewEncoder(w).Encode(saved{recordingMark, t}) })
}

// readTrace reads what an argument stands for.
func readTrace(what string) (*timeline.Timeline, error) {
	info, err := os.Stat(what)
	switch {
	case err != nil && strings.Contains(what, "/"):
		return nil, err
	case err != nil:
		dir, err := stateDirOf(what)
		if err != nil {
			return nil, err
		}
		return readJournalDir(dir)
	case info.IsDir():
		return readJournalDir(what)
	}
	text, err := os.ReadFile(what)
	if err != nil {
		return nil, err
	}
	var s saved
	if json.Unmarshal(text, &s) == nil && s.Gracelab == recordingMark && s.Timeline != nil {
		return s.Timeline, nil
	}
	j, err := journal.Read(text)
	if err != nil {
		return nil, fmt.Errorf("%s is neither a recording nor a journal: %w", what, err)
	}
	t := &timeline.Timeline{Title: what}
	story.Draw(t, j)
	return t, nil
}

func readJournalDir(dir string) (*timeline.Timeline, error) {
	j, err := story.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	t := &timeline.Timeline{Title: filepath.Base(filepath.Clean(dir))}
	story.Draw(t, j)
	return t, nil
}

// stateDirOf finds the state directory of a container, under whatever runtime
// root it is.
func stateDirOf(id string) (string, error) {
	base, err := statedir.Base()
	if err != nil {
		return "", err
	}
	if err := statedir.ValidateID(id); err != nil {
		return "", fmt.Errorf("%q: %w", id, err)
	}
	found, err := filepath.Glob(filepath.Join(base, "*", id))
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", fmt.Errorf("container %s has no journal in %s: is it one of gracemon's or gracerun's? Any other can be watched with --record", id, base)
	case len(found) > 1:
		return "", fmt.Errorf("there are %d containers named %s: name one of %s", len(found), id, strings.Join(found, ", "))
	}
	return found[0], nil
}

// record watches a container until it ends or the user has seen enough.
func record(ctx context.Context, id string, pid int) (*timeline.Timeline, error) {
	title := id
	if pid == 0 {
		c, err := check.Find(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("%w; with --pid it need not be found by its monitor", err)
		}
		pid, title = c.Pid, fmt.Sprintf("%s under %s", id, c.Monitor)
	}
	init, err := process.Open(pid)
	if err != nil {
		return nil, fmt.Errorf("init of container %s: %w", id, err)
	}
	defer init.Close()
	r, err := recorder.Start(pid)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	t := &timeline.Timeline{Title: title}
	t.Add(monotonic(), timeline.Kernel, timeline.Note, fmt.Sprintf("the recording begins; init is pid %d", pid))
	if d, err := process.ReadDispositions(pid); err == nil {
		if hears, why := d.Hears(signals.TERM); !hears {
			t.Add(monotonic(), timeline.Container, timeline.Breach, "init will not hear SIGTERM: "+why)
		}
	}
	dir, err := stateDirOf(id)
	ours := err == nil
	var last *journal.Journal
	fmt.Fprintf(os.Stderr, "Watching container %s, pid %d, until it ends (Ctrl-C: until now).\n", id, pid)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	for ended := false; !ended && ctx.Err() == nil; {
		if ended, err = init.Wait(100 * time.Millisecond); err != nil {
			return nil, err
		}
		if !ours {
			continue
		}
		// Again and again: when the container ends its directory is removed.
		if j, err := story.ReadDir(dir); err == nil {
			last = j
		}
	}
	events, err := r.Events(pid)
	if err != nil {
		return nil, err
	}
	recorder.Draw(t, events, signals.TERM)
	if status, ok := endOf(ctx, init); ok {
		t.Add(monotonic(), timeline.Kernel, timeline.Exit, "it ended with "+statusText(status))
	}
	if last != nil {
		story.Draw(t, last)
	}
	return t, nil
}

// endOf asks the kernel how the process ended, once its parent has reaped it,
// which can take a moment. A process that lives has not.
func endOf(ctx context.Context, p process.Pidfd) (process.Status, bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		status, err := p.ExitInfo()
		if !errors.Is(err, process.ErrNotReaped) || ctx.Err() != nil {
			return status, err == nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func statusText(s process.Status) string {
	if s.Signal != 0 {
		return s.Signal.String()
	}
	return fmt.Sprintf("exit code %d", s.Code)
}

func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return time.Duration(now.Nano())
}
