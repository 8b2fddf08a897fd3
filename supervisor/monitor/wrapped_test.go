package monitor

import (
	"os"
	"path/filepath"
	"testing"

	"gracerun.io/faults"
	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/oci"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/settings"
)

// The wrapped runtime is started at once where gracerun would do nothing besides, and
// gracerun everywhere else.
func TestShorten(t *testing.T) {
	bin := t.TempDir()
	for name, text := range map[string]string{
		"gracerun": "gracerun", "script": "#!/bin/sh\n", "crun": "\x7fELF", "runc": "\x7fELF", "other": "\x7fELF",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(bin, "gracerun"), filepath.Join(bin, "link")); err != nil {
		t.Fatal(err)
	}
	t.Setenv(oci.Variable, filepath.Join(bin, "crun"))
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	dir, err := statedir.Create("/r", "c1")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change  func(c *Container)
		wrapped string
		plan    string
		want    string
	}{
		"create":             {want: "crun"},
		"by a link":          {change: func(c *Container) { c.o.Runtime = filepath.Join(bin, "link") }, want: "crun"},
		"over runc":          {wrapped: "runc", want: "runc"},
		"another runtime":    {wrapped: "other"},
		"a script":           {wrapped: "script"},
		"none":               {wrapped: "none"},
		"not gracerun":       {change: func(c *Container) { c.o.Runtime = filepath.Join(bin, "crun") }},
		"another gracerun":   {change: func(c *Container) { c.s.program = "/nowhere/gracemon" }},
		"fault plan":         {plan: "at=runtime.create do=error"},
		"unknown option":     {change: func(c *Container) { c.o.RuntimeArgs = []string{"--unknown"} }},
		"lacks a value":      {change: func(c *Container) { c.o.RuntimeArgs = []string{"--root"} }},
		"not only options":   {change: func(c *Container) { c.o.RuntimeArgs = []string{"run"} }},
		"known options":      {change: func(c *Container) { c.o.RuntimeArgs = []string{"--root", "/r", "--log-format=json", "--debug"} }, want: "crun"},
		"unknown format":     {change: func(c *Container) { c.o.RuntimeArgs = []string{"--log-format=xml"} }},
		"systemd":            {change: func(c *Container) { c.o.RuntimeArgs = []string{"--systemd-cgroup"} }},
		"systemd, by conmon": {change: func(c *Container) { c.o.SystemdCgroup = true }},
		"runtime options":    {change: func(c *Container) { c.o.RuntimeOpts = []string{"--preserve-fds=1"} }},
		"warnings":           {change: func(c *Container) { c.wrapped.warnings = true }},
		"no configuration":   {change: func(c *Container) { c.wrapped.spec = nil }},
		"no state":           {change: func(c *Container) { c.dir = nil }},
		"exec":               {change: func(c *Container) { c.o.Exec = true; c.o.RuntimeOpts = []string{"--preserve-fds=1"}; c.dir = nil }, want: "crun"},
		"exec, by a script":  {change: func(c *Container) { c.o.Exec = true }, wrapped: "script", want: "script"},
		"restore":            {change: func(c *Container) { c.o.Restore = "/checkpoint" }, want: "crun"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.wrapped != "" {
				t.Setenv(oci.Variable, filepath.Join(bin, test.wrapped))
			}
			if test.plan != "" {
				t.Setenv(faults.Variable, test.plan)
			}
			c := &Container{
				s: &Supervisor{program: filepath.Join(bin, "gracemon")},
				o: &cmdline.Options{ID: "c1", Runtime: filepath.Join(bin, "gracerun"), RuntimeArgs: []string{"--root", "/r"}},
			}
			c.dir, c.wrapped = dir, wrapped{node: settings.Defaults(), spec: &bundle.Config{}}
			if test.change != nil {
				test.change(c)
			}
			argv := c.shorten([]string{c.o.Runtime, "create", "c1"})
			want := c.o.Runtime
			if test.want != "" {
				want = filepath.Join(bin, test.want)
			}
			if argv[0] != want || len(argv) != 3 || argv[2] != "c1" {
				t.Errorf("%v, want %s", argv, want)
			}
			if creates := test.want != "" && !c.o.Exec && c.o.Restore == ""; c.keep != creates || (c.wrapped.program != "") != creates {
				t.Errorf("keep %v, program %q", c.keep, c.wrapped.program)
			}
		})
	}
}

// An exec is of the runtime that has made the container.
func TestExecByItsMaker(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"gracerun", "crun", "runc"} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(oci.Variable, filepath.Join(bin, "crun"))
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	dir, err := statedir.Create("/r", "c1")
	if err != nil {
		t.Fatal(err)
	}
	self, err := process.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := oci.NewContainer(filepath.Join(bin, "runc"), "/r/c1", "c1", &oci.Status{Pid: self.Pid, StartTime: self.StartTime, Created: "2026-11-28T00:00:00Z"})
	if err == nil {
		err = oci.WriteContainer(dir, kept)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := &Container{
		s: &Supervisor{program: filepath.Join(bin, "gracemon")},
		o: &cmdline.Options{ID: "c1", Exec: true, Runtime: filepath.Join(bin, "gracerun"), RuntimeArgs: []string{"--root=/r"}},
	}
	for _, want := range []string{"runc", "crun"} {
		if argv := c.shorten([]string{c.o.Runtime, "exec", "c1"}); argv[0] != filepath.Join(bin, want) {
			t.Errorf("%v, want %s", argv, want)
		}
		os.Remove(filepath.Join(bin, "runc")) // it was uninstalled
	}
}
