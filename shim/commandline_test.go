package shim

import (
	"slices"
	"strings"
	"testing"
)

func parsed(line string) *call { return parse(append([]string{"gracerun"}, strings.Fields(line)...)) }

func TestParse(t *testing.T) {
	for line, want := range map[string]call{
		"kill id TERM":                                       {command: "kill", understood: true},
		"--root /r kill id":                                  {command: "kill", understood: true, root: "/r"},
		"-root=/r --debug kill id":                           {command: "kill", understood: true, root: "/r", debug: true},
		"--log /l --log-format json state x":                 {command: "state", understood: true, log: "/l", logFormat: "json"},
		"--log-level debug kill id":                          {command: "kill", understood: true},
		"--log-format=yaml state x":                          {command: "state", logFormat: "yaml"},
		"--systemd-cgroup --rootless auto --criu=/c start x": {command: "start", understood: true, systemd: true},
		"--cgroup-manager systemd start x":                   {command: "start", understood: true, systemd: true},
		"--systemd-cgroup --cgroup-manager=disabled start x": {command: "start", understood: true},
		"--systemd-cgroup=false start x":                     {command: "start", understood: true},
		"--version":                                          {command: versionCommand, understood: true},
		"--root /r -v":                                       {command: versionCommand, understood: true, root: "/r"},
		"-h":                                                 {command: helpCommand, understood: true},
		"help kill":                                          {command: helpCommand, understood: true},
		"":                                                   {},
		"--root":                                             {},
		"--frobnicate kill id":                               {},
	} {
		got := parsed(line)
		if got.command != want.command || got.understood != want.understood || got.root != want.root || got.log != want.log ||
			got.logFormat != want.logFormat || got.debug != want.debug || got.systemd != want.systemd {
			t.Errorf("%q is read as %+v", line, got)
		}
	}
	c := parsed("--root /r --debug kill -a id 9")
	if !slices.Equal(c.globals, []string{"--root", "/r", "--debug"}) || !slices.Equal(c.args, []string{"-a", "id", "9"}) {
		t.Errorf("globals are %q, arguments %q", c.globals, c.args)
	}
}

func TestScan(t *testing.T) {
	for line, want := range map[string]struct {
		args       string
		ok, all    bool
		timeoutHas string
	}{
		"x id TERM":                {args: "id TERM", ok: true},
		"x --all id":               {args: "id", ok: true, all: true},
		"x id KILL -a":             {args: "id KILL", ok: true, all: true},
		"x --all=false id":         {args: "id", ok: true},
		"x --timeout 3 id":         {args: "id", ok: true, timeoutHas: "3"},
		"x -t=3 id":                {args: "id", ok: true, timeoutHas: "3"},
		"x -- --all":               {args: "--all", ok: true},
		"x id -":                   {args: "id -", ok: true},
		"x --regex id":             {},
		"x id --timeout":           {},
		"x --timeout --all id TER": {args: "id TER", ok: true, timeoutHas: "--all"},
	} {
		var all bool
		var timeout string
		args, ok := parsed(line).scan([]flag{{name: "all", short: "a", on: &all}, {name: "timeout", short: "t", takesValue: true, text: &timeout}})
		if ok != want.ok || strings.Join(args, " ") != want.args || ok && (all != want.all || timeout != want.timeoutHas) {
			t.Errorf("%q: %q, %v, all %v, timeout %q", line, args, ok, all, timeout)
		}
	}
}

func TestScanCreation(t *testing.T) {
	for line, want := range map[string]creation{
		"create id":                                        {id: "id", bundle: "."},
		"create --bundle /b id":                            {id: "id", bundle: "/b"},
		"create --bundle=/b --pid-file p id":               {id: "id", bundle: "/b", pidFile: "p"},
		"create -b/b -fother.json id":                      {id: "id", bundle: "/b", config: "other.json"},
		"create -b /b --new-flag of --console-socket s id": {id: "id", bundle: "/b", console: "s"},
		"run -d --preserve-fds 3 id":                       {id: "id", bundle: ".", detach: true},
		"run --detach=false --no-pivot id":                 {id: "id", bundle: "."},
	} {
		if got, ok := parsed(line).scanCreation(); !ok || got != want {
			t.Errorf("%q: %+v, %v", line, got, ok)
		}
	}
	for _, line := range []string{"create", "create --help", "create id --help"} {
		if got, ok := parsed(line).scanCreation(); ok {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{"--root /r kill --all id 9", "create -b/b -f x id", "-", "--=x", "run -d=", "stop -t"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c := parse(append([]string{"gracerun"}, strings.Split(line, " ")...))
		c.scanCreation()
		var on bool
		var text string
		c.scan([]flag{{name: "all", short: "a", on: &on}, {name: "timeout", short: "t", takesValue: true, text: &text}})
	})
}
