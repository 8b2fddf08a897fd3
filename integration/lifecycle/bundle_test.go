package lifecycle

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// idle says "ready", answers USR1, and ends with status 7 on TERM.
const idle = `
trap 'echo TERM; exit 7' TERM
trap 'echo USR1' USR1
echo ready
while :; do sleep 1000 & wait $!; done`

// cgroupParent is above the cgroups of all containers here.
const cgroupParent = "gracerun-lifecycle"

// newConfig makes a root file system that borrows the programs of the host, and
// the configuration of a container that runs idle in it.
//
// It sets no resources: where version 1 controllers are mounted, cgroup2 has
// none, and a runtime would have to fail.
func newConfig(t *testing.T, bundle, id string) *specs.Spec {
	rootfs := filepath.Join(bundle, "rootfs")
	for _, dir := range []string{"proc", "dev", "usr", "etc", "tmp", "hooks"} {
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		target := "usr/" + dir
		if _, err := os.Stat("/" + target); err != nil {
			continue
		}
		if err := os.Symlink(target, filepath.Join(rootfs, dir)); err != nil {
			t.Fatal(err)
		}
	}
	return &specs.Spec{
		Version:     "1.0.2",
		Hostname:    "lifecycle",
		Annotations: map[string]string{"org.example.key": "value = 1", "org.example.empty": ""},
		Root:        &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Cwd:  "/",
			Env:  []string{"PATH=/usr/bin:/bin"},
			Args: []string{"/bin/sh", "-c", idle},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/usr", Type: "bind", Source: "/usr", Options: []string{"bind", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + cgroupParent + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
		},
	}
}

// cgroupsOf gives the cgroups of that container, in every hierarchy: one for each
// version 1 controller, and that of version 2.
func cgroupsOf(id string) (dirs []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		found, err := filepath.Glob(pattern + cgroupParent + "/" + id)
		if err != nil {
			panic(err) // the pattern is malformed
		}
		dirs = append(dirs, found...)
	}
	return dirs
}

// removeCgroups removes the parents when all containers are gone.
func removeCgroups() {
	for _, dir := range cgroupsOf("") {
		os.Remove(dir)
	}
}
