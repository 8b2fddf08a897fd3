package testbed

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gracerun.io/runtime/statedir"
	"gracerun.io/timeline"
)

// Story gives what the managers and others did so far.
func (c *Container) Story() *timeline.Timeline {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &timeline.Timeline{Title: c.stack.Name, Marks: append([]timeline.Mark(nil), c.story.Marks...)}
}

// Stack is what the container runs on.
func (c *Container) Stack() *Stack { return c.stack }

// StateDir is where gracemon and gracerun keep the container's journal, "" on a
// stock stack.
func (c *Container) StateDir() string {
	if !c.stack.Ours() {
		return ""
	}
	key, err := statedir.Key(c.root)
	if err != nil {
		return ""
	}
	if c.foreign != nil {
		return filepath.Join(c.foreign.State, key, c.ID)
	}
	return filepath.Join(c.dir, "state", key, c.ID)
}

// cgroups gives the container's directory in each hierarchy, as this process
// sees them.
func (c *Container) cgroups() (dirs []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		pattern += cgroupParent + "/" + c.ID
		if c.foreign != nil {
			pattern = strings.TrimSuffix(pattern, cgroupParent+"/"+c.ID) + c.foreign.Cgroups + c.ID
		}
		found, _ := filepath.Glob(pattern)
		dirs = append(dirs, found...)
	}
	return dirs
}

// Leftovers gives the processes that are in the container's cgroups, other than
// init itself.
func (c *Container) Leftovers() (pids []int) {
	seen := map[int]bool{c.Pid: true}
	for _, dir := range c.cgroups() {
		text, _ := os.ReadFile(dir + "/cgroup.procs")
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil && !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Frozen reports whether a freezer holds the container.
func (c *Container) Frozen() bool {
	for _, dir := range c.cgroups() {
		for _, file := range []string{"/cgroup.freeze", "/freezer.state"} {
			text, _ := os.ReadFile(dir + file)
			switch strings.TrimSpace(string(text)) {
			case "1", "FROZEN", "FREEZING":
				return true
			}
		}
	}
	return false
}

// OOMFile reports whether the monitor has left word of an OOM kill.
func (c *Container) OOMFile() bool {
	for _, dir := range []string{c.bundle, filepath.Join(c.dir, "persist")} {
		if _, err := os.Stat(dir + "/oom"); err == nil {
			return true
		}
	}
	return false
}

// String gives the name with the versions.
func (s *Stack) String() string { return fmt.Sprintf("%s (%s)", s.Name, s.Versions()) }
