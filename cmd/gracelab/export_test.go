package main

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

// stopped makes a container that was stopped, and deletes it.
func stopped(t *testing.T, id string, annotations ...runtime.Annotation) {
	t.Helper()
	dir, err := statedir.Create("", id)
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
	machine := lifecycle.New(config)
	for i, ev := range []lifecycle.Event{
		{Kind: lifecycle.CreateDone}, {Kind: lifecycle.StartDone},
		{Kind: lifecycle.StopRequest, Request: lifecycle.FirstRequest, Grace: 4 * lifecycle.Second},
		{Kind: lifecycle.Delivered, Request: lifecycle.ForStop, Signal: signals.TERM}, {Kind: lifecycle.InitExited},
		{Kind: lifecycle.CgroupEmpty}, {Kind: lifecycle.StreamsDrained}, {Kind: lifecycle.ExitRecorded},
	} {
		if _, err := w.Step(machine, lifecycle.Instant(monotonic())+lifecycle.Instant(i), ev); err != nil {
			t.Fatal(err)
		}
	}
	record := &statedir.Record{ID: id, Bundle: "/b", Runtime: "/usr/bin/runc", StopSignal: signals.TERM, Policy: "delegate", Annotations: annotations}
	if err := dir.WriteRecord(record); err != nil {
		t.Fatal(err)
	}
	if warning, err := history.Retire(dir, history.Limits{Containers: 9, Bytes: 1 << 20}); errors.Join(warning, err) != nil {
		t.Fatal(warning, err)
	}
}

func TestExport(t *testing.T) {
	t.Setenv("GRACERUN_STATE_DIR", filepath.Join(t.TempDir(), "base"))
	stopped(t, "aaaa1111")
	stopped(t, "bbbb2222")
	spans := 0
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		var message collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(text, &message); err != nil {
			t.Error(err)
		}
		for _, of := range message.ResourceSpans {
			for _, scope := range of.ScopeSpans {
				spans += len(scope.Spans)
			}
		}
	}))
	defer server.Close()
	for _, test := range []struct {
		args  string
		spans int
		err   string
	}{
		{args: "--otlp " + server.URL, spans: 6},
		{args: "--otlp " + server.URL + " --since 1h aaaa", spans: 3},
		{args: "--otlp " + server.URL + " --since 1ns", spans: 0},
		{args: "", err: `"otlp" not set`},
		{args: "--otlp collector:4317", err: "--otlp: endpoint"},
		{args: "--otlp " + server.URL + " cccc", err: "container cccc: container does not exist"},
		{args: "--otlp " + server.URL + " --timeout 0s", err: "--timeout"},
		{args: "--otlp http://127.0.0.1:1 --timeout 1s", err: "connection refused"},
	} {
		spans = 0
		command := exportCommand()
		command.Writer, command.ErrWriter = io.Discard, io.Discard
		err := command.Run(t.Context(), append([]string{"export"}, strings.Fields(test.args)...))
		if spans != test.spans || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("export %s: %d spans, %v; want %d, %q", test.args, spans, err, test.spans, test.err)
		}
	}
}
