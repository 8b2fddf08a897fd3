package docs

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v3"

	"gracerun.io/supervisor/settings"
)

// Keys that are documented. CRI-O: docs/crio.conf.5.md and the toml tags of
// RuntimeHandler in pkg/config/config.go (main, 2026). containers-common:
// containers.conf.5 (Debian 12's and later).
var (
	crioHandlerKeys = strings.Fields(`runtime_path runtime_root runtime_type inherit_default_runtime runtime_config_path
		privileged_without_host_devices allowed_annotations monitor_path monitor_cgroup monitor_env monitor_exec_cgroup
		platform_runtime_paths runtime_pull_image container_min_memory no_sync_log default_annotations stream_websockets
		exec_cpu_affinity seccomp_profile container_create_timeout`)
	containersEngineKeys = strings.Fields("runtime conmon_path runtime_supports_json runtime_supports_nocgroup runtimes conmon_env_vars stop_timeout")
)

// installed gives where `make install` puts the programs.
func installed(t *testing.T) []string {
	t.Helper()
	makefile := read(t, "../Makefile")
	prefix := regexp.MustCompile(`(?m)^PREFIX\s*\?=\s*(\S+)$`).FindStringSubmatch(makefile)
	programs := regexp.MustCompile(`(?m)^PROGRAMS\s*:=\s*(.+)$`).FindStringSubmatch(makefile)
	if prefix == nil || programs == nil || !strings.Contains(makefile, "$(DESTDIR)$(PREFIX)/bin") {
		t.Fatal("the Makefile does not say where programs are installed")
	}
	var paths []string
	for _, p := range strings.Fields(programs[1]) {
		paths = append(paths, prefix[1]+"/bin/"+p)
	}
	return paths
}

func isInstalled(t *testing.T, path string) {
	t.Helper()
	if !slices.Contains(installed(t), path) {
		t.Errorf("%s is not where `make install` puts a program: %v", path, installed(t))
	}
}

// uncommented gives the text with the settings in comments switched on.
func uncommented(text string) string {
	return regexp.MustCompile(`(?m)^#(\w+ = )`).ReplaceAllString(text, "$1")
}

func TestCrioDropIn(t *testing.T) {
	for _, text := range []string{read(t, "deploy/50-gracerun-crio.conf"), uncommented(read(t, "deploy/50-gracerun-crio.conf"))} {
		var conf map[string]any
		if _, err := toml.Decode(text, &conf); err != nil {
			t.Fatal(err)
		}
		if len(conf) != 1 || len(at(t, conf, "crio/runtime/runtimes").(map[string]any)) != 1 {
			t.Errorf("%v, want one runtime and nothing else", conf)
		}
		h := at(t, conf, "crio/runtime/runtimes/gracerun").(map[string]any)
		for key := range h {
			if !slices.Contains(crioHandlerKeys, key) {
				t.Errorf("CRI-O documents no key %s of a runtime handler", key)
			}
		}
		isInstalled(t, h["runtime_path"].(string))
		isInstalled(t, h["monitor_path"].(string))
		if h["runtime_type"] != "oci" || !strings.HasSuffix(h["monitor_cgroup"].(string), ".slice") {
			t.Errorf("%v: want type oci and, with systemd cgroups, a slice for the monitor", h)
		}
	}
}

func TestContainersDropIn(t *testing.T) {
	var conf struct{ Engine map[string]any }
	if _, err := toml.Decode(read(t, "deploy/50-gracerun-containers.conf"), &conf); err != nil {
		t.Fatal(err)
	}
	for key := range conf.Engine {
		if !slices.Contains(containersEngineKeys, key) {
			t.Errorf("containers.conf(5) documents no key %s of [engine]", key)
		}
	}
	name := conf.Engine["runtime"].(string)
	paths := conf.Engine["runtimes"].(map[string]any)[name].([]any)
	isInstalled(t, paths[0].(string))
	isInstalled(t, conf.Engine["conmon_path"].([]any)[0].(string))
	if !slices.Contains(conf.Engine["runtime_supports_json"].([]any), any(name)) {
		t.Errorf("%s is not among the runtimes that log JSON", name)
	}
}

func TestConfig(t *testing.T) {
	text := read(t, "deploy/config.toml")
	got, err := settings.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := settings.Parse("")
	if err != nil {
		t.Fatal(err)
	}
	defaults.Runtime = got.Runtime
	if !reflect.DeepEqual(got, defaults) {
		t.Errorf("it says %+v, the defaults are %+v", got, defaults)
	}
	if _, err := toml.Decode(text, &map[string]any{}); err != nil {
		t.Errorf("it is no TOML: %v", err)
	}
}

func manifest(t *testing.T, name string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal([]byte(read(t, "deploy/"+name)), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// at follows a path of keys; a number of a list is "0".
func at(t *testing.T, v any, path string) any {
	t.Helper()
	for key := range strings.SplitSeq(path, "/") {
		switch c := v.(type) {
		case map[string]any:
			v = c[strings.ReplaceAll(key, "∕", "/")]
		case []any:
			v = c[0]
		default:
			v = nil
		}
	}
	if v == nil {
		t.Fatalf("there is no %s", path)
	}
	return v
}

func TestManifests(t *testing.T) {
	class, set := manifest(t, "runtimeclass.yaml"), manifest(t, "daemonset.yaml")
	if at(t, class, "apiVersion") != "node.k8s.io/v1" || at(t, class, "kind") != "RuntimeClass" {
		t.Errorf("not a RuntimeClass: %v", class)
	}
	if !strings.Contains(read(t, "deploy/50-gracerun-crio.conf"), "[crio.runtime.runtimes."+at(t, class, "handler").(string)+"]") {
		t.Errorf("CRI-O's drop-in has no handler %v", class["handler"])
	}
	if at(t, set, "apiVersion") != "apps/v1" || at(t, set, "kind") != "DaemonSet" {
		t.Errorf("not a DaemonSet: %v", set)
	}
	const label = "gracerun.io/try"
	if a, b := at(t, class, "scheduling/nodeSelector/"+escapedSlash(label)), at(t, set, "spec/template/spec/nodeSelector/"+escapedSlash(label)); a != b {
		t.Errorf("they choose different nodes: %v and %v", a, b)
	}
	if a, b := at(t, set, "spec/selector/matchLabels"), at(t, set, "spec/template/metadata/labels"); len(a.(map[string]any)) == 0 || !sameMap(a, b) {
		t.Errorf("the DaemonSet does not select its own pods: %v, %v", a, b)
	}
	c := at(t, set, "spec/template/spec/containers/0")
	if a, b := at(t, c, "volumeMounts/0/name"), at(t, set, "spec/template/spec/volumes/0/name"); a != b {
		t.Errorf("it mounts %v, the volume is %v", a, b)
	}
	command := at(t, c, "command").([]any)
	if got := at(t, set, "spec/template/spec/priorityClassName"); got != "system-node-critical" {
		t.Errorf("priority class %v: it may be evicted while containers need it", got)
	}
	_, tag, _ := strings.Cut(at(t, c, "image").(string), ":")
	if got := at(t, set, "spec/template/metadata/annotations/"+escapedSlash("gracerun.io/version")); got != tag || tag == "latest" {
		t.Errorf("the version is %v, the image's tag %s: another image is to be rolled out", got, tag)
	}
	if command[2] != at(t, c, "volumeMounts/0/mountPath") || filepath.Base(command[0].(string)) != "gracerun-node" {
		t.Errorf("command %v", command)
	}
	if image := at(t, c, "image").(string); !strings.Contains(read(t, "deploy/Containerfile"), "-t "+image+" ") {
		t.Errorf("the Containerfile does not say how to build %s", image)
	}
}

// escapedSlash: at splits at slashes, and labels have one.
func escapedSlash(label string) string { return strings.ReplaceAll(label, "/", "∕") }

func sameMap(a, b any) bool {
	x, y := a.(map[string]any), b.(map[string]any)
	for k, v := range x {
		if y[k] != v {
			return false
		}
	}
	return len(x) == len(y)
}

// TestContainerfile: what it copies is there once `make install` was run.
func TestContainerfile(t *testing.T) {
	for _, m := range regexp.MustCompile(`(?m)^COPY (\S+) \S+$`).FindAllStringSubmatch(read(t, "deploy/Containerfile"), -1) {
		if m[1] == "bin/image/" {
			continue // made by make install DESTDIR=
		}
		if _, err := os.Stat("../" + m[1]); err != nil {
			t.Error(err)
		}
	}
}

// TestNodeScript installs on a directory that stands for a node.
func TestNodeScript(t *testing.T) {
	from, host := t.TempDir(), t.TempDir()
	calls := filepath.Join(t.TempDir(), "calls")
	systemctl := filepath.Join(t.TempDir(), "systemctl")
	write(t, systemctl, "#!/bin/sh\necho \"$@\" >>"+calls+"\n", 0o755)
	for _, p := range installed(t) {
		write(t, filepath.Join(from, "bin", filepath.Base(p)), "program", 0o600)
	}
	write(t, filepath.Join(from, "share/gracerun/50-gracerun-crio.conf"), read(t, "deploy/50-gracerun-crio.conf"), 0o600)
	write(t, filepath.Join(from, "share/gracerun/gracerun-selinux"), "echo labels $* >>"+calls+"\n", 0o600)
	upgrade := filepath.Join(t.TempDir(), "upgrade")
	write(t, upgrade, "#!/bin/sh\necho upgrade \"$@\" >>"+calls+"\n", 0o755)
	environment := append(os.Environ(), "GRACERUN_FROM="+from, "GRACERUN_SYSTEMCTL="+systemctl, "GRACERUN_NODE_SHELL=sh", "GRACERUN_UPGRADE="+upgrade)
	run := func(verb string) string {
		t.Helper()
		cmd := exec.Command("sh", "deploy/gracerun-node", verb, host+"/")
		cmd.Env = environment
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", verb, err, out)
		}
		return string(out)
	}
	there := func(path string) bool {
		_, err := os.Stat(filepath.Join(host, path))
		return err == nil
	}
	const conf = "/etc/crio/crio.conf.d/50-gracerun.conf"

	run("install")
	run("install") // an update
	for _, p := range installed(t) {
		if st, err := os.Stat(filepath.Join(host, p)); err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", p, st, err)
		}
	}
	if !there(conf) {
		t.Error("CRI-O's drop-in is not there")
	}

	write(t, filepath.Join(host, "run/gracerun/KEY/ID/record"), "", 0o600)
	write(t, filepath.Join(host, "run/gracerun/.ended/ID/record"), "", 0o600)
	if out := run("remove"); !strings.Contains(out, "stay") || !there(conf) || !there("/usr/local/bin/gracerun") {
		t.Errorf("with a container: drop-in %v, program %v, want both; it said %q", there(conf), there("/usr/local/bin/gracerun"), out)
	}
	run("install") // the next version's pod
	// The DaemonSet's pod is ended.
	serve := exec.Command("sh", "deploy/gracerun-node", "serve", host+"/")
	serve.Env = environment
	said, err := serve.StderrPipe()
	if err == nil {
		err = serve.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() && !strings.Contains(lines.Text(), "installed") {
	}
	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := serve.Wait(); err != nil || !there(conf) || !there("/usr/local/bin/gracerun") {
		t.Errorf("TERM to serve with a container: %v, drop-in %v, program %v", err, there(conf), there("/usr/local/bin/gracerun"))
	}
	if err := os.RemoveAll(filepath.Join(host, "run/gracerun/KEY/ID")); err != nil {
		t.Fatal(err)
	}
	run("remove")
	for _, p := range installed(t) {
		if there(p) {
			t.Errorf("%s is left", p)
		}
	}
	const installed, upgraded = "labels add /usr/local/bin\nreload crio\n", "upgrade all\n"
	if got := read(t, calls); got != installed+installed+installed+upgraded+installed+upgraded+"reload crio\nlabels remove /usr/local/bin\n" {
		t.Errorf("systemctl and the node's shell were called with %q", got)
	}
	if out, err := exec.Command("sh", "deploy/gracerun-node", "explode", host).CombinedOutput(); err == nil || !strings.Contains(string(out), "want install, remove or serve") {
		t.Errorf("an unknown verb: %v, %s", err, out)
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// TestDeployNamesItsFiles: deploy.md names every file there is, and no other.
func TestDeployNamesItsFiles(t *testing.T) {
	text := read(t, "deploy.md")
	files, err := os.ReadDir("deploy")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) == ".go" {
			continue
		}
		if !strings.Contains(text, "`"+f.Name()+"`") && !strings.Contains(text, "deploy/"+f.Name()) {
			t.Errorf("deploy.md does not name %s", f.Name())
		}
	}
	for _, m := range regexp.MustCompile(`docs/deploy/([\w.-]+)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat("deploy/" + strings.TrimRight(m[1], ".")); err != nil {
			t.Errorf("deploy.md names %s: %v", m[0], err)
		}
	}
}
