package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/docs/deploy"
)

// Image is the disk, the kernel and its modules, in a directory.
type Image struct {
	dir  string
	lock *os.File // while it is made: of who makes it, and of the programs that do
}

const (
	release      = "bookworm" // crun 1.8.1, the one of cri-o issue 8609
	newerRelease = "trixie"   // crun 1.21, where it is fixed
	diskMiB      = 700        // sparse
	diskName     = "gracelab"

	// Of the image, so that one that an older version of this package made is
	// not taken for its own. Change it with what the image holds.
	imageFormat = "4"
)

// imageVersion is the format's, and that of the files which are worked into it.
var imageVersion = fmt.Sprintf("%s %.8x", imageFormat, sha256.Sum256([]byte(containerPolicy+deploy.SELinux)))

// packages of the host; mmdebstrap adds what they depend on.
var packages = []string{"systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "kmod", "crun", "runc", "conmon", "podman", "uidmap",
	"selinux-policy-default", "policycoreutils", "policycoreutils-python-utils", "selinux-utils", "apparmor"}

// Where programs are on the host, beside those of Debian in /usr/bin.
const (
	NewerCrun = "/opt/" + newerRelease + "/usr/bin/crun" // trixie's, with its own libc
	Rootfs    = "/srv/rootfs"                            // a root file system for containers: busybox
)

// Get gives the image in directory dir and makes it if it is not there, which
// takes a minute and 100 MiB from the mirror that apt on this machine uses. Two
// calls at once make one image. The error wraps [ErrMissing] where this machine
// lacks something.
func Get(ctx context.Context, dir string) (*Image, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	i := &Image{dir: dir}
	if i.complete() {
		return i, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if i.complete() {
		return i, nil
	}
	if err := i.replace(ctx, lock); err != nil {
		return nil, fmt.Errorf("make the test host's disk in %s: %w", dir, err)
	}
	return i, nil
}

// replace makes the image beside its place and moves it there when it is whole.
func (i *Image) replace(ctx context.Context, lock *os.File) error {
	entries, err := os.ReadDir(i.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(i.path("version")); err != nil && len(entries) > 0 {
		return errors.New("there is something else in it, which is not ours to remove")
	}
	made := &Image{i.dir + ".new", lock}
	defer os.RemoveAll(made.dir)
	if err := made.build(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(i.dir); err != nil {
		return err
	}
	return os.Rename(made.dir, i.dir)
}

func (i *Image) complete() bool {
	version, err := os.ReadFile(i.path("version"))
	return err == nil && string(version) == imageVersion
}

// Missing says what this machine lacks for a test host; nil means nothing.
func Missing() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("%w: its disk is made for amd64 only, this is %s", ErrMissing, runtime.GOARCH)
	}
	var absent []string
	for _, program := range []string{emulator, "mmdebstrap", "mke2fs", "patchelf", "busybox", "apt-get", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			absent = append(absent, program)
		}
	}
	if absent != nil {
		return fmt.Errorf("%w: %s not found; integration/install-deps installs what is needed", ErrMissing, strings.Join(absent, ", "))
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: only root can make its disk", ErrMissing)
	}
	return nil
}

func (i *Image) build(ctx context.Context) error {
	if err := os.RemoveAll(i.dir); err != nil {
		return err
	}
	for _, dir := range []string{"modules", "tree"} {
		if err := os.MkdirAll(i.path(dir), 0o755); err != nil {
			return err
		}
	}
	defer os.RemoveAll(i.path("tree"))
	mirror, err := i.mirror(ctx)
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context, string) error{i.unpackKernel, i.installHost, i.addNewerCrun, i.addRootfs, i.addPolicy, i.makeDisk} {
		if err := step(ctx, mirror); err != nil {
			return err
		}
	}
	return os.WriteFile(i.path("version"), []byte(imageVersion), 0o644)
}

// mirror gives the address from which apt on this machine takes its packages.
func (i *Image) mirror(ctx context.Context) (string, error) {
	for _, filter := range []string{"Codename: " + release, "Origin: Debian"} {
		out, err := i.run(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", filter)
		if err != nil {
			return "", err
		}
		if first, _, _ := strings.Cut(out, "\n"); first != "" {
			return first, nil
		}
	}
	return "", errors.New("apt on this machine knows no Debian mirror")
}

// unpackKernel gets Debian's kernel for virtual machines without installing it.
func (i *Image) unpackKernel(ctx context.Context, mirror string) error {
	tree := i.path("tree", "kernel")
	if err := i.mmdebstrap(ctx, "extract", "linux-image-cloud-amd64", release, tree, mirror); err != nil {
		return err
	}
	kernels, _ := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if len(kernels) != 1 {
		return fmt.Errorf("package linux-image-cloud-amd64: %d kernels in it, want one", len(kernels))
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	if err := os.Rename(kernels[0], i.path("vmlinuz")); err != nil {
		return err
	}
	files, err := loadOrder(filepath.Join(tree, "lib/modules", version, "kernel"), modulesOfDisk)
	if err != nil {
		return err
	}
	var order strings.Builder
	for _, file := range files {
		if err := os.Rename(file, i.path("modules", filepath.Base(file))); err != nil {
			return err
		}
		fmt.Fprintln(&order, filepath.Base(file))
	}
	return os.WriteFile(i.path("modules", "order"), []byte(order.String()), 0o644)
}

func (i *Image) installHost(ctx context.Context, mirror string) error {
	tree := i.path("tree", "root")
	if err := i.mmdebstrap(ctx, "minbase", strings.Join(packages, ","), release, tree, mirror); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"hostname":   diskName + "\n",
		"fstab":      "",
		"machine-id": "9e0bd6d2b5c64a2d8f1c3d6a7e5b4c21\n", // any: without one systemd sets the host up anew at each boot
	} {
		if err := os.WriteFile(filepath.Join(tree, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// addNewerCrun puts the next release's crun with all its libraries beside the
// host's own, and writes into it where they are.
func (i *Image) addNewerCrun(ctx context.Context, mirror string) error {
	tree := i.path("tree", "root", "opt", newerRelease)
	if err := i.mmdebstrap(ctx, "extract", "crun", newerRelease, tree, mirror); err != nil {
		return err
	}
	const lib = "/opt/" + newerRelease + "/usr/lib/x86_64-linux-gnu"
	_, err := i.run(ctx, "patchelf", "--set-interpreter", lib+"/ld-linux-x86-64.so.2", "--force-rpath", "--set-rpath", lib,
		i.path("tree", "root", NewerCrun))
	return err
}

func (i *Image) addRootfs(ctx context.Context, _ string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := isStatic(busybox); err != nil {
		return err
	}
	text, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	bin := i.path("tree", "root", Rootfs, "bin")
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(i.path("tree", "root", Rootfs, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for _, to := range []string{i.path("busybox"), filepath.Join(bin, "busybox")} {
		if err := os.WriteFile(to, text, 0o755); err != nil {
			return err
		}
	}
	for _, applet := range []string{"sh", "sleep", "cat", "echo", "true", "kill", "date", "sync"} {
		if err := os.Symlink("busybox", filepath.Join(bin, applet)); err != nil {
			return err
		}
	}
	return nil
}

func isStatic(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static: install busybox-static", program)
		}
	}
	return nil
}

//go:embed policy/container.cil
var containerPolicy string

// addPolicy adds the rules for containers to Debian's SELinux policy, the contexts of
// gracerun's programs as `make install` adds them, and labels all files. It takes
// effect where the kernel's command line chooses SELinux.
func (i *Image) addPolicy(ctx context.Context, _ string) error {
	root := i.path("tree", "root")
	for name, text := range map[string]string{"etc/selinux/container.cil": containerPolicy, "etc/selinux/gracerun-selinux": deploy.SELinux} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	const steps = `set -e
semodule --noreload --install=/etc/selinux/container.cil
sh /etc/selinux/gracerun-selinux add /usr/local/bin
sed -i s/^SELINUX=.*/SELINUX=enforcing/ /etc/selinux/config
setfiles -F -m /etc/selinux/default/contexts/files/file_contexts /`
	_, err := i.run(ctx, "unshare", "--mount", "--propagation=private", "sh", "-c",
		`mount -t proc proc "$0/proc" && PATH=/usr/sbin:/usr/bin exec chroot "$0" sh -c "$1"`, root, steps)
	return err
}

func (i *Image) makeDisk(ctx context.Context, _ string) error {
	_, err := i.run(ctx, "mke2fs", "-q", "-t", "ext4", "-L", diskName, "-O", "^has_journal", "-d", i.path("tree", "root"),
		i.path("root.ext4"), fmt.Sprintf("%dM", diskMiB))
	return err
}

// mmdebstrap unpacks or installs packages of a release into a directory. The
// manuals and translations are left out, and so is fsync: a tree that the
// machine's crash leaves half written is made anew.
func (i *Image) mmdebstrap(ctx context.Context, variant, include, release, to, mirror string) error {
	_, err := i.run(ctx, "mmdebstrap", "--quiet", "--variant="+variant, "--include="+include,
		"--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\"", "--aptopt=Acquire::Retries \"3\"",
		"--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*", release, to, mirror)
	return err
}

// run runs a program that takes part in making the image, and gives what it prints.
// It holds the lock, too: one that is still about to end when its caller was killed
// is not to be met by the next.
func (i *Image) run(ctx context.Context, name string, args ...string) (string, error) {
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.ExtraFiles = []*os.File{i.lock}
	if err := runBound(cmd); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}
