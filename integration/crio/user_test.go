package crio

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"gracerun.io/internal/crinode"
	"gracerun.io/internal/testbed"
)

const patience = crinode.Patience

// A user works with the pods of one case on one node, and notes what is seen.
type user struct {
	*crinode.Node
	name  string
	dir   string
	notes []string
	calls []string // for whoever has to find out what went wrong
	pods  []*pod
	mu    sync.Mutex
}

// failed is what a user who cannot go on panics with.
type failed struct{ error }

func (u *user) fail(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	panic(failed{fmt.Errorf(format+"\ncalls:\n%s", append(args, strings.Join(u.calls, "\n"))...)})
}

func (u *user) must(err error) {
	if err != nil {
		u.fail("%v", err)
	}
}

// note adds a line to what was seen.
func (u *user) note(format string, args ...any) {
	u.notes = append(u.notes, u.plain(fmt.Sprintf(format, args...)))
}

var id = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

// plain takes out what is different from stack to stack.
func (u *user) plain(text string) string {
	return id.ReplaceAllString(strings.ReplaceAll(text, u.dir, "DIR"), "ID")
}

// A call of crictl that has ended.
type call struct {
	code     int
	out, err string
	took     time.Duration
}

func (c call) String() string { return fmt.Sprintf("%d %q %q", c.code, c.out, c.err) }

// A running call.
type running struct {
	*exec.Cmd
	args     []string
	out, err testbed.Output
	since    time.Time
}

func (u *user) begin(input io.Reader, args ...string) *running {
	r := &running{Cmd: u.Crictl(context.Background(), args...), args: args}
	r.Stdin, r.Stdout, r.Stderr = input, &r.out, &r.err
	r.since = time.Now()
	u.must(r.Start())
	return r
}

func (u *user) finish(r *running) call {
	timer := time.AfterFunc(patience, func() { _ = r.Process.Kill() })
	err := r.Wait()
	c := call{out: r.out.String(), err: r.err.String(), took: time.Since(r.since), code: r.ProcessState.ExitCode()}
	u.mu.Lock()
	u.calls = append(u.calls, fmt.Sprintf("crictl %s: %.300s (%s)", strings.Join(r.args, " "), c, c.took.Round(time.Millisecond)))
	u.mu.Unlock()
	if !timer.Stop() {
		u.fail("crictl %v did not end", r.args)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		u.fail("crictl %v: %v", r.args, err)
	}
	return c
}

// do calls crictl and waits for its end.
func (u *user) do(args ...string) call { return u.finish(u.begin(nil, args...)) }

// ok does what has to succeed, and gives its output without the last end of line.
func (u *user) ok(args ...string) string {
	c := u.do(args...)
	if c.code != 0 {
		u.fail("crictl %v: exit status %d: %s", args, c.code, c.err)
	}
	return strings.TrimSuffix(c.out, "\n")
}

func (u *user) until(what string, holds func() bool) {
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			u.fail("waited in vain until %s", what)
		}
	}
}

// between notes whether something took as long as it has to.
func (u *user) between(what string, took, least, most time.Duration) {
	if took < least || took > most {
		u.note("%s took %s, not %s to %s", what, took.Round(time.Millisecond), least, most)
	}
}

// A pod is a sandbox that a user has made.
type pod struct {
	u        *user
	id, name string
	own      bool // a network of its own
	infra    bool // a pid namespace for all, and so an infra container
	config   string
	count    int
	removed  bool
	made     []*container
}

// A container of a pod.
type container struct {
	pod      *pod
	id, data string
	log      string
}

type podOption func(p *pod, config map[string]any)

func ownNetwork(p *pod, config map[string]any) { p.own = true }
func withInfra(p *pod, config map[string]any)  { p.infra = true }

func (p *pod) namespaces() map[string]any {
	options := map[string]any{"pid": 1}
	if p.infra {
		options["pid"] = 0
	}
	if !p.own {
		options["network"] = 2
	}
	return options
}

// pod makes a sandbox.
func (u *user) pod(options ...podOption) *pod {
	p := &pod{u: u, name: fmt.Sprintf("%s-%d", u.name, len(u.pods)+1)}
	config := map[string]any{
		"metadata":      map[string]any{"name": p.name, "namespace": "default", "uid": p.name, "attempt": 0},
		"log_directory": u.dir + "/" + p.name,
	}
	for _, option := range options {
		option(p, config)
	}
	config["linux"] = map[string]any{
		"cgroup_parent":    u.Cgroup + "/" + p.name,
		"security_context": map[string]any{"namespace_options": p.namespaces()},
	}
	u.must(os.MkdirAll(u.dir+"/"+p.name, 0o755))
	p.config = u.dir + "/" + p.name + "/pod.json"
	u.json(p.config, config)
	u.mu.Lock()
	u.pods = append(u.pods, p)
	u.mu.Unlock()
	p.id = u.ok("runp", p.config)
	return p
}

func (u *user) json(path string, value any) {
	text, err := json.Marshal(value)
	u.must(err)
	u.must(os.WriteFile(path, text, 0o644))
}

type containerOption func(config map[string]any)

func policy(name string) containerOption {
	return annotation("io.gracerun.policy", name)
}

func annotation(key, value string) containerOption {
	return func(config map[string]any) {
		annotations, _ := config["annotations"].(map[string]any)
		if annotations == nil {
			annotations = map[string]any{}
			config["annotations"] = annotations
		}
		annotations[key] = value
	}
}

// grace is what the kubelet says of a pod's grace period.
func grace(d time.Duration) containerOption {
	return annotation("io.kubernetes.pod.terminationGracePeriod", strconv.Itoa(int(d.Seconds())))
}

func set(key string, value any) containerOption {
	return func(config map[string]any) { config[key] = value }
}

func memory(bytes int) containerOption {
	return func(config map[string]any) {
		linux := config["linux"].(map[string]any)
		linux["resources"] = map[string]any{"memory_limit_in_bytes": bytes, "memory_swap_limit_in_bytes": bytes}
	}
}

// create makes a container that runs argv; box's arguments go without its name.
func (p *pod) create(argv []string, options ...containerOption) *container {
	p.count++
	name := fmt.Sprintf("c%d", p.count)
	dir := filepath.Dir(p.config)
	c := &container{pod: p, data: dir + "/" + name, log: dir + "/" + name + ".log"}
	p.u.must(os.MkdirAll(c.data, 0o777))
	if len(argv) > 0 && argv[0] == "serve" {
		argv = append([]string{"/bin/box"}, argv...)
	}
	config := map[string]any{
		"metadata": map[string]any{"name": name, "attempt": 0},
		"image":    map[string]any{"image": crinode.Image},
		"command":  argv,
		"log_path": name + ".log",
		"mounts":   []any{map[string]any{"container_path": "/data", "host_path": c.data}},
		"linux":    map[string]any{"security_context": map[string]any{"namespace_options": p.namespaces()}},
	}
	for _, option := range options {
		option(config)
	}
	file := dir + "/" + name + ".json"
	p.u.json(file, config)
	c.id = p.u.ok("create", p.id, file, p.config)
	p.made = append(p.made, c)
	return c
}

// run starts what create makes, and waits until box says that it is ready.
func (p *pod) run(argv []string, options ...containerOption) *container {
	c := p.create(argv, options...)
	p.u.ok("start", c.id)
	if argv[0] == "serve" {
		c.says("ready")
	}
	return c
}

// text gives a file of the container's /data.
func (c *container) text(name string) string {
	text, _ := os.ReadFile(c.data + "/" + name)
	return string(text)
}

// says waits until the program has noted a line.
func (c *container) says(line string) {
	c.pod.u.until("the container says "+line, func() bool { return strings.Contains("\n"+c.text("said"), "\n"+line+"\n") })
}

// hears waits until so many signals have reached the program.
func (c *container) hears(count int) {
	c.pod.u.until(fmt.Sprintf("%d signals have reached the container", count), func() bool { return len(c.heard()) >= count })
}

// A reached signal.
type reached struct {
	name string
	at   time.Duration // on CLOCK_MONOTONIC
}

// heard gives what has reached the program.
func (c *container) heard() (all []reached) {
	for line := range strings.Lines(c.text("heard")) {
		name, at, _ := strings.Cut(strings.TrimSpace(line), " ")
		nanoseconds, err := strconv.ParseInt(at, 10, 64)
		if err == nil {
			all = append(all, reached{name, time.Duration(nanoseconds)})
		}
	}
	return all
}

// signals names them.
func (c *container) signals() string {
	var names []string
	for _, s := range c.heard() {
		names = append(names, s.name)
	}
	return strings.Join(names, " ")
}

// entries counts what box has saved of ten.
func (c *container) entries() int { return strings.Count(c.text("ledger"), "\n") }

// status is what CRI-O knows of the container.
type status struct {
	State      string `json:"state"`
	ExitCode   int    `json:"exitCode"`
	Reason     string `json:"reason"`
	Message    string `json:"message"`
	FinishedAt string `json:"finishedAt"`
}

func (c *container) inspect() (s status, pid int) {
	var answer struct {
		Status status
		Info   struct{ Pid int }
	}
	text := c.pod.u.ok("inspect", c.id)
	c.pod.u.must(json.Unmarshal([]byte(text), &answer))
	return answer.Status, answer.Info.Pid
}

// ended waits for the end as CRI-O sees it, and gives how.
func (c *container) ended() status {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		s, _ := c.inspect()
		if s.State == "CONTAINER_EXITED" {
			return s
		}
		if time.Now().After(deadline) {
			c.pod.u.fail("CRI-O does not see that the container has ended: %s", s.State)
		}
	}
}

// saw notes how a container has ended: what it heard and saved, its exit code and
// its log.
func (c *container) saw(u *user) {
	s := c.ended()
	u.note("heard %q, saved %d, exit code %d, %s; log %q", c.signals(), c.entries(), s.ExitCode, s.Reason, strings.Join(c.logged(), "|"))
}

// logged puts the lines of the container's log together.
func (c *container) logged() []string {
	lines, err := readLog(c.log)
	c.pod.u.must(err)
	return lines
}

func readLog(path string) (lines []string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	parts := map[string]string{}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 || !strings.HasSuffix(line, "\n") {
			return nil, fmt.Errorf("%s: not a line of a log: %q", path, line)
		}
		stream := fields[1]
		parts[stream] += fields[3]
		if fields[2] == "F" {
			lines = append(lines, parts[stream])
			parts[stream] = ""
		}
	}
	for stream, part := range parts {
		if part != "" {
			lines = append(lines, part+"<no end, "+stream+">")
		}
	}
	return lines, nil
}

// monitor gives the pid of the container's monitor, 0 if there is none.
func (c *container) monitor() int {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		args := strings.Split(string(line), "\x00")
		if base := filepath.Base(args[0]); base != "conmon" && base != "gracemon" {
			continue
		}
		for i, arg := range args {
			if arg == "-c" && i+1 < len(args) && args[i+1] == c.id && !strings.Contains(string(line), "\x00-e\x00") {
				pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
				return pid
			}
		}
	}
	return 0
}

// remove removes the pod, as the kubelet does when all has ended.
func (p *pod) remove() {
	p.u.ok("stopp", p.id)
	p.u.ok("rmp", p.id)
	p.removed = true
}

// left gives what is still there of the pods of the case, which are removed: of
// the machine, and of the node.
func (u *user) left() (found []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var ids []string
	for _, p := range u.pods {
		ids = append(ids, p.id)
		for _, c := range p.made {
			ids = append(ids, c.id)
		}
	}
	for _, id := range ids {
		if id == "" {
			continue
		}
		for _, process := range processes(id) {
			found = append(found, "process "+process)
		}
		patterns := []string{
			u.Dir + "/exits/" + id, u.Dir + "/attach/" + id, u.Dir + "/state/" + id, u.Dir + "/run/overlay-containers/" + id,
			u.Dir + "/root/overlay-containers/" + id, u.Path("/run/gracerun") + "/*/" + id,
			u.Path("/run/systemd/system") + "/*" + id + "*",
		}
		for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			patterns = append(patterns, root+u.Cgroup+"/*/*"+id+"*")
		}
		for _, pattern := range patterns {
			paths, _ := filepath.Glob(pattern)
			found = append(found, paths...)
		}
	}
	return found
}

// processes are those that name a text in their command line.
func processes(text string) (found []string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(text)) {
			found = append(found, strings.Split(path, "/")[2]+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
