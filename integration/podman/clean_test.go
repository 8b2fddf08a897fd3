package podman

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// cleanUp removes what the test has made, and complains of what is left then.
func cleanUp(t *testing.T, all []*stack, dir string) {
	for _, s := range all {
		s.clear()
	}
	for _, h := range hosts {
		h.stop()
	}
	var left []string
	// What follows a container's end, podman's own clean up first of all, may take
	// a while.
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if left = processes(dir); len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, process := range left {
		t.Errorf("left behind: process %s", process)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+dir+"/") {
			t.Errorf("left behind: mount %s", line)
		}
	}
	for _, cgroup := range cgroups() {
		if err := os.Remove(cgroup); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left behind: %v", err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("left behind: %v", err)
	}
}

// processes are those that name the directory in their command line.
func processes(dir string) []string {
	var found []string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(dir+"/")) {
			found = append(found, path[len("/proc/"):len(path)-len("/cmdline")]+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// cgroupParent is where the containers of this test are.
func cgroupParent() string { return fmt.Sprintf("gracerun-podman-test-%d", os.Getpid()) }

// cgroups are the directories of cgroupParent, the innermost first, whether there
// is one hierarchy or many.
func cgroups() []string {
	var all []string
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupParent())
	for _, root := range append(roots, "/sys/fs/cgroup/"+cgroupParent()) {
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
