package main

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

// written is what somebody has written so far.
type written struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *written) await(t *testing.T, what string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		found := strings.Contains(w.text.String(), what)
		w.mu.Unlock()
		if found {
			return
		}
	}
	t.Fatalf("%q does not come; there is\n%s", what, w.text.String())
}

// A container of a pod is found by the name that it has there, though that looks like
// a path; what is neither says so.
func TestTraceByPodName(t *testing.T) {
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	stopped(t, "aaaa1111", runtime.Annotation{Key: "io.kubernetes.container.name", Value: "postgres"},
		runtime.Annotation{Key: "io.kubernetes.pod.name", Value: "db-0"}, runtime.Annotation{Key: "io.kubernetes.pod.namespace", Value: "prod"})
	for _, name := range []string{"postgres", "db-0/postgres", "prod/db-0/postgres", "aaaa"} {
		if tl, err := readTrace(name); err != nil || !strings.Contains(tl.Title, "prod/db-0/postgres (aaaa1111), deleted") {
			t.Errorf("%s is %+v, %v", name, tl, err)
		}
	}
	for name, want := range map[string]string{"no/such/file": "no such file or directory; nor is a container called so", "nobody": "has no journal"} {
		if _, err := readTrace(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// The text of a container that is followed by its name grows, and ends with the
// container, even if that is deleted at once.
func TestFollow(t *testing.T) {
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	dir, err := statedir.Create("", "c0ffee0123456789")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	config := lifecycle.DefaultConfig()
	w, err := journal.Create(dir.FD(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	record := &statedir.Record{ID: "c0ffee0123456789", Bundle: "/b", Runtime: "/usr/bin/runc", StopSignal: signals.TERM, Policy: "observe"}
	if err := errors.Join(dir.WriteRecord(record), dir.WriteFile(history.NameFile, []byte("web\n"))); err != nil {
		t.Fatal(err)
	}
	machine := lifecycle.New(config)
	step := func(ev lifecycle.Event) {
		t.Helper()
		if _, err := w.Step(machine, lifecycle.Instant(monotonic()), ev); err != nil {
			t.Fatal(err)
		}
	}
	step(lifecycle.Event{Kind: lifecycle.CreateDone})
	var out written
	ended := make(chan error, 1)
	go func() { ended <- follow(t.Context(), "web", &out) }()
	out.await(t, "the container is created")
	step(lifecycle.Event{Kind: lifecycle.StartDone})
	out.await(t, "the container is started")
	step(lifecycle.Event{Kind: lifecycle.InitExited, Status: lifecycle.Exited(3)})
	for _, kind := range []lifecycle.EventKind{lifecycle.CgroupEmpty, lifecycle.StreamsDrained, lifecycle.ExitRecorded, lifecycle.ExitCommandDone} {
		step(lifecycle.Event{Kind: kind})
	}
	if warning, err := history.Retire(dir, history.Limits{Containers: 1, Bytes: 1 << 20}); errors.Join(warning, err) != nil {
		t.Fatal(warning, err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not end with the container")
	}
	text := out.text.String()
	if !strings.Contains(text, "the exit is recorded") || strings.Count(text, "the container is started") != 1 {
		t.Errorf("it has printed\n%s", text)
	}
}
