// Package crinode runs a real CRI-O, in namespaces of its own, over a stack of
// monitor and runtime: stock or ours. The integration tests, critest, the node
// with a kubelet and `gracelab reproduce --under crio` stand on it.
//
// CRI-O and crictl are built by integration/crio/programs/build, at the versions
// that the modules there pin.
package crinode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Patience is how long anything may take before a caller should give up. Nothing
// takes a tenth of it on a machine that has other work to do.
const Patience = 3 * time.Minute

// Programs are crio, crictl, pinns, lowered and box, in one directory.
type Programs struct{ Dir string }

// Find gives the programs of a directory, or says what is missing there.
func Find(dir string) (Programs, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Programs{}, err
	}
	for _, name := range []string{"crio", "crictl", "pinns", "lowered", "box"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return Programs{}, fmt.Errorf("%s is not in %s (integration/crio/programs/build)", name, dir)
		}
	}
	for _, name := range []string{"nsenter", "podman", "busybox", "ip"} {
		if _, err := exec.LookPath(name); err != nil {
			return Programs{}, fmt.Errorf("%s is not installed (make deps)", name)
		}
	}
	return Programs{dir}, nil
}

// Node is a CRI-O over a stack.
type Node struct {
	Dir      string // everything of it
	Stack    *Stack
	Programs Programs
	Cgroup   string // above the cgroups of all its pods, beneath the mount point

	place *place

	mu   sync.Mutex
	crio *exec.Cmd
	dead chan struct{} // closed when that has ended
}

var counter atomic.Int64

// New makes a node in a directory that must have a short path, since sockets are
// beneath it, and starts its CRI-O. store is what Store has made.
func New(programs Programs, stack *Stack, dir, store string) (n *Node, err error) {
	if stack.Missing != "" {
		return nil, errors.New(stack.Missing)
	}
	n = &Node{Dir: dir, Stack: stack, Programs: programs}
	n.Cgroup = fmt.Sprintf("/gracerun-crio-%d-%d", os.Getpid(), counter.Add(1))
	if err := n.configure(); err != nil {
		return nil, err
	}
	if out, err := exec.Command("cp", "-a", store, dir+"/root").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy images: %w: %s", err, out)
	}
	if n.place, err = newPlace(dir, stack.cgroup2()); err != nil {
		return nil, err
	}
	if err := n.StartCRIO(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Command gives a call of a program on the node.
func (n *Node) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return n.place.command(ctx, n.Dir, program, args...)
}

// Crictl gives a call of crictl on the node.
func (n *Node) Crictl(ctx context.Context, args ...string) *exec.Cmd {
	return n.Command(ctx, n.Programs.Dir+"/crictl", append([]string{"--config", n.Dir + "/crictl.yaml"}, args...)...)
}

// Path gives how a file of the node is reached from here: /run and /etc are its
// own.
func (n *Node) Path(path string) string { return n.place.path(path) }

// Namespace is the node's mount namespace, to be entered.
func (n *Node) Namespace() string { return "/proc/" + n.place.pid + "/ns/mnt" }

// Called is the runtime as CRI-O calls it, and Root the directory of its state.
func (n *Node) Called() string {
	switch {
	case n.Stack.Ours():
		return n.Stack.Shim
	case n.Stack.Plain:
		return n.Stack.Runtime
	}
	return filepath.Join(n.Dir, "bin", filepath.Base(n.Stack.Runtime))
}

func (n *Node) Root() string { return filepath.Join(n.Dir, "state") }

// StartCRIO starts CRI-O, and waits until it answers.
func (n *Node) StartCRIO() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	log, err := os.OpenFile(n.CRIOLog(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := n.Command(context.Background(), n.Programs.Dir+"/crio", "--config", n.Dir+"/crio.conf", "--config-dir", n.Dir+"/none")
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), n.Stack.Env...)
	// Ctrl-C is for whoever called us: the node is taken down in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	dead := make(chan struct{})
	go func() { _ = cmd.Wait(); close(dead) }()
	n.crio, n.dead = cmd, dead
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-dead:
			return fmt.Errorf("crio has ended: %s", n.lastWords())
		default:
		}
		if conn, err := net.Dial("unix", n.Socket()); err == nil {
			conn.Close()
			return nil
		}
	}
	return fmt.Errorf("crio does not listen: %s", n.lastWords())
}

// CRIOLog is where CRI-O says what it does.
func (n *Node) CRIOLog() string { return filepath.Join(n.Dir, "crio.log") }

func (n *Node) lastWords() string {
	text, _ := os.ReadFile(n.CRIOLog())
	return strings.TrimSpace(string(text[max(0, len(text)-2000):]))
}

// EndCRIO sends CRI-O a signal and waits for its end.
func (n *Node) EndCRIO(sig syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.crio == nil {
		return nil
	}
	_ = n.crio.Process.Signal(sig)
	select {
	case <-n.dead:
	case <-time.After(Patience):
		_ = n.crio.Process.Kill()
		<-n.dead
		return fmt.Errorf("crio did not end after %s: %s", sig, n.lastWords())
	}
	n.crio = nil
	return nil
}

// CRIOPid is CRI-O's process, 0 while there is none.
func (n *Node) CRIOPid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.crio == nil {
		return 0
	}
	return n.crio.Process.Pid
}

// Close removes all pods, ends CRI-O, and gives up namespaces and cgroups.
func (n *Node) Close() error {
	var errs []error
	if n.CRIOPid() != 0 {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if out, err := n.Crictl(ctx, "rmp", "--all", "--force").CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("rmp --all --force: %w: %s", err, out))
		}
		errs = append(errs, n.EndCRIO(syscall.SIGTERM))
	}
	if n.place != nil {
		n.place.close()
	}
	return errors.Join(append(errs, n.removeCgroups())...)
}

// removeCgroups waits until what was in them has ended, for a while.
func (n *Node) removeCgroups() (err error) {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err = nil
		for _, cgroup := range n.Cgroups() {
			if removed := os.Remove(cgroup); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
				err = errors.Join(err, removed)
			}
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// Cgroups gives the directories of the node's cgroups, the innermost first.
func (n *Node) Cgroups() (all []string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + n.Cgroup)
	for _, root := range append(roots, "/sys/fs/cgroup"+n.Cgroup) {
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				all = append(all, path)
			}
			return nil
		})
	}
	slices.Reverse(all)
	return all
}
