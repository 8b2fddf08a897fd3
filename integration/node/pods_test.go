package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/crinode"
	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

// A podCase is a pod that is ended in some way.
type podCase struct {
	name  string
	about string
	save  time.Duration // that its program needs after TERM, for ten entries
	grace int           // of the pod, in seconds
	more  string        // of the container, in YAML
	two   bool          // a second container, which needs nothing
	again bool          // restartPolicy Always
	// end ends it; delete with the pod's own grace is the default.
	end func(c *cluster, name string) error
	// What ours must have saved of ten, and how often its program has heard TERM at
	// most: under observe, and under delegate and enforce, where the grace period has an
	// owner. The kubelet and CRI-O decide the same for stock.
	observe, owned expected
}

type expected struct {
	saved int // at least
	terms int // at most; 0: any number
}

var whole = expected{10, 1}

func (p *podCase) yaml(c *cluster, name string) string {
	restart := "Never"
	if p.again {
		restart = "Always"
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default}
spec:
  nodeName: %s
  hostNetwork: true
  restartPolicy: %s
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: %d
  tolerations: [{operator: Exists}]
  volumes: [{name: data, hostPath: {path: %s, type: Directory}}]
  containers:
`, name, nodeName, restart, p.grace, c.data(name))
	text += fmt.Sprintf(`  - name: main
    image: %s
    imagePullPolicy: Never
    command: [/bin/box, serve, -save, %s]
    volumeMounts: [{name: data, mountPath: /data}]
%s`, crinode.Image, p.save, p.more)
	if p.two {
		text += fmt.Sprintf("  - {name: second, image: %q, imagePullPolicy: Never, command: [/bin/box, serve]}\n", crinode.Image)
	}
	return text
}

// data is the directory that a pod sees as /data.
func (c *cluster) data(name string) string { return filepath.Join(c.Dir, "data", name) }

func remove(args ...string) func(c *cluster, name string) error {
	return func(c *cluster, name string) error {
		return c.kubectl(append([]string{"delete", "pod", name, "--wait=false"}, args...)...).err
	}
}

const stopsToAnswer = `    livenessProbe:
      exec: {command: [test, "!", -e, /data/%s]}
      periodSeconds: 1
      failureThreshold: 1
      terminationGracePeriodSeconds: %d
`

var podCases = []podCase{
	{
		name: "plain", about: "5 s to save, grace 30", save: 5 * time.Second, grace: 30,
		observe: whole, owned: whole,
	},
	{
		name: "prestop", about: "a preStop hook of 4 s before", save: 5 * time.Second, grace: 30,
		more:    "    lifecycle: {preStop: {exec: {command: [sleep, \"4\"]}}}\n",
		observe: whole, owned: whole,
	},
	{
		name: "two", about: "two containers", save: 5 * time.Second, grace: 30, two: true,
		observe: whole, owned: whole,
	},
	{
		name: "too-long", about: "20 s to save, grace 8: killed at its end", save: 20 * time.Second, grace: 8,
		observe: expected{3, 1}, owned: expected{3, 1},
	},
	{
		name: "shorter", about: "12 s to save, grace 60, delete --grace-period=5", save: 12 * time.Second, grace: 60,
		end:     remove("--grace-period=5"),
		observe: expected{3, 1}, owned: expected{3, 1},
	},
	{
		name: "longer", about: "12 s to save, grace 5, delete --grace-period=60", save: 12 * time.Second, grace: 5,
		end:     remove("--grace-period=60"),
		observe: whole, owned: whole,
	},
	{
		name: "twice", about: "12 s to save, delete, and 3 s later delete --grace-period=2", save: 12 * time.Second, grace: 60,
		end: func(c *cluster, name string) error {
			if err := remove()(c, name); err != nil {
				return err
			}
			if err := c.until("it is told", func() bool { return len(c.heard(name)) > 0 }); err != nil {
				return err
			}
			time.Sleep(3 * time.Second)
			return remove("--grace-period=2")(c, name)
		},
		observe: expected{2, 1}, owned: expected{2, 1},
	},
	{
		name: "force", about: "5 s to save, delete --force --grace-period=0", save: 5 * time.Second, grace: 30,
		end: remove("--force", "--grace-period=0"),
	},
	{
		name: "evicted", about: "5 s to save, by the eviction API", save: 5 * time.Second, grace: 30,
		end: func(c *cluster, name string) error {
			body := `{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "` + name + `", "namespace": "default"}}`
			return c.kubectlWith(body, "create", "--raw", "/api/v1/namespaces/default/pods/"+name+"/eviction", "-f", "-").err
		},
		observe: whole, owned: whole,
	},
	{
		name: "static", about: "a static pod whose manifest is removed", save: 5 * time.Second, grace: 30,
		end:     func(c *cluster, name string) error { return os.Remove(c.Dir + "/static/" + name + ".yaml") },
		observe: whole, owned: whole,
	},
	{
		name: "unwell", about: "5 s to save, a liveness probe that fails, with a grace of 20 of its own", save: 5 * time.Second, grace: 60, again: true,
		more: fmt.Sprintf(stopsToAnswer, "unwell", 20),
		end: func(c *cluster, name string) error {
			return os.WriteFile(c.data(name)+"/unwell", nil, 0o644)
		},
		observe: expected{saved: 10}, owned: expected{saved: 10},
	},
	{
		name: "unwell-when-stopped", about: "5 s to save, and a probe with a grace of 2 that fails as soon as it is told to stop", save: 5 * time.Second, grace: 30,
		more:    fmt.Sprintf(stopsToAnswer, "heard", 2),
		observe: whole, owned: whole,
	},
}

// make makes a pod, and waits until its program runs.
func (c *cluster) make(p *podCase, name string) error {
	if err := os.MkdirAll(c.data(name), 0o777); err != nil {
		return err
	}
	text := p.yaml(c, name)
	if p.name == "static" {
		if err := os.WriteFile(c.Dir+"/static/"+name+".yaml", []byte(text), 0o644); err != nil {
			return err
		}
	} else if err := c.kubectlWith(text, "create", "-f", "-").err; err != nil {
		return err
	}
	return c.until("pod "+name+" runs", func() bool { return strings.Contains(c.text(name, "said"), "ready") })
}

func (c *cluster) text(name, file string) string {
	text, _ := os.ReadFile(filepath.Join(c.data(name), file))
	return string(text)
}

// heard gives when TERM has reached a pod's program, on CLOCK_MONOTONIC.
func (c *cluster) heard(name string) (at []time.Duration) {
	for line := range strings.Lines(c.text(name, "heard")) {
		signal, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if ns, err := strconv.ParseInt(text, 10, 64); err == nil && signal == "SIGTERM" {
			at = append(at, time.Duration(ns))
		}
	}
	return at
}

func (c *cluster) saved(name string) int { return strings.Count(c.text(name, "ledger"), "\n") }

// gone waits until no container of the pod runs, or the pod has begun anew.
func (c *cluster) gone(name string, began time.Duration) error {
	return c.until("pod "+name+" has ended", func() bool {
		if strings.Count(c.text(name, "said"), "ready") > 1 {
			return true
		}
		pods := c.runningPods()
		return !slices.Contains(pods, name)
	})
}

// runningPods names the pods that have a running container, as CRI-O has it.
func (c *cluster) runningPods() (names []string) {
	cmd := c.Crictl(bounded(), "ps", "--output", "json")
	out, err := cmd.Output()
	if err != nil {
		return []string{"unknown"}
	}
	return podNames(out)
}

// now is CLOCK_MONOTONIC.
func now() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return time.Duration(t.Nano())
}

// monitors gives the monitors of all containers of the cluster.
func (c *cluster) monitors() (pids []int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(line), c.Dir+"/run/overlay-containers/") {
			continue
		}
		program, _, _ := strings.Cut(string(line), "\x00")
		if base := filepath.Base(program); base == "conmon" || base == "gracemon" {
			pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// signalMonitors sends all monitors a signal.
func (c *cluster) signalMonitors(sig signals.Signal) error {
	for _, pid := range c.monitors() {
		if fd, err := process.Open(pid); err == nil {
			_ = fd.Send(sig)
			fd.Close()
		}
	}
	return nil
}

// killAll has the runtime send KILL to all containers, as somebody does who is neither
// CRI-O nor a caller of it. The runtime's answer may come only when they have ended.
func (c *cluster) killAll() error {
	ids, err := c.Crictl(bounded(), "ps", "--quiet").Output()
	if err != nil {
		return err
	}
	all := strings.Fields(string(ids))
	return errors.Join(beside(len(all), func(i int) error {
		out, err := c.Command(bounded(), c.Called(), "--root", c.Root(), "kill", all[i], "KILL").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("kill: %w: %s", err, out)
		}
		return err
	})...)
}

// restartCRIO kills CRI-O and starts it anew.
func (c *cluster) restartCRIO() error {
	if err := c.EndCRIO(syscall.SIGKILL); err != nil {
		return err
	}
	return c.StartCRIO()
}

// restartKubelet kills the kubelet and starts it anew.
func (c *cluster) restartKubelet() error {
	c.kubelet.end(syscall.SIGKILL)
	return c.startKubelet()
}
