//go:build linux && (amd64 || arm64)

package monitor

import (
	"encoding/json"
	"slices"
	"syscall"
	"testing"
	"unicode/utf8"

	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/slumber"
)

func TestMessages(t *testing.T) {
	for _, test := range []struct {
		key     string
		number  int
		message string
		want    string
	}{
		{"pid", 12, "", `{"pid": 12}`},
		{"data", -1, "a/b \"c\" \\", `{"data": -1, "message": "a\/b \"c\" \\"}`},
		{"exit_code", -1, timedOutMessage, `{"exit_code": -1, "message": "command timed out"}`},
		{"data", -1, "caf\xe9 \xff\xfe\xc3", "{\"data\": -1, \"message\": \"caf\ufffd \ufffd\ufffd\ufffd\"}"},
		{"data", 0, "\n\r\t\b\f\x01\x7f é", `{"data": 0, "message": "\n\r\t\b\f\u0001\u007f é"}`},
	} {
		if got := string(appendMessage(nil, test.key, test.number, test.message)); got != test.want+"\n" {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add("runc: \"x\"\n", -1)
	f.Fuzz(func(t *testing.T, text string, number int) {
		line := appendMessage(nil, "data", number, text)
		var read struct {
			Data    int
			Message string
		}
		if err := json.Unmarshal(line, &read); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if !utf8.Valid(line) {
			t.Fatalf("%q is not UTF-8", line)
		}
		if read.Data != number || utf8.ValidString(text) && read.Message != text {
			t.Fatalf("%q is read as %+v", line, read)
		}
	})
}

func TestWhichMessages(t *testing.T) {
	for _, test := range []struct {
		options cmdline.Options
		want    string
	}{
		{cmdline.Options{}, "pid"},
		{cmdline.Options{APIVersion: 1}, "data"},
		{cmdline.Options{Exec: true}, "exit_code"},
		{cmdline.Options{Exec: true, APIVersion: 1}, "data"},
	} {
		var p parent
		if err := p.open(&test.options); err != nil || p.key != test.want {
			t.Errorf("%+v: %q, %v", test.options, p.key, err)
		}
	}
	t.Setenv("_OCI_SYNCPIPE", "12x")
	if err := new(parent).open(&cmdline.Options{}); err == nil || err.Error() != "unable to parse _OCI_SYNCPIPE" {
		t.Errorf("a bad number: %v", err)
	}
}

func TestHierarchy(t *testing.T) {
	const text = "12:pids:/pids\n4:memory:/mem/x:y\n3:cpu,cpuacct:/c\n1:name=systemd:/\n0::/unified\n"
	for controller, want := range map[string]string{"": "/unified", "memory": "/mem/x:y", "cpuacct": "/c", "pids": "/pids"} {
		if got, ok := hierarchy(text, controller); !ok || got != want {
			t.Errorf("%q: %q, want %q", controller, got, want)
		}
	}
	if got, ok := hierarchy(text, "mem"); ok {
		t.Errorf("found %q for a controller that is not there", got)
	}
}

// What the daemon was told is for it alone; what the caller had set comes back.
func TestEnvironmentOfChildren(t *testing.T) {
	before := append(syscall.Environ(), "GOMAXPROCS=7", "KEPT=1")
	daemon := tuned(before, daemonStage)
	if !slices.Contains(daemon, "GOMAXPROCS=1") || slices.Contains(daemon, "GOMAXPROCS=7") {
		t.Errorf("the daemon is not told: %v", daemon)
	}
	for _, entry := range daemon {
		for i := range entry {
			if entry[i] == '=' {
				t.Setenv(entry[:i], entry[i+1:])
				break
			}
		}
	}
	after := childEnvironment()
	for _, entry := range before {
		if !slices.Contains(after, entry) && entry != "GOMAXPROCS=7" {
			t.Errorf("%s is lost", entry)
		}
	}
	if !slices.Contains(after, "GOMAXPROCS=7") || len(after) != len(before) {
		t.Errorf("children get %v, want %v", after, before)
	}
}

// Nor do they get what a process was told that was forked.
func TestEnvironmentOfForkedChildren(t *testing.T) {
	before := syscall.Environ()
	t.Setenv("GOMAXPROCS", "1")
	t.Setenv(slumber.ForkedVariable, "000003")
	if after := childEnvironment(); !slices.Equal(after, before) {
		t.Errorf("children get %v, want %v", after, before)
	}
}

func TestExitNumbers(t *testing.T) {
	for _, test := range []struct {
		status   lifecycle.Status
		timedOut bool
		want     int
	}{
		{lifecycle.Exited(7), false, 7},
		{lifecycle.Signaled(9), false, 137},
		{lifecycle.Status{}, false, -1},
		{lifecycle.Signaled(9), true, -1},
	} {
		c := &Container{timedOut: test.timedOut}
		if got := c.exitNumber(test.status); got != test.want {
			t.Errorf("%v: %d, want %d", test.status, got, test.want)
		}
	}
}
