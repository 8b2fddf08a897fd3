package host

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// stage1 is PID 1 until the disk is there. systemd leaves alone what it finds
// mounted on /run.
const stage1 = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
while read m; do $b insmod /modules/$m || echo "stage 1: cannot load $m"; done </modules/order
n=0
until [ -b /dev/vda ] || [ $n = 100 ]; do $b sleep 0.1; n=$((n + 1)); done
$b mount -t ext4 /dev/vda /root || { echo "stage 1: no disk"; $b poweroff -f; }
$b mount -t tmpfs -o mode=0755 run /root/run
$b cp -a /job/. /root/run/
exec $b switch_root /root /lib/systemd/systemd
`

// writeInitrd writes the archive that the kernel unpacks and starts from.
func (i *Image) writeInitrd(to string, job Job) error {
	busybox, err := os.ReadFile(i.path("busybox"))
	if err != nil {
		return err
	}
	var a cpio
	for _, dir := range []string{"bin", "dev", "root", "modules"} {
		a.dir(dir)
	}
	a.file("init", 0o755, []byte(stage1))
	a.file("bin/busybox", 0o755, busybox)
	order, err := os.ReadFile(i.path("modules", "order"))
	if err != nil {
		return err
	}
	a.file("modules/order", 0o644, order)
	for _, m := range strings.Fields(string(order)) {
		text, err := os.ReadFile(i.path("modules", m))
		if err != nil {
			return err
		}
		a.file("modules/"+m, 0o644, text)
	}

	files := maps.Clone(job.Files)
	if files == nil {
		files = map[string]File{}
	}
	files["gracelab/script"] = File{Text: job.Script}
	files["gracelab/start"] = File{Text: start}
	files["systemd/system/gracelab.service"] = File{Text: service}
	a.dir("job")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		if !fs.ValidPath(name) {
			return fmt.Errorf("file %q of the job is not a path below /run", name)
		}
		text := []byte(f.Text)
		if f.From != "" {
			if text, err = os.ReadFile(f.From); err != nil {
				return err
			}
		}
		mode := f.Mode
		if mode == 0 {
			mode = 0o644
		}
		a.parents("job/" + name)
		a.file("job/"+name, mode, text)
	}
	return os.WriteFile(to, a.finish(), 0o600)
}

// cpio is an archive in the "newc" format, as the kernel unpacks it
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	buf   bytes.Buffer
	made  map[string]bool
	inode int
}

func (a *cpio) dir(name string) {
	if a.made == nil {
		a.made = map[string]bool{}
	}
	if !a.made[name] {
		a.made[name] = true
		a.entry(name, 0o040755, nil)
	}
}

// parents makes the directories above a file.
func (a *cpio) parents(name string) {
	if dir := path.Dir(name); dir != "." {
		a.parents(dir)
		a.dir(dir)
	}
}

func (a *cpio) file(name string, mode os.FileMode, text []byte) {
	a.entry(name, 0o100000|uint32(mode.Perm()), text)
}

func (a *cpio) entry(name string, mode uint32, text []byte) {
	a.inode++
	fmt.Fprintf(&a.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(text), 0, 0, 0, 0, len(name)+1, 0)
	io.WriteString(&a.buf, name+"\x00")
	a.pad()
	a.buf.Write(text)
	a.pad()
}

func (a *cpio) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

func (a *cpio) finish() []byte {
	a.entry("TRAILER!!!", 0, nil)
	return a.buf.Bytes()
}

// path gives the place of one of the image's files.
func (i *Image) path(elements ...string) string {
	return filepath.Join(append([]string{i.dir}, elements...)...)
}
