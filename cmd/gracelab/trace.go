package main

import (
	"bytes"
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

	"gracerun.io/check"
	"gracerun.io/internal/story"
	"gracerun.io/recorder"
	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/hostclock"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/timeline"
)

func traceCommand() *cli.Command {
	return &cli.Command{
		Name:      "trace",
		Usage:     "show what happened around a container: as text, as a page, for Perfetto",
		ArgsUsage: "[ID|FILE...]",
		Description: `ID is a container of gracemon or gracerun, there or deleted, whose journal is shown:
its id, the beginning of it, the manager's name, or CONTAINER, POD/CONTAINER or
NAMESPACE/POD/CONTAINER of a pod. FILE is a journal, a state directory, or a recording
that was saved. Several are shown in one picture, each from its own beginning.

With --follow, the text of one container goes on as things happen, until its end.

With --record, a container that runs on any stack is watched from outside until it
ends: who signals it, what becomes of the signals, and when it exits.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "record", Usage: "watch container `ID` until it ends, or until Ctrl-C"},
			&cli.IntFlag{Name: "pid", Usage: "with --record: init's pid, where ID is not found by its monitor"},
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "print what happens from now on, too, until the container has ended"},
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
	if cmd.Bool("follow") {
		if cmd.NArg() != 1 || cmd.IsSet("record") || cmd.IsSet("html") || cmd.IsSet("chrome") || cmd.Bool("no-text") {
			return errors.New("--follow takes one container, and prints text")
		}
		return follow(ctx, cmd.Args().First(), out)
	}
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
	case err != nil:
		c, unknown := meant(what)
		switch {
		case unknown == nil:
			return readContainer(c)
		case strings.Contains(what, "/"): // a path, or NAMESPACE/POD/CONTAINER
			return nil, fmt.Errorf("%w; nor is a container called so", err)
		}
		return nil, unknown
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
	j, err := history.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	t := &timeline.Timeline{Title: filepath.Base(filepath.Clean(dir))}
	story.Draw(t, j)
	return t, nil
}

// meant finds a container, there or deleted, by what people call it.
func meant(text string) (*history.Container, error) {
	base, err := statedir.Base()
	if err != nil {
		return nil, err
	}
	all, err := history.List(base)
	if err != nil {
		return nil, err
	}
	c, err := history.Find(all, text)
	if errors.Is(err, runtime.ErrNotExist) {
		return nil, fmt.Errorf("container %s has no journal in %s: is it one of gracemon's or gracerun's? Any other can be watched with --record", text, base)
	}
	return c, err
}

func readContainer(c *history.Container) (*timeline.Timeline, error) {
	j, err := c.Journal()
	if err != nil {
		return nil, err
	}
	return drawn(c, j), nil
}

func drawn(c *history.Container, j *journal.Journal) *timeline.Timeline {
	t := &timeline.Timeline{Title: c.ID, Wall: c.Wall(j, 0)}
	if called := c.Called(); len(called) > 0 {
		t.Title = called[len(called)-1] + " (" + c.ID[:min(len(c.ID), 12)] + ")"
	}
	if c.Gone {
		t.Title += ", deleted"
	}
	story.Draw(t, j)
	return t
}

// stateDirOf gives the state directory of a container that is there.
func stateDirOf(id string) (string, error) {
	c, err := meant(id)
	if err == nil && c.Gone {
		err = fmt.Errorf("container %s was deleted", id)
	}
	if err != nil {
		return "", err
	}
	return c.Path, nil
}

// follow prints the timeline of a container as it grows. The journal is looked at
// ten times a second: a container that is watched by a person can afford that.
func follow(ctx context.Context, text string, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	c, err := meant(text)
	if err != nil {
		return err
	}
	printed := 0
	for {
		j, err := c.Journal()
		if err != nil && !c.Gone {
			// It was deleted meanwhile: the rest is kept.
			if c, err = meant(c.ID); err == nil {
				j, err = c.Journal()
			}
		}
		if err != nil {
			return err
		}
		var all bytes.Buffer
		t := drawn(c, j)
		t.Title, t.Grace = text, nil // a deadline that may still move is a line among the others
		t.Text(&all)
		fresh := all.Bytes()[min(printed, all.Len()):]
		if _, err := out.Write(fresh); err != nil {
			return err
		}
		printed += len(fresh)
		if last := j.Records[len(j.Records)-1].State; c.Gone || last == lifecycle.Stopped.String() || last == lifecycle.Failed.String() {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
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
		if j, err := history.ReadDir(dir); err == nil {
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

func monotonic() time.Duration { return time.Duration(hostclock.Now()) }
