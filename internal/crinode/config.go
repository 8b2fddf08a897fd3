package crinode

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Image is the image of all containers, the pause container's too: busybox and
// package box.
const Image = "localhost/box:1"

// configure writes what CRI-O and the programs beneath it read.
func (n *Node) configure() error {
	for _, dir := range []string{"bin", "exits", "attach", "ns", "logs", "cni", "state", "data"} {
		if err := os.MkdirAll(filepath.Join(n.Dir, dir), 0o755); err != nil {
			return err
		}
	}
	runtime, err := n.front()
	if err != nil {
		return err
	}
	called := runtime
	if n.Stack.Ours() {
		called = n.Stack.Shim
	}
	files := map[string]string{
		"crio.conf":                n.crioConf(called),
		"policy.json":              `{"default": [{"type": "insecureAcceptAnything"}]}`,
		"cni/10-bridge.conflist":   bridge,
		"crictl.yaml":              fmt.Sprintf("runtime-endpoint: unix://%s\nimage-endpoint: unix://%s\ntimeout: 120\n", n.Socket(), n.Socket()),
		"etc/gracerun/config.toml": "runtime = \"" + runtime + "\"\n",
	}
	if n.Stack.Policy != "" {
		files["etc/gracerun/config.toml"] += "[stop]\npolicy = \"" + n.Stack.Policy + "\"\n"
	}
	files["etc/gracerun/config.toml"] += "[annotations]\npolicies = [\"observe\", \"delegate\", \"enforce\"]\n"
	for name, text := range files {
		path := filepath.Join(n.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// front writes the script that stands before the runtime, stock's and ours alike,
// and makes of a bundle what this machine can run.
func (n *Node) front() (path string, err error) {
	if n.Stack.Plain {
		return n.Stack.Runtime, nil
	}
	path = filepath.Join(n.Dir, "bin", filepath.Base(n.Stack.Runtime))
	lower := filepath.Join(n.Programs.Dir, "lowered")
	if !n.Stack.Resources() {
		lower += " --no-resources"
	}
	if !n.Stack.knowsVersion() {
		lower += " --version=1.0.2"
	}
	script := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *\" create \"* | *\" exec \"*) %s \"$@\" || exit 1 ;; esac\nexec %s \"$@\"\n", lower, n.Stack.Runtime)
	return path, os.WriteFile(path, []byte(script), 0o755)
}

// Socket is where CRI-O listens.
func (n *Node) Socket() string { return filepath.Join(n.Dir, "crio.sock") }

func (n *Node) crioConf(runtime string) string {
	env := []string{}
	for _, name := range []string{"GRACEMON_SLEEP", "GRACEMON_KEEPER"} {
		if value, set := os.LookupEnv(name); set {
			env = append(env, fmt.Sprintf("%q", name+"="+value))
		}
	}
	for _, variable := range n.Stack.Env {
		env = append(env, fmt.Sprintf("%q", variable))
	}
	dir := n.Dir
	return fmt.Sprintf(`[crio]
root = "%[1]s/root"
runroot = "%[1]s/run"
storage_driver = "overlay"
log_dir = "%[1]s/logs"
version_file = "%[1]s/version"
version_file_persist = ""
clean_shutdown_file = "%[1]s/clean.shutdown"
internal_wipe = false
internal_repair = false
[crio.api]
listen = "%[1]s/crio.sock"
stream_address = "127.0.0.1"
stream_port = "0"
[crio.runtime]
default_runtime = "tried"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
apparmor_profile = "unconfined"
container_exits_dir = "%[1]s/exits"
container_attach_socket_dir = "%[1]s/attach"
namespaces_dir = "%[1]s/ns"
pinns_path = "%[2]s/pinns"
hooks_dir = []
decryption_keys_path = ""
drop_infra_ctr = true
log_level = "info"
irqbalance_config_file = ""
irqbalance_config_restore_file = "disable"
[crio.runtime.runtimes.tried]
runtime_path = "%[3]s"
runtime_type = "oci"
runtime_root = "%[1]s/state"
monitor_path = "%[4]s"
monitor_cgroup = "pod"
monitor_env = [%[5]s]
[crio.image]
pause_image = "%[6]s"
pause_command = "/bin/pause"
signature_policy = "%[1]s/policy.json"
signature_policy_dir = "%[1]s/policies"
[crio.network]
network_dir = "%[1]s/cni"
plugin_dirs = ["/usr/lib/cni"]
[crio.metrics]
enable_metrics = true
metrics_host = "127.0.0.1"
metrics_port = 9090
`, dir, n.Programs.Dir, runtime, n.Stack.Monitor, strings.Join(env, ", "), Image)
}

// bridge is the network of pods that have one of their own.
const bridge = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.85.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`
