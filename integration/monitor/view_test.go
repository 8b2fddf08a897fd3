package monitor

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gracerun.io/internal/testbed"
)

// A view is what a process of a container can learn of where it is: topic and text.
type view map[string]string

// different is what is not as under conmon, and is meant to be so.
var different = regexp.MustCompile(`^descriptor [12] flags: 01 -> 0100002$`) // an output of a container outlives its reader: docs/recovery.md

// TestView compares what is to be seen in a container under ours with that under
// conmon and the runtime alone.
func TestView(t *testing.T) {
	tree, err := filepath.Abs("../../.work/trixie/usr/bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, runtime string }{{"runc", "runc"}, {"crun", "crun"}, {"newer crun", tree + "/crun"}} {
		ours, theirs := stacks(test.runtime)
		// That of Debian 12 sets no umask and gives a pipe's mode only to a terminal.
		theirs.monitor = tree + "/conmon"
		theirs.name = "conmon over " + test.runtime
		wrapped := *ours
		wrapped.name = "gracemon and gracerun over " + test.name
		for _, how := range []string{"plain", "terminal", "rough manager"} {
			t.Run(test.name+"/"+how, func(t *testing.T) {
				if !exists(theirs.monitor) {
					t.Skip("a newer conmon is not there (make deps)")
				}
				theirs.need(t)
				ours.need(t)
				if wrapped.runtime, err = gracerun(); err != nil {
					t.Fatal(err)
				}
				t.Setenv("GRACERUN_RUNTIME", theirs.runtime)
				want := theirs.views(t, how)
				for _, s := range []*stack{ours, &wrapped} {
					for where, got := range s.views(t, how) {
						for _, line := range want[where].compare(got) {
							if where == "container" && different.MatchString(line) {
								continue
							}
							t.Errorf("%s, %s: %s", s.name, where, line)
						}
					}
				}
			})
		}
	}
}

var gracerun = sync.OnceValues(func() (string, error) {
	for _, why := range testbed.Build(programs, "gracerun") {
		return "", errors.New(why)
	}
	return filepath.Join(programs, "gracerun"), nil
})

// compare says what is not the same.
func (v view) compare(other view) (lines []string) {
	topics := maps.Clone(v)
	maps.Copy(topics, other)
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		if v[topic] != other[topic] {
			lines = append(lines, fmt.Sprintf("%s: %s -> %s", topic, v[topic], other[topic]))
		}
	}
	return lines
}

// inside is what a process looks at itself, into a directory of its own.
const inside = `cd /data/$1
umask > umask
sed 's/^[^ ]* *[^ ]* *[^ ]* *//' /proc/keys | grep "$ID" > keys
find /dev -printf '%p %y %m %U %G %l\n' | sort > devices
(cd /proc/$$/fd; stat -L -c '%F %a %u %g' 0 1 2; stat -f -c '%T %b blocks' 0 1 2) > streams
ls / > root
exec sleep 1000`

// asHook is what a hook looks at. Which signals it ignores is left out: conmon ignores
// SIGPIPE, and crun leaves that to its hooks.
const asHook = `umask > umask
env | sort > environment
cat /proc/self/limits > limits
sed -n '/^SigBlk/p; /^Cap/p; /^NoNew/p' /proc/self/status > status
(cd /proc/$$/fd; for n in *; do echo "$n $(readlink "$n")"; done) > descriptors
cat /proc/self/oom_score_adj > oom_score_adj`

// views runs a container, and something in it, and looks.
func (s *stack) views(t *testing.T, how string) map[string]view {
	t.Helper()
	own := *s
	c := own.container(t, "")
	script := "ID=" + c.id + "\n" + inside
	c.spec.Process.Args[2] = "set -- container; " + script
	t.Setenv("GRACERUN_STATE_DIR", c.dir+"/state")
	c.must(os.Mkdir(c.dir+"/hook", 0o755))
	c.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cd " + c.dir + "/hook\n" + asHook}}}}
	args := []string{"-i"}
	switch how {
	case "terminal":
		c.spec.Process.Terminal = true
		args = append(args, "-t")
	case "rough manager":
		file, err := os.Open("/etc/passwd")
		c.must(err)
		defer file.Close()
		c.files = []*os.File{file, file}
		c.env = []string{"ROUGH=manager"}
		own.monitor = c.dir + "/monitor"
		c.must(os.WriteFile(own.monitor, []byte("#!/bin/sh\ntrap '' PIPE HUP USR1\numask 077\nulimit -S -n 512\nulimit -c 0\n"+
			"echo 100 > /proc/self/oom_score_adj\nexec nice -n 3 "+s.monitor+` "$@"`+"\n"), 0o755))
	}
	views := map[string]view{}
	look := func(c *container, where string) {
		// It is at rest: what it executes is another program, and that has begun to wait.
		c.until("it has looked", func() bool {
			stat, err := os.ReadFile("/proc/" + strconv.Itoa(c.pid()) + "/stat")
			return err == nil && strings.Contains(string(stat), " (sleep) S ")
		})
		views[where] = c.look(where)
	}
	c.must(os.Mkdir(c.dir+"/container", 0o755))
	c.must(os.Mkdir(c.dir+"/exec", 0o755))
	c.started(args...)
	look(c, "container")
	views["hook"] = view{}
	c.seen(views["hook"], "hook")
	e, code := c.exec("set -- exec; "+script, append(args, "--api-version", "1", "-u", "exec")...)
	if message := e.message(); code != 0 || message != `{"data": PID}` {
		t.Fatalf("%s: exec: exit status %d, %s: %s", s.name, code, message, e.stderr)
	}
	look(e, "exec")
	c.call("kill", c.id, "KILL")
	c.gone()
	return views
}

// Of the lines of /proc/PID/status, these tell when one looked.
var passing = []string{"Pid", "Tgid", "PPid", "NStgid", "NSpid", "NSpgid", "NSsid", "State", "FDSize", "Threads", "SigQ", "Mems_allowed", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"}

// look looks at a process of the container, from outside and by what it has seen.
func (c *container) look(where string) view {
	v := view{}
	proc := "/proc/" + strconv.Itoa(c.pid())
	read := func(name string) string {
		text, err := os.ReadFile(proc + "/" + name)
		c.must(err)
		return c.plain(string(text))
	}
	link := func(name string) string {
		text, err := os.Readlink(proc + "/" + name)
		c.must(err)
		return c.plain(text)
	}
	for line := range strings.Lines(read("status")) {
		name, value, _ := strings.Cut(line, ":")
		if !slices.Contains(passing, name) && !strings.HasPrefix(name, "Vm") && !strings.HasPrefix(name, "Rss") && !strings.HasPrefix(name, "HugetlbPages") {
			v["status "+name] = strings.TrimSpace(value)
		}
	}
	// Descriptors.
	entries, err := os.ReadDir(proc + "/fd")
	c.must(err)
	for _, entry := range entries {
		v["descriptor "+entry.Name()] = link("fd/" + entry.Name())
		for line := range strings.Lines(read("fdinfo/" + entry.Name())) {
			if name, value, _ := strings.Cut(line, ":"); name == "flags" || name == "pos" {
				v["descriptor "+entry.Name()+" "+name] = strings.TrimSpace(value)
			}
		}
	}
	for _, name := range []string{"environ", "cmdline", "comm", "limits", "cgroup", "oom_score_adj", "coredump_filter", "loginuid", "timerslack_ns", "personality", "autogroup", "setgroups", "uid_map"} {
		v[name] = read(name)
	}
	// Of each mount: place in the tree, options, what it shares, type, source.
	for line := range strings.Lines(read("mountinfo")) {
		words := strings.Fields(line)
		v["mount "+words[4]] = strings.Join(slices.Concat(words[3:4], words[5:]), " ")
	}
	for _, name := range []string{"cwd", "root", "exe"} {
		v[name] = link(name)
	}
	for _, entry := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup", "user", "time", "time_for_children", "pid_for_children"} {
		its, err := os.Readlink(proc + "/ns/" + entry)
		c.must(err)
		host, err := os.Readlink("/proc/self/ns/" + entry)
		c.must(err)
		v["namespace "+entry] = map[bool]string{true: "the host's", false: "its own"}[its == host]
	}
	// Parent, group, session and terminal, and its nice value.
	stat := strings.Fields(read("stat")[strings.LastIndex(read("stat"), ")")+1:])
	relation := func(n int) string {
		switch n, _ := strconv.Atoi(stat[n]); n {
		case c.pid():
			return "itself"
		case c.monitor:
			return "the monitor"
		case 0, -1:
			return "none"
		}
		return "another"
	}
	v["parent"], v["group"], v["session"], v["terminal's group"] = relation(1), relation(2), relation(3), relation(5)
	v["nice"], v["policy"] = stat[16], stat[38]
	c.seen(v, where)
	return v
}

// seen adds what it has seen itself.
func (c *container) seen(v view, where string) {
	files, err := os.ReadDir(c.dir + "/" + where)
	c.must(err)
	for _, file := range files {
		text, err := os.ReadFile(c.dir + "/" + where + "/" + file.Name())
		c.must(err)
		v["sees "+file.Name()] = c.plain(string(text))
	}
}

var (
	numbered  = regexp.MustCompile(`(pipe|socket):\[\d+\]`)
	autogroup = regexp.MustCompile(`autogroup-\d+`)
)

// plain is a text without what is of this container alone.
func (c *container) plain(text string) string {
	text = numbered.ReplaceAllString(strings.ReplaceAll(strings.ReplaceAll(text, c.id, "ID"), c.dir, "DIR"), "$1")
	return autogroup.ReplaceAllString(strings.ReplaceAll(text, "\x00", " "), "autogroup")
}
