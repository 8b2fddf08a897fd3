package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"gracerun.io/integration/host"
	"gracerun.io/internal/progress"
	"gracerun.io/timeline"
)

// shutdownRace is the race that needs a whole host, with systemd as PID 1, which
// is powered off: cri-o issue 8609.
const shutdownRace = "scope-default-dependencies"

// reproduceShutdown powers off a host of its own for each stack, and reports
// whether gracerun spared the workload what crun 1.8.1 did to it.
func reproduceShutdown(ctx context.Context, out io.Writer, cache, evidence string) error {
	if err := host.Missing(); err != nil {
		fmt.Fprintf(out, "SKIPPED          %s: %v\n", shutdownRace, err)
		return nil
	}
	line := progress.Start(os.Stderr)
	defer line.End()
	line.Set(-1, "the disk of the host is made or looked up")
	image, err := host.Get(ctx, cache)
	if err != nil {
		if errors.Is(err, host.ErrMissing) {
			fmt.Fprintf(out, "SKIPPED          %s: %v\n", shutdownRace, err)
			return nil
		}
		return err
	}
	var lines []*timeline.Timeline
	harmed := map[string]bool{}
	fmt.Fprintf(out, "%s: a host with systemd as PID 1 is powered off under a pod\n", shutdownRace)
	stacks := host.Stacks8609(filepath.Join(programsDir(), "gracerun"))
	for i, stack := range stacks {
		line.Set(float64(i)/float64(len(stacks)), "%d of %d: %s: the host boots, and is powered off", i+1, len(stacks), stack.Name)
		if missing := missingProgram(stack); missing != "" {
			line.Aside(func() { fmt.Fprintf(out, "    %s: skipped: %s is not built\n", stack.Name, missing) })
			continue
		}
		s, err := image.Reproduce8609(ctx, stack)
		if err != nil {
			return err
		}
		verdict := "no harm"
		if s.Harm() != "" {
			verdict, harmed[stack.Name] = "HARM: "+s.Harm(), true
		}
		line.Aside(func() {
			fmt.Fprintf(out, "    %s: %s\n        scope: DefaultDependencies=%s TimeoutStopUSec=%s; TERM from %s %s after power-off; %s\n",
				stack.Name, verdict, s.Properties["DefaultDependencies"], s.Properties["TimeoutStopUSec"],
				s.TermFrom, after(s.PowerOff, s.Term), killText(s))
		})
		s.Timeline.Verdict, s.Timeline.Bad = verdict, s.Harm() != ""
		lines = append(lines, s.Timeline)
	}
	line.End()
	page := filepath.Join(evidence, shutdownRace+".html")
	if err := os.MkdirAll(evidence, 0o755); err != nil {
		return err
	}
	var html bytes.Buffer
	if err := timeline.HTML(&html, shutdownRace+": a node is powered off under a pod", lines...); err != nil {
		return err
	}
	if err := os.WriteFile(page, html.Bytes(), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "    evidence: %s\n", page)
	affected := host.Stacks8609("")[0].Name
	switch {
	case !harmed[affected]:
		fmt.Fprintln(out, "NOT REPRODUCED")
	case len(harmed) > 1:
		return &finding{"a stack that should have held it off did harm"}
	}
	return nil
}

func missingProgram(s host.Stack) string {
	for name, file := range s.Programs {
		if _, err := os.Stat(file); err != nil {
			return name
		}
	}
	return ""
}

func after(from, at time.Duration) string {
	if at == 0 {
		return "never"
	}
	return fmt.Sprintf("%.1f s", (at - from).Seconds())
}

func killText(s *host.Shutdown) string {
	if s.Kill == 0 {
		return fmt.Sprintf("no KILL; saved %d of %d", s.Flushed, s.Steps)
	}
	return fmt.Sprintf("KILL from %s %s after TERM; saved %d of %d", s.KillFrom, after(s.Term, s.Kill), s.Flushed, s.Steps)
}
