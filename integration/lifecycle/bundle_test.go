package lifecycle

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gracerun.io/internal/testbed"
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
func newConfig(t *testing.T, bundle, id string) *specs.Spec {
	if err := testbed.Rootfs(filepath.Join(bundle, "rootfs")); err != nil {
		t.Fatal(err)
	}
	spec := testbed.Spec("/"+cgroupParent+"/"+id, "/bin/sh", "-c", idle)
	spec.Hostname = "lifecycle"
	spec.Annotations = map[string]string{"org.example.key": "value = 1", "org.example.empty": ""}
	return spec
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
