package podman

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A host is a mount namespace with a /run of its own, so that containers, state
// directories and sockets of this test meet nobody else's, and with a
// systemd-journald that runs for this test alone.
type host struct {
	cgroup2 bool // mount cgroup2 on /sys/fs/cgroup, which crun wants

	make    sync.Once
	path    string // of the namespace, to be entered
	err     error  // why there is none
	journal string // why there is no journald, "" if there is
	daemon  *exec.Cmd
}

var hosts = map[bool]*host{false: {}, true: {cgroup2: true}}

func (h *host) ready() error {
	h.make.Do(func() {
		if h.path, h.err = h.unshare(); h.err == nil {
			h.journal = h.startJournal()
		}
	})
	return h.err
}

func (h *host) unshare() (path string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread ends with this goroutine: it is good for nothing else now.
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			err = os.NewSyscallError("unshare", err)
			return
		}
		mounts := []struct {
			source, target, kind string
			flags                uintptr
		}{{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE}, {"tmpfs", "/run", "tmpfs", 0}}
		if h.cgroup2 {
			mounts = append(mounts, struct {
				source, target, kind string
				flags                uintptr
			}{"cgroup2", "/sys/fs/cgroup", "cgroup2", 0})
		}
		for _, m := range mounts {
			if err = unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
				err = fmt.Errorf("mount %s: %w", m.target, err)
				return
			}
		}
		for _, dir := range []string{"/run/systemd/journal", "/run/log/journal", "/run/lock"} {
			if err = os.MkdirAll(dir, 0o755); err != nil {
				return
			}
		}
		var fd int
		fd, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	}()
	<-done
	return path, err
}

// command gives a call of a program on the host.
func (h *host) command(dir, program string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--mount=" + h.path, "--wdns=" + dir, program}, args...)...)
	cmd.Dir = dir
	return cmd
}

// startJournal gives the reason if there is no journal.
func (h *host) startJournal() string {
	program := "/lib/systemd/systemd-journald"
	if _, err := os.Stat(program); err != nil {
		return "systemd-journald is not installed"
	}
	if _, err := os.Stat("/etc/machine-id"); err != nil {
		return "there is no /etc/machine-id, which systemd-journald needs"
	}
	h.daemon = h.command("/", program)
	if err := h.daemon.Start(); err != nil {
		return err.Error()
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if h.command("/", "test", "-S", "/run/systemd/journal/socket").Run() == nil {
			return ""
		}
	}
	return "systemd-journald does not come up"
}

func (h *host) stop() {
	if h.daemon != nil {
		_ = h.daemon.Process.Signal(unix.SIGTERM)
		_ = h.daemon.Wait()
	}
}

// rootfs makes a root file system of busybox, and gives the archive of it.
func rootfs(dir string) (archive string, err error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("busybox is not installed (make deps)")
	}
	root := filepath.Join(dir, "rootfs")
	for _, name := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return "", err
		}
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(root, "bin/notify"), "./notify")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	archive = filepath.Join(dir, "rootfs.tar")
	for _, cmd := range []*exec.Cmd{
		build,
		exec.Command("cp", busybox, root+"/bin/busybox"),
		exec.Command("chroot", root, "/bin/busybox", "--install", "-s", "/bin"),
		exec.Command("sh", "-c", "echo root:x:0:0:root:/:/bin/sh > "+root+"/etc/passwd"),
		exec.Command("tar", "-C", root, "-cf", archive, "."),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
	}
	return archive, nil
}
