package testbed

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// cgroupParent is above the cgroups of all containers of the testbed.
const cgroupParent = "gracelab"

// Rootfs makes a root file system that borrows the programs of the host: /usr is
// to be bound into it.
func Rootfs(dir string) error {
	for _, name := range []string{"proc", "dev", "usr", "etc", "tmp", "data", "hooks"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if _, err := os.Stat("/usr/" + name); err != nil {
			continue
		}
		if err := os.Symlink("usr/"+name, filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// Spec is the configuration of a container that runs argv in such a root.
//
// It sets no resources: where version 1 controllers are mounted, cgroup2 has
// none, and a runtime would have to fail.
func Spec(cgroup string, argv ...string) *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}, Args: argv},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/usr", Type: "bind", Source: "/usr", Options: []string{"bind", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
		},
	}
}

// writeBundle makes the container's bundle, as CRI-O makes it.
func (c *Container) writeBundle() error {
	if err := Rootfs(filepath.Join(c.bundle, "rootfs")); err != nil {
		return err
	}
	spec := Spec("/"+cgroupParent+"/"+c.ID, "/bin/sh", "/data/workload")
	spec.Hostname = "testbed"
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/data", Type: "bind", Source: c.Data, Options: []string{"bind", "rw"},
	})
	// CRI-O copies the pod's grace period from the kubelet (seconds).
	spec.Annotations = map[string]string{
		"io.kubernetes.pod.terminationGracePeriod": strconv.Itoa(int(c.Grace.Seconds())),
		"io.gracerun.grace":                        c.Grace.String(),
	}
	if c.HostPID {
		spec.Linux.Namespaces = spec.Linux.Namespaces[1:]
	}
	if c.Memory > 0 {
		spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &c.Memory, Swap: &c.Memory}}
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.bundle, "config.json"), text, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Data, "workload"), []byte(prelude+c.Workload), 0o755)
}

// prelude is what every workload begins with. What it has said, and what it could
// not write to its output, it notes where no monitor is needed to read it.
const prelude = `say() {
  if echo "$1" 2> /dev/null; then echo "$1" >> /data/said; else echo "$1" >> /data/unsaid; fi
}
`
