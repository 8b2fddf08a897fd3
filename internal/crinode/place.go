package crinode

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A place is the namespaces that a node is in: mounts, network, host name and IPC
// objects of its own, so that several nodes with the same paths and ports fit on
// one machine, and none of them touches it. It lasts as long as anything in it.
type place struct {
	holder *exec.Cmd
	input  io.Closer // the holder ends with it, and so with this process
	pid    string
}

// newPlace makes it. What is written to /etc and /var goes to dir: CNI plugins and
// the kubelet have fixed places there.
func newPlace(dir string, cgroup2 bool) (*place, error) {
	for _, name := range []string{"/etc", "/etc.work", "/var", "/var.work"} {
		if err := os.MkdirAll(dir+name, 0o755); err != nil {
			return nil, err
		}
	}
	script := `set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns
for each in etc var; do
	mount -t overlay -o lowerdir=/$each,upperdir="$1/$each",workdir="$1/$each.work" overlay /$each
done
[ -z "$2" ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
echo ready
exec cat > /dev/null`
	which := ""
	if cgroup2 {
		which = "cgroup2"
	}
	p := &place{holder: exec.Command("/bin/sh", "-c", script, "crinode", dir, which)}
	p.holder.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	var said strings.Builder
	p.holder.Stderr = &said
	input, err := p.holder.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := p.holder.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.holder.Start(); err != nil {
		return nil, fmt.Errorf("namespaces for a node: %w", err)
	}
	p.input, p.pid = input, fmt.Sprint(p.holder.Process.Pid)
	if _, err := bufio.NewReader(output).ReadString('\n'); err != nil {
		input.Close()
		_ = p.holder.Wait()
		return nil, fmt.Errorf("namespaces for a node: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return p, nil
}

// command gives a call of a program in the place.
func (p *place) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	enter := []string{"--target", p.pid, "--mount", "--net", "--uts", "--ipc", "--wdns=" + dir, program}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// path gives how a file of the place is reached from outside.
func (p *place) path(path string) string { return "/proc/" + p.pid + "/root" + path }

func (p *place) close() {
	p.input.Close()
	_ = p.holder.Wait()
}
