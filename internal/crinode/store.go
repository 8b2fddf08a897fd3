package crinode

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A NamedImage is a name under which a store has busybox and package box.
type NamedImage struct {
	Name   string
	Change string // of its configuration, as in a Containerfile; "": a shell is its command
}

// Store makes a store of images in dir/store, Image and the others, and gives its
// path.
func Store(programs Programs, dir string, others ...NamedImage) (store string, err error) {
	return StoreBy("overlay", programs, dir, others...)
}

// StoreBy makes it for another storage driver.
func StoreBy(driver string, programs Programs, dir string, others ...NamedImage) (store string, err error) {
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
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	for _, cmd := range []*exec.Cmd{
		exec.Command("cp", busybox, root+"/bin/busybox"),
		exec.Command("chroot", root, "/bin/busybox", "--install", "/bin"),
		exec.Command("cp", programs.Dir+"/box", root+"/bin/box"),
		exec.Command("ln", root+"/bin/box", root+"/bin/pause"),
		exec.Command("ln", root+"/bin/box", root+"/bin/nginx"),
		exec.Command("ln", "-f", root+"/bin/box", root+"/bin/pgrep"),
		exec.Command("ln", "-f", root+"/bin/box", root+"/bin/ipcs"),
		exec.Command("cp", programs.Dir+"/box", root+"/bin/nnp"),
		exec.Command("chmod", "4755", root+"/bin/nnp"),
		exec.Command("tar", "-C", root, "-cf", archive, "."),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
	}
	return importAll(driver, dir, archive, append([]NamedImage{{Name: Image}}, others...))
}

// Users and groups of the images, as the images of critest have them.
const (
	passwd = "root:x:0:0:root:/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
	group  = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"
)

// importAll makes a store in dir/store, with Debian's podman, and leaves the
// machine's own stores alone.
func importAll(driver, dir, archive string, images []NamedImage) (store string, err error) {
	p, err := newPlace(dir, false)
	if err != nil {
		return "", err
	}
	defer p.close()
	store = filepath.Join(dir, "store")
	podman := []string{"--root", store, "--runroot", dir + "/podman-run", "--tmpdir", dir + "/podman-tmp", "--storage-driver", driver}
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
	ids := map[string]string{} // of a change
	for _, image := range images {
		change := image.Change
		if change == "" {
			change = `CMD ["/bin/sh"]`
		}
		if ids[change] != "" {
			_, err = call("tag", ids[change], image.Name)
		} else {
			ids[change], err = call("import", "--quiet", "-c", change, archive, image.Name)
		}
		if err != nil {
			return "", err
		}
	}
	return store, nil
}
