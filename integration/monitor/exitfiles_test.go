package monitor

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
)

// full has a directory of the container be on a file system without room for any file;
// what it gives makes room.
func (c *container) full(dir string) (room func(), path func(name string) string) {
	c.t.Helper()
	fd := -1
	ns, space, err := testbed.MountNamespace(func() (err error) {
		if err = unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,nr_inodes=1"); err == nil {
			fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		return err
	})
	if err != nil {
		c.t.Skipf("no mount namespace with a tmpfs: %v", err)
	}
	c.t.Cleanup(func() { unix.Close(fd); unix.Close(ns) })
	own := *c.stack
	own.namespace = space
	c.stack = &own
	return func() {
		if out, err := exec.Command("nsenter", "--mount="+space, "mount", "-o", "remount,nr_inodes=100", dir).CombinedOutput(); err != nil {
			c.t.Fatalf("%v: %s", err, out)
		}
	}, func(name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", fd, name) }
}

// A full persist directory keeps the exit file out of nothing.
func TestPersistDirectoryIsFull(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done")
	c.full(c.dir + "/persist")
	c.started()
	c.says("ready")
	c.promptly("stop grace=30s", "ended code=3")
	if got := c.exitFile(); got != "3" {
		t.Errorf("the exit file has %s", got)
	}
	c.gone()
}

// A full exit directory does not keep the container from being deleted; the exit file
// is written when there is room.
func TestExitDirectoryIsFull(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	for name, request := range map[string]string{"waits": "delete force", "comes later": "delete"} {
		t.Run(name, func(t *testing.T) {
			c := ours.container(t, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done")
			room, path := c.full(c.exits)
			c.started()
			c.says("ready")
			if request == "delete" {
				c.call("kill", c.id, "TERM")
				c.until("it has ended", func() bool { return !running(c.pid()) })
			}
			c.promptly(request, "granted")
			c.call("delete", c.id)
			if _, err := os.Stat(path(c.id)); !os.IsNotExist(err) {
				t.Fatalf("there is an exit file: %v", err)
			}
			room()
			c.until("the exit file is written", func() bool {
				text, err := os.ReadFile(path(c.id))
				return err == nil && (string(text) == "3" || string(text) == "137")
			})
			c.gone()
		})
	}
}

// hangs has a directory of the container be on a file system that can be frozen.
func (c *container) hangs(dir string) *disk {
	c.t.Helper()
	d := c.disk()
	c.must(os.Remove(dir))
	c.must(os.Symlink(c.dir+"/disk", dir))
	return d
}

// A persist directory whose file system does not answer keeps nobody waiting.
func TestPersistDirectoryHangs(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done")
	d := c.hangs(c.dir + "/persist")
	c.started()
	c.says("ready")
	thaw := d.freeze()
	c.promptly("stop grace=30s", "ended code=3")
	begin := time.Now()
	if got := c.exitFile(); got != "3" {
		t.Errorf("the exit file has %s", got)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the exit file took %v", took)
	}
	c.call("delete", c.id)
	thaw() // a thread of the supervisor is in the kernel until then
	c.gone()
}

// An exit directory whose file system does not answer does not keep the container from
// being deleted; the exit file is written when it answers again.
func TestExitDirectoryHangs(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	for name, request := range map[string]string{"waits": "delete force", "comes later": "delete"} {
		t.Run(name, func(t *testing.T) {
			c := ours.container(t, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done")
			d := c.hangs(c.exits)
			c.started()
			c.says("ready")
			thaw := d.freeze()
			if request == "delete" {
				c.call("kill", c.id, "TERM")
				c.until("it has ended", func() bool { return !running(c.pid()) })
			}
			c.promptly(request, "granted")
			c.promptly("state", "state status=stopped")
			c.call("delete", c.id)
			thaw()
			c.until("the exit file is written", func() bool {
				text, err := os.ReadFile(d.path(c.id))
				return err == nil && (string(text) == "3" || string(text) == "137")
			})
			c.gone()
		})
	}
}
