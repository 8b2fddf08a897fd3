// Package debian runs programs in clean Debian systems: a release that was installed
// into a directory, on which each [System] works as if it were its own, with process
// numbers, mounts, a network and a host name that nobody else has. It is for what a
// package does to a machine, and for programs that one would not install for a test.
//
// There is no systemd in a System: the cgroups are the machine's, in a group of its
// own.
package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrMissing is wrapped by errors that say what this machine lacks.
var ErrMissing = errors.New("no Debian system here")

// packages are those of the systems: what it takes to boot one, a program for images,
// and a container engine of each kind.
var packages = map[string][]string{
	"bookworm": append([]string{"docker.io"}, common...),
	"trixie":   append([]string{"docker.io", "docker-cli"}, common...),
}

var common = []string{"mount", "catatonit", "busybox-static", "ca-certificates", "podman", "crun", "runc", "conmon", "containerd"}

// Tree is an installed release. Nothing writes to it.
type Tree struct {
	Release string
	dir     string
}

// Get gives a release ("bookworm", "trixie") in a directory below cache, and installs it
// there from the mirror that apt on this machine uses if it is not there: a minute or
// two and some 100 MiB. Two calls at once make one tree.
func Get(ctx context.Context, cache, release string) (*Tree, error) {
	if err := missing(); err != nil {
		return nil, err
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	list := strings.Join(packages[release], ",")
	t := &Tree{release, filepath.Join(cache, fmt.Sprintf("%s-%.6x", release, sha256.Sum256([]byte(list))))}
	lock, err := os.OpenFile(t.dir+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(t.dir); err == nil {
		return t, nil
	}
	from, err := mirror(ctx)
	if err != nil {
		return nil, err
	}
	made := t.dir + ".new"
	if err := os.RemoveAll(made); err != nil {
		return nil, err
	}
	// The suite's own manuals and translations are left out; what a package under
	// test brings is not.
	_, err = run(ctx, "mmdebstrap", "--quiet", "--variant=minbase", "--include="+list, "--components=main",
		"--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\"", "--aptopt=Acquire::Retries \"3\"",
		"--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/locale/*", "--customize-hook=rm \"$1\"/etc/dpkg/dpkg.cfg.d/99mmdebstrap",
		release, made, from)
	if err != nil {
		os.RemoveAll(made)
		return nil, fmt.Errorf("%w: %s cannot be installed: %w", ErrMissing, release, err)
	}
	return t, os.Rename(made, t.dir)
}

func missing() error {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return fmt.Errorf("%w: only root can make one", ErrMissing)
	}
	for _, program := range []string{"mmdebstrap", "apt-get", "unshare", "nsenter", "pivot_root"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: %s not found (make deps)", ErrMissing, program)
		}
	}
	return nil
}

// mirror gives the address from which apt on this machine takes Debian's packages.
func mirror(ctx context.Context) (string, error) {
	out, err := run(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Component: main")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "security") {
			return line, nil
		}
	}
	return "", fmt.Errorf("%w: apt on this machine knows no Debian mirror", ErrMissing)
}

// run runs a program that ends with this process, and gives what it prints.
func run(ctx context.Context, name string, args ...string) (string, error) {
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	// The kernel takes the thread for the parent (prctl(2), PR_SET_PDEATHSIG).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}
