package testbed

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// onCgroup2 says whether /sys/fs/cgroup is a cgroup2 mount, as crun wants it.
func onCgroup2() bool {
	var fs unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// Cgroup2Namespace makes a mount namespace in which /sys/fs/cgroup is a cgroup2
// mount, for crun on a hybrid host; nothing changes for the machine. It gives a
// path by which the namespace can be entered as long as this process lives.
var Cgroup2Namespace = sync.OnceValues(func() (string, error) {
	_, path, err := MountNamespace(func() error {
		return os.NewSyscallError("mount cgroup2", unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""))
	})
	return path, err
})

// MountNamespace makes a mount namespace whose mounts nobody outside sees, and has
// it prepared from within. The path is one by which it can be entered as long as
// this process has the descriptor open.
func MountNamespace(prepare func() error) (fd int, path string, err error) {
	made := make(chan error)
	go func() {
		// The thread ends with this goroutine; it is good for nothing else now.
		runtime.LockOSThread()
		made <- func() error {
			// A thread may change its namespace once it shares no file system
			// attributes with the others.
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return os.NewSyscallError("mount / private", err)
			}
			if err := prepare(); err != nil {
				return err
			}
			var err error
			fd, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			return os.NewSyscallError("open the namespace", err)
		}()
	}()
	err = <-made
	return fd, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), err
}
