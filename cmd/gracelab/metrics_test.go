package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMetricsToFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "gracerun.prom")
	for range 2 { // the second goes on with the first
		if err := metricsToFile(filepath.Join(dir, "base"), file); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "\ngracerun_containers_counted_total 0\n") {
		t.Errorf("%q, %v", text, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.WriteFile(file, []byte("somebody else's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := metricsToFile(filepath.Join(dir, "base"), file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file of somebody else: %v", err)
	}
}

// awaitAddress takes the line with the address out of the log.
type awaitAddress chan string

func (a awaitAddress) Write(b []byte) (int, error) {
	a <- strings.TrimSpace(strings.TrimPrefix(string(b), "gracelab: metrics at "))
	return len(b), nil
}

func TestServeMetrics(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	address, ended := make(awaitAddress, 1), make(chan error, 1)
	go func() { ended <- serveMetrics(ctx, filepath.Join(t.TempDir(), "base"), "127.0.0.1:0", address) }()
	var url string
	select {
	case url = <-address:
	case err := <-ended:
		t.Fatal(err)
	}
	for accept, want := range map[string]string{"": "text/plain", "application/openmetrics-text; version=1.0.0": "application/openmetrics-text"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", accept)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if got := response.Header.Get("Content-Type"); err != nil || response.StatusCode != 200 || !strings.HasPrefix(got, want) ||
			!strings.Contains(string(body), "gracerun_containers_counted_total 0") {
			t.Errorf("%q: %s, %s, %v\n%s", accept, response.Status, got, err, body)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
