package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gracerun.io/internal/testbed"
)

// Contexts of SELinux. A manager has the range of a service, CRI-O, or of the
// administrator who calls Podman, and so has what it starts.
const (
	crio       = "system_u:system_r:container_runtime_t:s0"
	podman     = "unconfined_u:unconfined_r:container_runtime_t:s0-s0:c0.c1023"
	plain      = "system_u:system_r:container_t:s0"
	categories = "system_u:system_r:container_t:s0:c1,c2"
)

// confinedCase is one container with an exec and one with a terminal.
type confinedCase struct{ name, runtime, monitor, keeper, manager, label, mountLabel string }

func (c confinedCase) String() string {
	return fmt.Sprintf("try %s %s %s %s '%s' %s %s", c.name, c.runtime, c.monitor, c.keeper, c.manager, c.label, c.mountLabel)
}

// check: what each of them is to have said, under whatever module.
func (c confinedCase) check(t *testing.T, said lines, label string) {
	t.Run(c.name, func(t *testing.T) {
		said.want(t, c.name+" label", label)
		said.want(t, c.name+" attached", "got hello line 1")
		said.want(t, c.name+" state", "running")
		said.want(t, c.name+" exec", "exec exec opened, exec err")
		said.want(t, c.name+" exit file", "7")
		said.want(t, c.name+" stdout", "out opened got hello reloaded stopped")
		said.want(t, c.name+" stderr", "err opened too")
		said.want(t, c.name+" lines", "whole")
		said.want(t, c.name+" terminal", "terminal opened hello typed hello, 3")
		said.want(t, c.name+" said", "")
		if c.monitor == "gracemon" {
			said.want(t, c.name+" stop", "code=7") // Linux 6.1 tells it only to who is there
			said.want(t, c.name+" supervisor", "killed")
			if c.keeper == "on" {
				said.want(t, c.name+" its successor", "sleeps")
			}
		}
	})
}

// runConfined boots a host with a security module.
func runConfined(t *testing.T, module string, files map[string]File, cases []confinedCase, before, afterwards string) lines {
	t.Helper()
	i := testImage(t)
	bin := t.TempDir()
	programs := []string{"gracerun", "gracemon", "gracelab", "gracerun-native"}
	for name, why := range testbed.Build(bin, programs...) {
		t.Fatal(name, why)
	}
	for _, name := range programs {
		files["gracelab/bin/"+name] = File{From: filepath.Join(bin, name), Mode: 0o755}
	}
	parameters := "LSM=" + module + "\ncases() {\n" + before + "\n"
	for _, c := range cases {
		parameters += "\t" + c.String() + "\n"
	}
	files["gracelab/parameters"] = File{Text: parameters + "}\nafterwards() {\n" + afterwards + "\n:\n}\n"}
	script, err := os.ReadFile("confined")
	if err != nil {
		t.Fatal(err)
	}
	got, err := i.Run(t.Context(), Job{Script: string(script), Files: files, Kernel: "security=" + module})
	if got != nil && (err != nil || testing.Verbose()) {
		t.Log(got.Took, "\n"+got.Output)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && !testing.Verbose() {
			t.Log("\n" + got.Output)
		}
	})
	said := lines{}
	for line := range strings.Lines(got.Output) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		said[name] = strings.TrimSpace(value)
	}
	return said
}

// TestSELinux: on a host that enforces the rules of Fedora and RHEL a container has
// all that it has elsewhere, whoever has started it, and the kernel denies nothing.
func TestSELinux(t *testing.T) {
	const mount, mountCategories = "system_u:object_r:container_file_t:s0", "system_u:object_r:container_file_t:s0:c1,c2"
	cases := []confinedCase{
		{"conmon", "runc", "conmon", "off", crio, plain, mount},
		{"crio", "runc", "gracemon", "on", crio, plain, mount},
		{"podman", "crun", "gracemon", "on", podman, categories, mountCategories},
		{"native", "gracerun-native", "gracemon", "off", podman, categories, mountCategories},
	}
	said := runConfined(t, "selinux", map[string]File{}, cases, `
	echo "mode: $(getenforce)"
	cp /run/gracelab/bin/* /usr/local/bin # install(1) would label them
	gracelab check | sed -n 's/^ *\([A-Z]*\) *\(.*\) has the label .*/check of \2: \1/p'
	restorecon -F /usr/local/bin/*
	for p in gracerun gracemon gracerun-native; do echo "label of $p: $(stat -c %C /usr/local/bin/$p)"; done
`, `
	echo "label of the state: $(stat -c %C /run/gracerun)"
	echo "check then: $(gracelab check | grep 'has the label')"
	as="runcon `+podman+`"
	# What the policy forbids: a named pipe of the state.
	$as mkfifo /run/gracerun/named
	exec 9<>/run/gracerun/named
	runcon `+categories+` $rootfs/bin/busybox sh -c 'echo through >&9'
	read -t 1 -u 9 line
	echo "named pipe: ${line:-nothing}"
	echo "denied for it: $(denials | grep -c fifo_file)"
	# A monitor that keeps the categories of who called Podman.
	chcon -t bin_t /usr/local/bin/gracemon
	GRACERUN_RUNTIME=crun case=wrong monitor=gracemon process_label=`+categories+` mount_label=`+mountCategories+`
	bundle wrong false other
	monitor wrong wrong
	until_ is_file /run/b/wrong/pid
	until_ started wrong
	until_ is_file /run/exits/wrong
	echo "wrong monitor: $(text wrong stdout) $(cat /run/exits/wrong)"
	ours delete --force wrong
`)
	said.want(t, "mode", "Enforcing")
	said.want(t, "label of gracerun", "system_u:object_r:container_runtime_exec_t:s0")
	said.want(t, "label of gracerun-native", "system_u:object_r:container_runtime_exec_t:s0")
	said.want(t, "label of gracemon", "system_u:object_r:conmon_exec_t:s0")
	said.want(t, "label of the state", "system_u:object_r:container_var_run_t:s0")
	for _, c := range cases {
		c.check(t, said, c.label)
	}
	said.want(t, "denials", "0")
	t.Run("check", func(t *testing.T) {
		said.want(t, "check of /usr/local/bin/gracemon", "HARM")
		said.want(t, "check of /usr/local/bin/gracerun", "WARNING")
		said.want(t, "check of /usr/local/bin/gracerun-native", "WARNING")
		said.want(t, "check then", "")
	})
	t.Run("the policy forbids something", func(t *testing.T) {
		said.want(t, "named pipe", "nothing")
		if n := said["denied for it"]; n == "" || n == "0" {
			t.Error("the kernel says nothing of the named pipe")
		}
		said.want(t, "wrong monitor", "5")
	})
}

// TestAppArmor: the same under profiles that name the paths a container may use, on
// which a file of the host, opened anew through /dev/stdout, is none.
func TestAppArmor(t *testing.T) {
	cases := []confinedCase{
		{"paths", "runc", "gracemon", "on", "", "by-path", ""},
		{"attached", "gracerun-native", "gracemon", "on", "", "by-path-attached", ""},
	}
	said := runConfined(t, "apparmor", map[string]File{"gracelab/profiles": {From: "policy/profiles"}}, cases, `
	install -m 0755 /run/gracelab/bin/* /usr/local/bin
	apparmor_parser --replace --skip-cache /run/gracelab/profiles
	echo "profiles: $(sed 's/ .*//' /sys/kernel/security/apparmor/profiles | sort | xargs)"
`, "")
	said.contain(t, "profiles", "by-path by-path-attached")
	for _, c := range cases {
		c.check(t, said, c.label+" (enforce)")
	}
	said.want(t, "denials", "0")
}
