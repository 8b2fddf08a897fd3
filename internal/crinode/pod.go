package crinode

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Mount binds a path of the machine into a container.
type Mount struct {
	HostPath      string `json:"host_path"`
	ContainerPath string `json:"container_path"`
	Readonly      bool   `json:"readonly"`
}

// Container is a pod with one container, on the host's network.
type Container struct {
	Node    *Node
	Name    string // of the pod, unique on the node
	Command []string
	Mounts  []Mount
	Grace   int    // seconds, as the kubelet says
	HostPID bool   // shares the host's pid namespace
	Memory  int64  // limit in bytes; 0: none
	Dir     string // for its configuration, and its log

	Pod, ID string // once it is created
	Pid     int
}

// Log is the container's log, in the k8s-file format.
func (c *Container) Log() string { return filepath.Join(c.Dir, "main.log") }

// Exit is the file in which the monitor records the exit.
func (c *Container) Exit() string { return filepath.Join(c.Node.Dir, "exits", c.ID) }

// Bundle is the directory of its bundle.
func (c *Container) Bundle() string {
	return filepath.Join(c.Node.Dir, "run/overlay-containers", c.ID, "userdata")
}

// Create has CRI-O create pod and container.
func (c *Container) Create(ctx context.Context) error {
	namespaces := map[string]int{"pid": 1, "network": 2}
	if c.HostPID {
		namespaces["pid"] = 2
	}
	security := map[string]any{"namespace_options": namespaces}
	linux := map[string]any{"security_context": security}
	if c.Memory > 0 {
		linux["resources"] = map[string]any{"memory_limit_in_bytes": c.Memory, "memory_swap_limit_in_bytes": c.Memory}
	}
	podFile, file := filepath.Join(c.Dir, "pod.json"), filepath.Join(c.Dir, "container.json")
	for path, config := range map[string]any{
		podFile: map[string]any{
			"metadata":      map[string]any{"name": c.Name, "namespace": "default", "uid": c.Name, "attempt": 0},
			"log_directory": c.Dir,
			"linux":         map[string]any{"cgroup_parent": c.Node.Cgroup + "/" + c.Name, "security_context": security},
		},
		file: map[string]any{
			"metadata":    map[string]any{"name": "main", "attempt": 0},
			"image":       map[string]any{"image": Image},
			"command":     c.Command,
			"mounts":      c.Mounts,
			"log_path":    filepath.Base(c.Log()),
			"annotations": map[string]string{"io.kubernetes.pod.terminationGracePeriod": fmt.Sprint(c.Grace)},
			"linux":       linux,
		},
	} {
		text, err := json.Marshal(config)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	var err error
	if c.Pod, err = c.Node.ask(ctx, "runp", podFile); err != nil {
		return err
	}
	if c.ID, err = c.Node.ask(ctx, "create", c.Pod, file, podFile); err != nil {
		return err
	}
	text, err := c.Node.ask(ctx, "inspect", c.ID)
	if err != nil {
		return err
	}
	var known struct{ Info struct{ Pid int } }
	err = json.Unmarshal([]byte(text), &known)
	c.Pid = known.Info.Pid
	return err
}

// Start has CRI-O start it.
func (c *Container) Start(ctx context.Context) error {
	_, err := c.Node.ask(ctx, "start", c.ID)
	return err
}

// Stop has CRI-O stop it within a timeout in seconds.
func (c *Container) Stop(ctx context.Context, timeout int) error {
	_, err := c.Node.ask(ctx, "stop", "--timeout", fmt.Sprint(timeout), c.ID)
	return err
}

// ExitCode is how it has ended, as CRI-O knows it.
func (c *Container) ExitCode(ctx context.Context) (code int, exited bool, err error) {
	text, err := c.Node.ask(ctx, "inspect", c.ID)
	if err != nil {
		return 0, false, err
	}
	var known struct {
		Status struct {
			State    string
			ExitCode int
		}
	}
	err = json.Unmarshal([]byte(text), &known)
	return known.Status.ExitCode, known.Status.State == "CONTAINER_EXITED", err
}

// ask calls crictl and gives what it prints. The error is what it says.
func (n *Node) ask(ctx context.Context, args ...string) (string, error) {
	var said strings.Builder
	cmd := n.Crictl(ctx, args...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("crictl %s: %w: %s", args[0], err, strings.Join(strings.Fields(said.String()), " "))
	}
	return strings.TrimSpace(string(out)), err
}
