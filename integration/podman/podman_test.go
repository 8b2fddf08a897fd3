// Package podman has Debian's podman work with gracemon in place of conmon, and
// with gracerun in front of crun, runc and gracerun-native.
//
// Each case is done with every stack, and its user notes what there is to be
// seen. With conmon and the runtime alone it is what podman's users have today;
// all other stacks over the same runtime must show the same.
package podman

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
)

// atOnce is how many users are at work at a time: they wait more than they work.
const atOnce = 5

// A testCase is something that users do.
type testCase struct {
	name    string
	telling bool // done with -short too
	do      func(u *user)
	want    string // what must be among the notes, so that two that both do nothing are not alike
	// skip says why a stack has to be left out, "" if not.
	skip func(s *stack) string
}

var cases = slices.Concat(runCases, outputCases, stopCases, execCases, attachCases, engineCases)

// A result is what one user saw.
type result struct {
	notes string
	err   error
	took  time.Duration
	skip  string
}

// With -short the telling cases are done with runc and crun, each with conmon and
// the runtime alone and with both of ours; without it everything with everything.
func TestPodman(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make these containers")
	}
	for _, program := range []string{"podman", "nsenter", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (make deps)", program)
		}
	}
	// Paths of sockets are beneath it, which must be short.
	dir, err := os.MkdirTemp("", "gp-")
	if err != nil {
		t.Fatal(err)
	}
	all := stacks(testing.Short())
	t.Cleanup(func() { cleanUp(t, all, dir) })
	unbuilt := testbed.Build(dir, ours(all)...)
	archive, err := rootfs(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		s.settle(filepath.Join(dir, fmt.Sprint(i)), dir, unbuilt)
	}
	results := make([][]*result, len(cases))
	t.Cleanup(func() { t.Log("\n" + matrix(all, results)) })
	free := make(chan struct{}, atOnce)
	for i, c := range cases {
		if testing.Short() && !c.telling {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			results[i] = c.withAll(all, archive, free)
			for j, s := range all {
				t.Run(s.String(), func(t *testing.T) {
					judge(t, &c, s, results[i][j], referenceOf(all, results[i], s))
				})
			}
		})
	}
}

// withAll does the case with all stacks, as many at a time as are free.
func (c *testCase) withAll(all []*stack, archive string, free chan struct{}) []*result {
	results := make([]*result, len(all))
	var wait sync.WaitGroup
	for j, s := range all {
		wait.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			results[j] = c.with(s, archive)
		})
	}
	wait.Wait()
	return results
}

func (c *testCase) with(s *stack, archive string) (r *result) {
	r = &result{}
	if s.missing != "" {
		r.skip = s.missing
		return r
	}
	if r.err = s.prepare(archive); r.err != nil {
		return r
	}
	if c.skip != nil {
		if r.skip = c.skip(s); r.skip != "" {
			return r
		}
	}
	name := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(c.name), "-"), "-")
	u := &user{stack: s, name: name, dir: filepath.Join(s.dir, "cases", name)}
	begin := time.Now()
	defer func() {
		if p := recover(); p != nil {
			f, ok := p.(failed)
			if !ok {
				panic(p)
			}
			r.err = f.error
		}
		_ = u.podman("rm", "--force", "--ignore", "--time=0", name).Run()
		r.notes, r.took = strings.Join(u.notes, "\n"), time.Since(begin)
	}()
	u.must(os.MkdirAll(u.dir, 0o755))
	c.do(u)
	return r
}

func referenceOf(all []*stack, results []*result, s *stack) *result {
	for i, other := range all {
		if other.referenceFor(s) {
			return results[i]
		}
	}
	return nil
}

func judge(t *testing.T, c *testCase, s *stack, r, reference *result) {
	switch {
	case r.skip != "":
		t.Skip(r.skip)
	case r.err != nil:
		t.Fatalf("%v\nseen so far:\n%s", r.err, r.notes)
	}
	if c.want != "" && !strings.Contains(r.notes, c.want) {
		t.Errorf("seen:\n%s\nwhich must have:\n%s", r.notes, c.want)
	}
	if reference != nil && reference.err == nil && reference.skip == "" && r.notes != reference.notes {
		t.Errorf("seen:\n%s\nwith conmon and %s alone:\n%s", r.notes, s.runtime, reference.notes)
	}
}

// matrix shows what was done with which stack, and how long the slowest took.
func matrix(all []*stack, results [][]*result) string {
	var b strings.Builder
	for i, s := range all {
		fmt.Fprintf(&b, "%c  %s\n", 'a'+i, s)
	}
	for i, c := range cases {
		if results[i] == nil {
			continue
		}
		var longest time.Duration
		for j, s := range all {
			r, mark := results[i][j], byte('=')
			reference := referenceOf(all, results[i], s)
			switch {
			case r.skip != "":
				mark = '-'
			case r.err != nil || !strings.Contains(r.notes, c.want) || reference != nil && reference.err == nil && reference.skip == "" && r.notes != reference.notes:
				mark = 'X'
			}
			b.WriteByte(mark)
			longest = max(longest, r.took)
		}
		fmt.Fprintf(&b, "  %s (%s)\n", c.name, longest.Round(100*time.Millisecond))
	}
	return b.String()
}
