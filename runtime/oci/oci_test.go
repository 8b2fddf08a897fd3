package oci

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
)

func script(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	top := t.TempDir()
	t.Setenv("PATH", top+"/a:relative::"+top+"/b")
	if program, err := Find(""); err != ErrNoRuntime {
		t.Errorf("in an empty PATH: %q, %v", program, err)
	}
	native := script(t, top+"/a/gracerun-native")
	runc := script(t, top+"/b/runc")
	if program, err := Find(""); err != nil || program != runc {
		t.Errorf("%q, %v; want %q", program, err, runc)
	}
	crun := script(t, top+"/b/crun")
	for chosen, want := range map[string]string{"": crun, "runc": runc, native: native, "gracerun-native": native} {
		if program, err := Find(chosen); err != nil || program != want {
			t.Errorf("Find(%q) = %q, %v; want %q", chosen, program, err, want)
		}
	}
	for _, chosen := range []string{"youki", top + "/none", top + "/a"} {
		if program, err := Find(chosen); err == nil || !strings.Contains(err.Error(), chosen) {
			t.Errorf("Find(%q) = %q, %v", chosen, program, err)
		}
	}
}

// A gracerun under the name of crun does not wrap itself for ever.
func TestFindDoesNotFindItself(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	top := t.TempDir()
	t.Setenv("PATH", top)
	if err := os.Symlink(self, top+"/crun"); err != nil {
		t.Fatal(err)
	}
	if program, err := Find(""); err != ErrNoRuntime {
		t.Errorf("%q, %v", program, err)
	}
	if program, err := Find("crun"); err == nil || !strings.Contains(err.Error(), "itself") {
		t.Errorf("%q, %v", program, err)
	}
}

// The default root is where the runtime itself looks: an installed crun says it in
// its version.
func TestRoot(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "")
	for program, want := range map[string]string{"/usr/bin/crun": "/run/crun", "/usr/sbin/runc": "/run/runc", "/x/gracerun-native": "/run/gracerun-native"} {
		if got := Root(program, ""); got != want {
			t.Errorf("%s: %s", program, got)
		}
		if got := Root(program, "/given"); got != "/given" {
			t.Errorf("%s: %s", program, got)
		}
	}
	dir := t.TempDir()
	for _, xdg := range []string{"", dir} {
		t.Setenv("XDG_RUNTIME_DIR", xdg)
		out, err := exec.Command("crun", "--version").Output()
		if err != nil {
			t.Skip("crun is not installed")
		}
		if want := "rundir: " + Root("crun", "") + "\n"; !strings.Contains(string(out), want) {
			t.Errorf("crun says\n%s\nand not %q", out, want)
		}
	}
}

const crunFile = `{
    "pid": PID, "process-start-time": START, "cgroup-path": "/pods/c1", "scope": "c1.scope", "rootfs": "rootfs",
    "systemd-cgroup": true, "bundle": "/b \"1\"", "created": "2026-08-19T12:39:10.000001Z", "owner": "root", "detached": true,
    "external_descriptors": "[]", "new-member": {"of": ["a later version"]}
}`

const crunConfig = `{"ociVersion": "1.1.0", "annotations": {"z": "<1>", "a": ""}}`

const runcFile = `{"id":"c1","init_process_pid":PID,"init_process_start":START,"created":"2026-08-19T12:39:10.5Z",
 "config":{"no_pivot_root":false,"rootfs":"/b/rootfs","mounts":[{"a":1}],"cgroups":{"path":"/pods/c1","Systemd":false},
   "version":"1.0.2-dev","labels":["z=\u003c1\u003e","a=","e==","bundle=/b \"1\"","no-value"]},
 "cgroup_paths":{"":"/sys/fs/cgroup/unified/pods/c1","freezer":"/sys/fs/cgroup/freezer/pods/c1"},"new":null}`

// dir makes a runtime's directory of a container whose init is this process.
func dir(t *testing.T, files map[string]string) (string, process.Identity) {
	t.Helper()
	self, err := process.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir()
	for name, text := range files {
		text = strings.NewReplacer("PID", strconv.Itoa(self.Pid), "START", strconv.FormatUint(self.StartTime, 10)).Replace(text)
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path, self
}

func TestContainers(t *testing.T) {
	for style, test := range map[Style]struct {
		files map[string]string
		want  string
	}{
		Crun: {map[string]string{"status": crunFile, "config.json": crunConfig}, `{
			"ociVersion": "1.0.0", "id": "c1", "pid": PID, "status": "running", "bundle": "/b \"1\"", "rootfs": "rootfs",
			"created": "2026-08-19T12:39:10.000001Z", "systemd-scope": "c1.scope", "owner": "root", "annotations": {"z": "<1>", "a": ""}}`},
		Runc: {map[string]string{"state.json": runcFile}, `{
			"ociVersion": "1.0.2-dev", "id": "c1", "pid": PID, "status": "running", "bundle": "/b \"1\"", "rootfs": "/b/rootfs",
			"created": "2026-08-19T12:39:10.5Z", "annotations": {"a": "", "e": "=", "z": "<1>"}, "owner": ""}`},
	} {
		t.Run(styleNames[style], func(t *testing.T) {
			path, self := dir(t, test.files)
			status, err := ReadStatus(path)
			if err != nil {
				t.Fatal(err)
			}
			if status.CgroupsPath != "/pods/c1" || !strings.HasSuffix(status.Cgroup.Dir, "/pods/c1") {
				t.Errorf("cgroup is %q, %+v", status.CgroupsPath, status.Cgroup)
			}
			made, err := NewContainer("/usr/bin/it", path, "c1", status)
			if err != nil {
				t.Fatal(err)
			}
			if made.Init != self {
				t.Errorf("init is %v, want %v", made.Init, self)
			}
			state := stateDir(t)
			if _, err := ReadContainer(state); !errors.Is(err, unix.ENOENT) {
				t.Errorf("before it was written: %v", err)
			}
			if err := WriteContainer(state, made); err != nil {
				t.Fatal(err)
			}
			c, err := ReadContainer(state)
			if err != nil {
				t.Fatal(err)
			}
			if c.Program != "/usr/bin/it" || c.Dir != path || c.Style != style || c.Init != self || c.Cgroup != made.Cgroup {
				t.Errorf("read as %+v", c)
			}
			want := strings.Replace(test.want, "PID", strconv.Itoa(self.Pid), 1)
			if got := c.State("running", self.Pid); !sameJSON(t, got, want) {
				t.Errorf("running: %s", got)
			}
			stopped := strings.Replace(strings.Replace(test.want, "PID", "0", 1), "running", "stopped", 1)
			if got := c.State("stopped", self.Pid); !sameJSON(t, got, stopped) {
				t.Errorf("stopped: %s", got)
			}
			look := func(alive bool, want string) {
				t.Helper()
				if got, err := c.Look(alive); got != want || err != nil {
					t.Errorf("looks %s, %v; want %s", got, err, want)
				}
			}
			look(true, "running")
			look(false, "stopped")
			if err := unix.Mkfifo(filepath.Join(path, execFifo), 0o600); err != nil {
				t.Fatal(err)
			}
			look(true, "created")
			look(false, "stopped")
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if c.Known() {
				t.Error("the runtime has removed it, and it is known")
			}
		})
	}
}

func stateDir(t *testing.T) *statedir.Dir {
	t.Helper()
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	d, err := statedir.Create("", "c1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func sameJSON(t *testing.T, got []byte, want string) bool {
	t.Helper()
	var a, b any
	if err := json.Unmarshal(got, &a); err != nil {
		t.Errorf("%v: %s", err, got)
		return false
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// The init that the file speaks of has ended, and another process has its number.
func TestReusedNumber(t *testing.T) {
	path, self := dir(t, map[string]string{"state.json": strings.Replace(runcFile, "START", "1", 1)})
	status, err := ReadStatus(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewContainer("/usr/bin/it", path, "c1", status)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := process.OpenVerified(c.Init); !errors.Is(err, process.ErrReused) {
		t.Errorf("identity %v is taken for process %d: %v", c.Init, self.Pid, err)
	}
}

func TestReadStatusRefuses(t *testing.T) {
	for want, files := range map[string]map[string]string{
		ErrUnknown.Error():               {"youki_config.json": "{}"},
		"pid or created is missing":      {"status": `{"pid": 12}`, "config.json": crunConfig},
		"out of range":                   {"status": `{"pid": 99999999999, "created": "x"}`, "config.json": crunConfig},
		"init_process_pid or created is": {"state.json": `{"created": "x"}`},
		"1:2: unexpected end":            {"state.json": `{`},
		"config.json":                    {"status": crunFile},
	} {
		path, _ := dir(t, files)
		if s, err := ReadStatus(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %+v, %v; want %s", files, s, err, want)
		}
	}
	if _, err := ReadStatus("/nonexistent"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("of a container that is not there: %v", err)
	}
}

func FuzzReadStatus(f *testing.F) {
	f.Add([]byte(crunFile), []byte(runcFile))
	f.Fuzz(func(t *testing.T, crun, runc []byte) {
		_, _ = parseCrun(crun)
		_, _ = parseRunc(runc)
	})
}

func TestReadContainerRefuses(t *testing.T) {
	d := stateDir(t)
	for _, text := range []string{
		"", "version=2\n\n", "version=1\nprogram=/p\n\n{\x00 \x00}",
		"version=1\nprogram=/p\ndirectory=/d\nstyle=runc\ninit=pid=1 start=2 pidfd-inode=3\ncgroup=\n\n{one hole \x00}",
		"version=1\nprogram=/p\ndirectory=/d\nstyle=youki\ninit=pid=1 start=2 pidfd-inode=3\ncgroup=\n\n{\x00 \x00}",
	} {
		if err := d.WriteFile(containerFile, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if c, err := ReadContainer(d); err == nil {
			t.Errorf("%q is read as %+v", text, c)
		}
	}
	bad := &Container{Program: "/p\nx", Dir: "/d", Init: process.Identity{Pid: 1}}
	if err := WriteContainer(d, bad); err == nil {
		t.Error("a newline in a path was written")
	}
}

func TestAddAnnotations(t *testing.T) {
	more := runtime.Annotations{{Key: "x.version", Value: `1 "2"`}, {Key: "x.b", Value: ""}}
	const added = `"x.version":"1 \"2\"","x.b":""`
	for text, want := range map[string]string{
		`{"a":1,"annotations":{"k":"v"},"z":2}` + "\n":      `{"a":1,"annotations":{` + added + `,"k":"v"},"z":2}` + "\n",
		`{"annotations" : { } }`:                            `{"annotations" : {` + added + ` } }`,
		`{"a":{"annotations":{"k":"v"}}}`:                   `{"a":{"annotations":{"k":"v"}},"annotations":{` + added + `}}`,
		"{}":                                                `{"annotations":{` + added + `}}`,
		"{\n  \"ociVersionMin\": \"1.0.0\"\n}\n":            "{\n  \"ociVersionMin\": \"1.0.0\"\n,\"annotations\":{" + added + "}}\n",
		"\n {\"annotations\":\n{\n\"k\": \"} , {\"}}    \n": "\n {\"annotations\":\n{" + added + ",\n\"k\": \"} , {\"}}    \n",
	} {
		got, err := AddAnnotations([]byte(text), more)
		if err != nil || string(got) != want {
			t.Errorf("%q gives\n%q, %v; want\n%q", text, got, err, want)
		}
		if !json.Valid(got) {
			t.Errorf("not JSON: %s", got)
		}
	}
	for _, text := range []string{"", "no JSON", `{"annotations":null}`, `{"annotations":[]}`, `{} {}`} {
		if got, err := AddAnnotations([]byte(text), more); err == nil {
			t.Errorf("%q gives %q", text, got)
		}
	}
}
