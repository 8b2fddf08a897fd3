package host

import (
	"os"
	"strings"
	"testing"
)

// lines are what the script scopes said.
type lines map[string]string

// TestScopes makes containers with the annotations of CRI-O over each runtime,
// with gracerun and without, and reads from systemd what their scopes have.
func TestScopes(t *testing.T) {
	i := testImage(t)
	gracerun := buildGracerun(t)
	script, err := os.ReadFile("scopes")
	if err != nil {
		t.Fatal(err)
	}
	got, err := i.Run(t.Context(), Job{
		Script: string(script),
		Files: map[string]File{
			"systemd/system/crio.service":     {Text: "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"},
			"gracelab/bin/gracerun":           {From: gracerun, Mode: 0o755},
			"gracelab/crio-scope.conf":        {From: "../../docs/deploy/crio-scope.conf"},
			"gracelab/crio-conmon-scope.conf": {From: "../../docs/deploy/crio-conmon-scope.conf"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	said := lines{}
	for line := range strings.Lines(got.Output) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			said[name] = value
		} else if name, ok := strings.CutSuffix(strings.TrimSpace(line), ":"); ok {
			said[name] = ""
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Log(got.Took, "\n"+got.Output)
	}

	t.Run("the host", func(t *testing.T) {
		said.want(t, "host pid 1", "systemd")
		said.contain(t, "host cgroups", "cgroup2fs", " memory ")
		said.want(t, "host crio", "loaded")
		said.contain(t, "host programs", "crun version 1.8.1", "crun version 1.21", "runc version 1.1", "conmon version 2.1")
	})
	t.Run("the bug is there to be fixed", func(t *testing.T) {
		said.want(t, "crun-stock DefaultDependencies", "no")
		said.want(t, "crun-stock Conflicts", "")
	})
	for _, name := range []string{"crun-ours", "newer-crun-ours", "runc-ours", "newer-crun-stock", "runc-stock"} {
		t.Run(name, func(t *testing.T) {
			said.want(t, name+" DefaultDependencies", "yes")
			said.want(t, name+" Conflicts", "shutdown.target")
			said.want(t, name+" TimeoutStopUSec", "15s")
			said.want(t, name+" CollectMode", "inactive-or-failed")
			said.want(t, name+" MemoryMax", "268435456")
			said.want(t, name+" Slice", "machine.slice")
			said.want(t, name+" After", "crio.service machine.slice")
			if strings.Contains(said[name+" said"], "scope") {
				t.Errorf("%s said: %q", name, said[name+" said"])
			}
			said.want(t, name+" left", "")
			if strings.HasSuffix(name, "ours") {
				said.want(t, name+" reloaded", "shutdown.target")
			}
		})
	}
	t.Run("names of units", func(t *testing.T) {
		for _, path := range []string{":pod:named", "machine.slice:other:named"} {
			said.want(t, "named "+path, "yes loaded")
			said.want(t, "named "+path+" left", "")
		}
	})
	t.Run("many at once", func(t *testing.T) {
		for _, n := range strings.Fields("1 2 3 4 5 6 7 8") {
			said.want(t, "many "+n, "shutdown.target")
		}
		said.want(t, "many left", "")
	})
	t.Run("repair", func(t *testing.T) {
		said.want(t, "repair status", "0")
		said.want(t, "repair DefaultDependencies", "yes")
		said.want(t, "repair Conflicts", "shutdown.target")
		said.want(t, "repair MemoryMax", "268435456")
		said.contain(t, "repair said", "set right of crio-repair.scope", "DefaultDependencies was no, not yes", "MemoryMax was 67108864, not 268435456")
		said.want(t, "repair left", "")
	})
	t.Run("run in the foreground", func(t *testing.T) {
		said.want(t, "fore status", "137")
		said.want(t, "fore Conflicts", "shutdown.target")
		said.contain(t, "fore said", "set right of crio-fore.scope", "DefaultDependencies was no, not yes")
		said.want(t, "fore left", "")
		for _, n := range strings.Fields("1 2 3") {
			said.want(t, "short "+n, "0")
		}
		said.want(t, "deny status", "137")
		said.contain(t, "deny said", "run container deny: scope crio-deny.scope is not as its annotations ask")
		if strings.Contains(said["deny said"], "No such file") {
			t.Errorf("deny said: %q", said["deny said"])
		}
		said.want(t, "deny left", "")
	})
	t.Run("what cannot be repaired", func(t *testing.T) {
		said.want(t, "warn status", "0")
		said.contain(t, "warn said", "scope crio-warn.scope is not as its annotations ask: DefaultDependencies was no, not yes")
		said.want(t, "require status", "1")
		said.contain(t, "require said", "create container require: scope crio-require.scope is not as its annotations ask")
		said.contain(t, "require state", "No such file")
		said.want(t, "require left", "")
		said.want(t, "ignore status", "0")
		said.want(t, "ignore said", "")
		said.want(t, "ignore left", "")
	})
	t.Run("the drop-in for nodes without gracerun", func(t *testing.T) {
		said.want(t, "prefix DefaultDependencies", "yes")
		said.want(t, "prefix Conflicts", "shutdown.target")
		said.want(t, "conmon DefaultDependencies", "no")
		said.want(t, "conmon Conflicts", "")
	})
}

func (l lines) want(t *testing.T, name, value string) {
	t.Helper()
	if got, ok := l[name]; !ok {
		t.Errorf("%s: not said", name)
	} else if got != value {
		t.Errorf("%s: %q, want %q", name, got, value)
	}
}

func (l lines) contain(t *testing.T, name string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(l[name], part) {
			t.Errorf("%s: %q, want it to contain %q", name, l[name], part)
		}
	}
}
