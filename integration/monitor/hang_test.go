package monitor

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
)

// ioctls of linux/fs.h.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// disk is a file system of its own, which the test can freeze: whoever writes to it
// then is in uninterruptible sleep.
type disk struct {
	t  *testing.T
	fd int // of its top
}

// disk gives the container's stack a mount namespace with an ext4 file system at
// DIR/disk.
func (c *container) disk() *disk {
	c.t.Helper()
	d := &disk{t: c.t, fd: -1}
	image, top := c.dir+"/image", c.dir+"/disk"
	c.must(os.WriteFile(image, nil, 0o600))
	c.must(os.Truncate(image, 24<<20))
	c.must(os.Mkdir(top, 0o755))
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		c.t.Skipf("no ext4 file system can be made here: %v: %s", err, out)
	}
	ns, path, err := testbed.MountNamespace(func() error {
		if out, err := exec.Command("mount", "-o", "loop", image, top).CombinedOutput(); err != nil {
			return fmt.Errorf("mount: %w: %s", err, out)
		}
		var err error
		d.fd, err = unix.Open(top, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		c.t.Skipf("no loop device can be mounted here: %v", err)
	}
	own := *c.stack
	own.namespace = path
	c.stack = &own
	c.t.Cleanup(func() {
		unix.Close(d.fd)
		unix.Close(ns)
	})
	return d
}

// path is that of a file on it, for this process.
func (d *disk) path(name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", d.fd, name) }

// freeze keeps everybody from writing to it until thaw is called, or the test ends.
func (d *disk) freeze() (thaw func()) {
	d.t.Helper()
	if err := unix.IoctlSetInt(d.fd, fiFreeze, 0); err != nil {
		d.t.Skipf("the file system cannot be frozen here: %v", err)
	}
	thaw = sync.OnceFunc(func() {
		if err := unix.IoctlSetInt(d.fd, fiThaw, 0); err != nil {
			d.t.Error(err)
		}
	})
	d.t.Cleanup(thaw)
	return thaw
}

// frozenWriter writes lines, more of them when DIR/go is there, and says so in
// DIR/written.
const frozenWriter = `
trap 'echo usr1' USR1
trap 'echo bye; exit 3' TERM
i=0
while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done
while ! [ -e /data/go ]; do sleep 0.02; done
while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done
touch /data/written
while :; do sleep 0.02; done`

// writesOn has the writer go on, and waits until it has written all.
func (c *container) writesOn() {
	c.t.Helper()
	c.must(os.WriteFile(c.dir+"/go", nil, 0o644))
	c.until("the container has written everything", func() bool {
		_, err := os.Stat(c.dir + "/written")
		return err == nil
	})
}

// wholeLog expects each line of the writer once and in order, and these after them.
func (c *container) wholeLog(last ...string) {
	c.t.Helper()
	lines := c.lines()
	n := 0
	var rest []string
	for _, line := range lines {
		if text, ok := strings.CutPrefix(line, "stdout F line "); ok && text == strconv.Itoa(n) {
			n++
		} else {
			rest = append(rest, line)
		}
	}
	if n != 3000 || fmt.Sprint(rest) != fmt.Sprint(last) {
		c.t.Errorf("%d lines in order, and %q; want 3000, and %q", n, rest, last)
	}
}

// promptly makes a request that must be answered at once.
func (c *container) promptly(request, want string) {
	c.t.Helper()
	begin := time.Now()
	if got := c.ask(request); !strings.HasPrefix(got, want) {
		c.t.Errorf("%s: %s, want %s", request, got, want)
	}
	if took := time.Since(begin); took > 5*time.Second {
		c.t.Errorf("%s took %v", request, took)
	}
}

// writesFrozen runs the writer with a log on a disk that is frozen by then.
func writesFrozen(t *testing.T) (c *container, thaw func()) {
	ours, _ := stacks("runc")
	ours.need(t)
	c = ours.container(t, frozenWriter)
	d := c.disk()
	c.log = c.dir + "/disk/log"
	c.started()
	c.log = d.path("log")
	c.says("line 299")
	thaw = d.freeze()
	c.writesOn()
	return c, thaw
}

// A log whose file system does not answer holds up neither the container nor what is
// done to it, nor its end; and has everything when it answers again.
func TestLogHangs(t *testing.T) {
	c, thaw := writesFrozen(t)
	c.promptly("state", "state status=running")
	c.promptly("signal USR1", "delivered")
	c.promptly("stop grace=30s", "ended code=3")
	begin := time.Now()
	if got := c.exitFile(); got != "3" {
		t.Errorf("the exit file has %s", got)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the exit file took %v", took)
	}
	thaw()
	c.gone()
	c.wholeLog("stdout F usr1", "stdout F bye")
}

// The log hangs for a while only, longer than it is waited for.
func TestLogHangsAndComesBack(t *testing.T) {
	c, thaw := writesFrozen(t)
	time.Sleep(6 * time.Second) // until it counts as trouble
	c.promptly("signal USR1", "delivered")
	thaw()
	c.says("usr1")
	c.promptly("stop grace=30s", "ended code=3")
	c.exitFile()
	c.gone()
	c.wholeLog("stdout F usr1", "stdout F bye")
}

// A supervisor that is killed while its log hangs cannot end: somebody else goes on
// all the same, and the log is exact.
func TestKilledWhileItsLogHangs(t *testing.T) {
	c, thaw := writesFrozen(t)
	c.promptly("state", "state status=running")
	undead := c.monitor
	c.must(unix.Kill(undead, unix.SIGKILL))
	out, err := c.stack.command(c.dir, c.stack.monitor, "--recover", c.state().Path()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.until("the successor has written its number", func() bool {
		text, _ := os.ReadFile(c.dir + "/conmon-pidfile")
		c.monitor, _ = strconv.Atoi(string(text))
		return c.monitor != undead && c.monitor != 0
	})
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", undead)); err != nil {
		t.Errorf("the supervisor has ended: nothing shows that its successor did not need that: %v", err)
	}
	c.promptly("signal USR1", "delivered")
	c.promptly("stop grace=30s", "ended code=3")
	if got := c.exitFile(); got != "3" {
		t.Errorf("the exit file has %s", got)
	}
	thaw()
	c.gone()
	c.wholeLog("stdout F usr1", "stdout F bye")
}
