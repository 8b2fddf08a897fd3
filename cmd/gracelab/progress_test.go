package main

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
)

// TestMain is also gracelab itself, for tests that need it in another process.
func TestMain(m *testing.M) {
	if os.Getenv("GRACELAB_TEST_PROGRAM") == "" {
		os.Exit(m.Run())
	}
	main()
}

// gracelab gives a call of it.
func gracelab(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "GRACELAB_TEST_PROGRAM=1")
	return cmd
}

// On a terminal a long exploration says in one line how far it has come and how long it
// will take; what is found goes to standard output as ever.
func TestProgressOnTerminal(t *testing.T) {
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	slave, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := gracelab(ctx, "explore", "--states", "10000000", "--world", "one stop, observe")
	cmd.Stderr = slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	line := regexp.MustCompile(`^\r\x1b\[K\[█*·*\] \d+ s, about [^:\n]* left: world 1 of 1: \d+ `)
	var text strings.Builder
	buf := make([]byte, 4096)
	for !line.MatchString(text.String()) {
		n, err := master.Read(buf)
		text.Write(buf[:n])
		if err != nil { // the program has ended, or the test's time is over
			t.Fatalf("the terminal got %q", text.String())
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // of KILL
}
