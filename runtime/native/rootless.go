package native

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/userns"
	"github.com/opencontainers/cgroups/systemd"
)

// An ordinary user may run containers in a user namespace, with or without
// being root of one already (rootless Podman starts the runtime as such).
// State then belongs under $XDG_RUNTIME_DIR, and the cgroup may be out of reach.

func defaultRoot() string {
	if dir := userRuntimeDir(); dir != "" {
		return dir + "/" + program
	}
	return "/run/" + program
}

// userRuntimeDir gives $XDG_RUNTIME_DIR if the state belongs there. In a user
// namespace $USER tells root of a container, whose /run is its own, from a user
// who has made the namespace to be root in it.
func userRuntimeDir() string {
	if os.Geteuid() == 0 && (!userns.RunningInUserNS() || os.Getenv("USER") == "root") {
		return ""
	}
	return os.Getenv("XDG_RUNTIME_DIR")
}

// keepRuntimeDir makes the default state directory of a user and sets its sticky
// bit, without which a cleaner may remove it when it looks old (XDG Base
// Directory Specification, "XDG_RUNTIME_DIR").
func keepRuntimeDir(root string) error {
	if userRuntimeDir() == "" {
		return nil
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("state directory in $XDG_RUNTIME_DIR: %w (it must be writable, or give --root)", err)
	}
	return os.Chmod(root, 0o700|os.ModeSticky)
}

// rootlessCgroups says whether errors of cgroups are to be ignored because the
// user cannot help them.
func rootlessCgroups(g *globals) (bool, error) {
	if g.rootless != "" && !strings.EqualFold(g.rootless, "auto") {
		return strconv.ParseBool(g.rootless)
	}
	switch {
	case os.Geteuid() != 0:
		return true, nil
	case !userns.RunningInUserNS():
		return false, nil
	case g.systemdCgroup:
		// Root of the namespace may have a systemd of its own in it, which
		// belongs to uid 0 and makes cgroups as it is told.
		owner, err := systemd.DetectUID()
		return err == nil && owner != 0, nil
	}
	return true, nil
}
