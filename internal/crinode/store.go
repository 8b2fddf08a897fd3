package crinode

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Store makes a store of images in dir/store, with busybox and package box under
// each of the names, and gives its path.
func Store(programs Programs, dir string, names ...string) (store string, err error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("busybox is not installed (make deps)")
	}
	root, archive := filepath.Join(dir, "rootfs"), filepath.Join(dir, "box.tar")
	for _, name := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "run", "data"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return "", err
		}
	}
	for name, text := range map[string]string{"passwd": "root:x:0:0:root:/:/bin/sh\n", "group": "root:x:0:\n"} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	for _, cmd := range []*exec.Cmd{
		exec.Command("cp", busybox, root+"/bin/busybox"),
		exec.Command("chroot", root, "/bin/busybox", "--install", "-s", "/bin"),
		exec.Command("cp", programs.Dir+"/box", root+"/bin/box"),
		exec.Command("ln", root+"/bin/box", root+"/bin/pause"),
		exec.Command("tar", "-C", root, "-cf", archive, "."),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
	}
	return ImportAll(dir, archive, append([]string{Image}, names...)...)
}

// ImportAll makes a store in dir/store of one archive of a root file system under
// several names, with Debian's podman, and leaves the machine's own stores alone.
func ImportAll(dir, archive string, names ...string) (store string, err error) {
	p, err := newPlace(dir, false)
	if err != nil {
		return "", err
	}
	defer p.close()
	store = filepath.Join(dir, "store")
	podman := []string{"--root", store, "--runroot", dir + "/podman-run", "--tmpdir", dir + "/podman-tmp", "--storage-driver", "overlay"}
	call := func(args ...string) (string, error) {
		cmd := p.command(context.Background(), dir, "podman", append(append([]string{}, podman...), args...)...)
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("podman %v: %w: %s", args, err, said.String())
		}
		return strings.TrimSpace(string(out)), err
	}
	id, err := call("import", "--quiet", "-c", `CMD ["/bin/sh"]`, archive, names[0])
	if err != nil {
		return "", err
	}
	for _, name := range names[1:] {
		if _, err := call("tag", id, name); err != nil {
			return "", err
		}
	}
	return store, nil
}
