package host

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
)

// TestRootless: an ordinary user, with a systemd of their own, runs containers by
// rootless Podman with gracemon and gracerun, and by gracerun alone.
func TestRootless(t *testing.T) {
	i := testImage(t)
	soak := os.Getenv("GRACERUN_SOAK") != ""
	runtimes, programs := []string{"crun", "runc"}, []string{"gracerun", "gracemon"}
	if soak {
		runtimes, programs = append(runtimes, "newer-crun", "gracerun-native"), append(programs, "gracerun-native")
	}
	files := map[string]File{
		"gracelab/rootless-user": {From: "rootless-user"},
		"gracelab/parameters":    {Text: "RUNTIMES='" + strings.Join(runtimes, " ") + "' SOAK='" + os.Getenv("GRACERUN_SOAK") + "'\n"},
	}
	bin := t.TempDir()
	for name, why := range testbed.Build(bin, programs...) {
		t.Fatal(name, why)
	}
	for _, name := range programs {
		files["gracelab/bin/"+name] = File{From: filepath.Join(bin, name), Mode: 0o755}
	}
	script, err := os.ReadFile("rootless")
	if err != nil {
		t.Fatal(err)
	}
	got, err := i.Run(t.Context(), Job{Script: string(script), Files: files})
	if err != nil {
		t.Fatalf("%v\n%s", err, got.Output)
	}
	said, events := lines{}, map[string][]event{}
	for line := range strings.Lines(got.Output) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		if container, ok := strings.CutSuffix(name, " events"); ok {
			var e event
			if err := json.Unmarshal([]byte(value), &e); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			events[container] = append(events[container], e)
			continue
		}
		said[name] = value
	}
	t.Cleanup(func() {
		if t.Failed() || testing.Verbose() {
			t.Log(got.Took, "\n"+got.Output)
		}
	})
	said.want(t, "user", "systemd true 4.3.1")

	saves := func(name, afterMonitor string) {
		t.Run(name, func(t *testing.T) {
			said.want(t, name+" scope", "yes shutdown.target 1h")
			said.want(t, name+" after its monitor", afterMonitor)
			said.want(t, name+" said", "")
			said.want(t, name+" exec", "from inside 5")
			said.want(t, name+" in its grace", "running")
			said.want(t, name+" stop", "0")
			said.want(t, name+" wait", "7")
			said.want(t, name+" logs", "up USR1 TERM 1 saved after 1")
		})
	}
	stubborn := func(name string) {
		t.Run(name, func(t *testing.T) {
			said.want(t, name+" wait", "137")
			said.want(t, name+" logs", "up TERM 1")
			checkEvents(t, events[name], 5*time.Second)
		})
	}
	byHand := func(name, complaint string) {
		t.Run(name, func(t *testing.T) {
			said.want(t, name, "0 yes 1h")
			said.want(t, name+" said", complaint)
			said.want(t, name+" log", "up TERM 1 saved after 1")
			said.want(t, name+" deleted", "0")
		})
	}
	for _, r := range runtimes {
		saves(r+"-saves", "1")
		if soak || r == "crun" {
			stubborn(r + "-stubborn")
		}
		if soak {
			saves(r+"-conmon", "0")
			byHand("hand-"+r, "")
		}
	}
	t.Run("a slice is stopped", func(t *testing.T) {
		said.want(t, "slice stops libpod", "stop-sigterm")
		said.want(t, "slice stops libpod-conmon", "running")
		said.want(t, "slice wait", "7")
		said.want(t, "slice logs", "up TERM 1 saved after 1")
	})
	byHand("repaired", "container repaired: set right of hand-repaired.scope: DefaultDependencies was no, not yes")
	t.Run("what cannot be repaired", func(t *testing.T) {
		said.contain(t, "refused", "1 ")
		said.contain(t, "refused said", "run container refused: scope hand-refused.scope is not as its annotations ask: DefaultDependencies was no, not yes")
		said.contain(t, "refused state", "No such file")
	})
	if soak {
		t.Run("a supervisor is killed", func(t *testing.T) {
			said.want(t, "orphan logs", "up TERM 1 saved after 1")
			if code := said["orphan wait"]; code != "7" && code != "-1" {
				t.Errorf("orphan wait: %s", code)
			}
		})
	}
	said.want(t, "left", "")
	t.Run("places", func(t *testing.T) {
		said.want(t, "modes", "ada:600 f default/ID/container;ada:600 f default/ID/journal;ada:600 s default/ID/control;"+
			"ada:600 s keeper;ada:700 d;ada:700 d .ended;ada:700 d default;ada:700 d default/ID;")
		said.want(t, "monitor", "libpod-conmon-ID.scope 0 1000 1")
		said.want(t, "keeper", "run-ID.scope")
	})
	t.Run("who may ask", func(t *testing.T) {
		said.want(t, "let in ada", "answered state")
		for _, who := range []string{"eve", "subuid", "root"} {
			said.want(t, "let in "+who, "hung up")
		}
		said.contain(t, "asked by eve", "permission denied")
		said.contain(t, "asked by subuid", "permission denied")
		said.contain(t, "asked by root", "belongs to another user")
	})
	t.Run("a logout", func(t *testing.T) {
		said.want(t, "logout", "stop-sigterm")
		said.want(t, "logout ended", "success")
		said.want(t, "logout log", "up TERM 1 saved after 1")
		said.want(t, "logout remembered", "exited 7")
	})
}

// event is a line of `gracerun events --signals`.
type event struct {
	Type string
	Time time.Time
	Data struct{ Signal string }
}

// checkEvents: TERM was delivered once, and KILL only the grace later. While init is
// still about to die of it, it may be killed again.
func checkEvents(t *testing.T, events []event, grace time.Duration) {
	t.Helper()
	var term, kill time.Time
	for _, e := range events {
		switch {
		case e.Type != "delivered":
		case e.Data.Signal == "SIGTERM" && term.IsZero():
			term = e.Time
		case e.Data.Signal == "SIGKILL" && kill.IsZero():
			kill = e.Time
		case e.Data.Signal != "SIGKILL":
			t.Errorf("%s was delivered %v after the first SIGTERM", e.Data.Signal, e.Time.Sub(term))
		}
	}
	if term.IsZero() || kill.IsZero() || kill.Sub(term) < grace {
		t.Errorf("TERM at %v, KILL at %v, want a grace of %v between them; all: %v", term, kill, grace, events)
	}
}
