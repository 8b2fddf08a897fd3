package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gracerun.io/runtime"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/settings"
)

// Container is a container that runs under a conmon or a gracemon.
type Container struct {
	ID      string    `json:"id"`
	Pid     int       `json:"pid,omitempty"`        // 0: not known
	Monitor string    `json:"monitor"`              // the monitor's program
	Signal  string    `json:"stopSignal,omitempty"` // "": not known
	Grace   string    `json:"grace,omitempty"`      // likewise
	Scope   string    `json:"scope,omitempty"`
	Found   []Finding `json:"findings,omitempty"`
}

// containers finds the monitors that run, by their command line: every engine
// gives them the container's id, bundle and pid file.
func containers(ctx context.Context, systemd bool) []Container {
	var found []Container
	seen := map[string]bool{}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		m, ok := parseMonitor(strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"))
		if !ok || seen[m.bundle] {
			continue
		}
		seen[m.bundle] = true
		found = append(found, m.look(ctx, systemd))
	}
	return found
}

// Find looks for a running container by its id, or the beginning of it.
func Find(ctx context.Context, id string) (Container, error) {
	var found []Container
	for _, c := range containers(ctx, false) {
		if strings.HasPrefix(c.ID, id) && c.Pid > 0 {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return Container{}, fmt.Errorf("no container %s runs under conmon or gracemon", id)
	case 1:
		return found[0], nil
	}
	return Container{}, fmt.Errorf("%d containers have ids that begin with %s", len(found), id)
}

// monitor is what a monitor's command line says.
type monitor struct{ program, id, bundle, pidFile string }

// parseMonitor reads the command line of a process; ok if it is a monitor of a
// container, not of an exec.
func parseMonitor(argv []string) (m monitor, ok bool) {
	m.program = filepath.Base(argv[0])
	if m.program != "conmon" && m.program != "gracemon" {
		return m, false
	}
	wanted := map[string]*string{
		"-c": &m.id, "--cid": &m.id, "-b": &m.bundle, "--bundle": &m.bundle,
		"-p": &m.pidFile, "--container-pidfile": &m.pidFile,
	}
	for i := 1; i < len(argv); i++ {
		key, value, joined := strings.Cut(argv[i], "=")
		if key == "-e" || key == "--exec" {
			return m, false
		}
		into := wanted[key]
		switch {
		case into == nil:
		case joined:
			*into = value
		case i+1 < len(argv):
			i++
			*into = argv[i]
		}
	}
	if m.pidFile == "" && m.bundle != "" {
		m.pidFile = m.bundle + "/pidfile"
	}
	return m, m.id != "" && m.bundle != ""
}

func (m monitor) look(ctx context.Context, systemd bool) Container {
	c := Container{ID: m.id, Monitor: m.program}
	text, err := os.ReadFile(m.pidFile)
	if err == nil {
		c.Pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil {
		c.add(Warning, "", "its pid is not known: "+err.Error())
	}
	spec, stop, err := readBundle(m.bundle)
	if err != nil {
		c.add(Warning, "", "its stop signal and grace period are not known: "+err.Error())
	} else {
		c.Signal, c.Grace = stop.Signal.String(), stop.Grace.String()
	}
	if c.Pid > 0 {
		c.lookAtInit(stop)
		c.lookAtCgroup(spec, stop, ctx, systemd)
	}
	return c
}

// String says in one line what is known of the container, and what is not.
func (c Container) String() string {
	text := shortID(c.ID) + "  "
	if c.Pid > 0 {
		text += "pid " + strconv.Itoa(c.Pid)
	} else {
		text += "pid not known"
	}
	text += ", " + c.Monitor + ", "
	if c.Signal != "" {
		text += c.Signal + " in " + c.Grace
	} else {
		text += "stop signal and grace period not known"
	}
	if c.Scope != "" {
		text += ", " + c.Scope
	}
	return text
}

// shortID is how engines show the ids they make, 64 digits long.
func shortID(id string) string {
	if len(id) == 64 {
		return id[:12]
	}
	return id
}

// readBundle reads what the container's engine asks for; the Spec is nil if that is
// not known.
func readBundle(dir string) (*specs.Spec, settings.Stop, error) {
	text, err := os.ReadFile(dir + "/config.json")
	if err != nil {
		return nil, settings.Stop{}, err
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(text, spec); err != nil {
		return nil, settings.Stop{}, fmt.Errorf("%s/config.json: %v", dir, err)
	}
	var annotations runtime.Annotations
	for key, value := range spec.Annotations {
		annotations = append(annotations, runtime.Annotation{Key: key, Value: value})
	}
	node, err := settings.Load()
	if err != nil {
		return nil, settings.Stop{}, err
	}
	stop, _, err := node.StopOf(annotations)
	if err != nil {
		return nil, settings.Stop{}, err
	}
	return spec, stop, nil
}

func (c *Container) add(level Level, race, text string) {
	c.Found = append(c.Found, Finding{level, race, text})
}

// lookAtInit: will the container's first process hear its stop signal?
func (c *Container) lookAtInit(stop settings.Stop) {
	d, err := process.ReadDispositions(c.Pid)
	if err != nil {
		c.add(Info, "", "init has exited, or cannot be looked at: "+err.Error())
		return
	}
	switch {
	case d.State == process.Zombie:
		c.add(Warning, "leader-zombie", "init is a zombie: its first thread has exited, others live, or nobody reaps it")
	case d.State == process.DiskSleep:
		c.add(Warning, "", "init is in uninterruptible sleep (D): not even SIGKILL ends it before the kernel is done")
	case c.Signal != "":
		if hears, why := d.Hears(stop.Signal); !hears {
			c.add(Harm, "pid1-deaf", fmt.Sprintf("init will not hear %s (%s): each stop takes the whole %s and ends with SIGKILL", c.Signal, why, c.Grace))
		}
	}
}

func (c *Container) lookAtCgroup(spec *specs.Spec, stop settings.Stop, ctx context.Context, systemd bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if err != nil {
		return // gone meanwhile
	}
	paths := parseCgroups(text)
	if frozen(paths) {
		c.add(Harm, "paused-stop", "is frozen: a stop signal stays pending until somebody resumes it")
	}
	for _, path := range paths {
		if name := scopeOf(path); name != "" {
			c.Scope = name
		}
	}
	if c.Scope == "" || !systemd || spec == nil {
		return
	}
	properties, err := scopeProperties(ctx, c.Scope)
	if err != nil {
		c.add(Warning, "", "properties of its scope: "+err.Error())
		return
	}
	c.Found = append(c.Found, judgeScope(properties, spec.Annotations, stop.Grace)...)
}

// parseCgroups reads /proc/PID/cgroup (cgroups(7)): the controllers, "" for
// version 2, and the path of each hierarchy.
func parseCgroups(text []byte) map[string]string {
	paths := map[string]string{}
	for _, line := range bytes.Split(text, []byte("\n")) {
		parts := strings.SplitN(string(line), ":", 3)
		if len(parts) == 3 {
			paths[parts[1]] = parts[2]
		}
	}
	return paths
}

func frozen(paths map[string]string) bool {
	for controllers, path := range paths {
		var state []byte
		switch {
		case controllers == "":
			state, _ = os.ReadFile("/sys/fs/cgroup" + path + "/cgroup.freeze")
		case strings.Contains(controllers, "freezer"):
			state, _ = os.ReadFile("/sys/fs/cgroup/freezer" + path + "/freezer.state")
		}
		if s := strings.TrimSpace(string(state)); s == "1" || s == "FROZEN" || s == "FREEZING" {
			return true
		}
	}
	return false
}

// scopeOf is the innermost scope in a cgroup path.
func scopeOf(path string) string {
	scope := ""
	for _, part := range strings.Split(path, "/") {
		if strings.HasSuffix(part, ".scope") {
			scope = part
		}
	}
	return scope
}

var scopeKeys = []string{"DefaultDependencies", "After", "Conflicts", "TimeoutStopUSec"}

func scopeProperties(ctx context.Context, scope string) (map[string]string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "-p", strings.Join(scopeKeys, ","), "--", scope).Output()
	if err != nil {
		return nil, err
	}
	properties := map[string]string{}
	for _, line := range strings.Split(string(out), "\n") {
		if key, value, ok := strings.Cut(line, "="); ok {
			properties[key] = value
		}
	}
	return properties, nil
}

// judgeScope compares what a scope has with what its annotations ask for.
func judgeScope(have, annotations map[string]string, grace time.Duration) []Finding {
	var found []Finding
	if annotations["org.systemd.property.DefaultDependencies"] == "true" && have["DefaultDependencies"] == "no" {
		found = append(found, Finding{Harm, "scope-default-dependencies",
			"its scope has DefaultDependencies=no though yes was asked for: at shutdown systemd does not stop it before its manager"})
	}
	if timeout, ok := parseTimespan(have["TimeoutStopUSec"]); ok && timeout < grace {
		found = append(found, Finding{Warning, "",
			fmt.Sprintf("its scope has TimeoutStopUSec=%s, less than its grace period of %s: at shutdown systemd kills it early", have["TimeoutStopUSec"], grace)})
	}
	return found
}

// parseTimespan reads a time as systemctl writes it: "1min 30s", "infinity".
func parseTimespan(text string) (time.Duration, bool) {
	if text == "infinity" {
		return math.MaxInt64, true
	}
	units := map[string]time.Duration{
		"us": time.Microsecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute,
		"h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
		"month": 2629800 * time.Second, "y": 31557600 * time.Second,
	}
	var sum time.Duration
	for _, word := range strings.Fields(text) {
		end := strings.IndexFunc(word, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
		if end <= 0 {
			return 0, false
		}
		n, err := strconv.ParseFloat(word[:end], 64)
		unit, ok := units[word[end:]]
		if err != nil || !ok {
			return 0, false
		}
		sum += time.Duration(n * float64(unit))
	}
	return sum, text != ""
}
