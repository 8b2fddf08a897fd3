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

// atOnce is how many cases are under way at a time: they wait more than they work.
const atOnce = 5

// enough is when no more cases are begun with -short.
const enough = 100 * time.Second

// A testCase is something that users do.
type testCase struct {
	name string
	tier int // smoke with all stacks, core with most of them
	do   func(u *user)
	want string // what must be among the notes, so that two that both do nothing are not alike
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

func TestPodman(t *testing.T) {
	if testing.Short() && os.Getenv("GRACERUN_PODMAN") == "" {
		t.Skip("takes minutes: GRACERUN_PODMAN=1 has the most telling cases done with -short, and without -short all are done")
	}
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
	unbuilt := testbed.Build(dir, "gracemon", "gracerun", "gracerun-native")
	archive, err := rootfs(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := stacks()
	t.Cleanup(func() {
		for _, s := range all {
			s.clear()
		}
		for _, h := range hosts {
			h.stop()
		}
		removeCgroups()
		os.RemoveAll(dir)
	})
	for i, s := range all {
		s.settle(filepath.Join(dir, fmt.Sprint(i)), dir, unbuilt)
	}
	results := perform(all, archive)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for j, s := range all {
				t.Run(s.String(), func(t *testing.T) {
					judge(t, &c, s, results[i][j], referenceOf(all, results[i], s))
				})
			}
		})
	}
	t.Log("\n" + matrix(all, results))
}

// perform does all cases with all stacks.
func perform(all []*stack, archive string) [][]*result {
	results := make([][]*result, len(cases))
	var wait sync.WaitGroup
	free := make(chan struct{}, atOnce)
	begin := time.Now()
	// What matters most comes first.
	order := make([]int, len(cases))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cases[b].tier - cases[a].tier })
	for _, i := range order {
		results[i] = make([]*result, len(all))
		if !selected(cases[i].name) {
			continue
		}
		for j, s := range all {
			if cases[i].tier < s.tier {
				continue
			}
			free <- struct{}{}
			if testing.Short() && time.Since(begin) > enough {
				results[i][j] = &result{skip: "left out: the machine is so busy that the cases before took " + enough.String()}
				<-free
				continue
			}
			wait.Go(func() {
				defer func() { <-free }()
				results[i][j] = cases[i].with(s, archive)
			})
		}
	}
	wait.Wait()
	return results
}

// selected reports whether the case is among those that were asked for: cases are
// done before go test asks for the first.
func selected(name string) bool {
	pattern := os.Getenv("GRACERUN_PODMAN_CASE")
	return pattern == "" || regexp.MustCompile(pattern).MatchString(name)
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
		if other.reference() && other.runtime == s.runtime {
			return results[i]
		}
	}
	return nil
}

func judge(t *testing.T, c *testCase, s *stack, r, reference *result) {
	switch {
	case r == nil:
		t.Skip("left out to save time: every case is done with every stack without -short")
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

// matrix shows what was done with which stack.
func matrix(all []*stack, results [][]*result) string {
	var b strings.Builder
	for i, s := range all {
		fmt.Fprintf(&b, "%c  %s\n", 'a'+i, s)
	}
	for i, c := range cases {
		for j, s := range all {
			r, mark := results[i][j], byte('=')
			reference := referenceOf(all, results[i], s)
			switch {
			case r == nil:
				mark = ' '
			case r.skip != "":
				mark = '-'
			case r.err != nil || !strings.Contains(r.notes, c.want) || reference != nil && reference.err == nil && reference.skip == "" && r.notes != reference.notes:
				mark = 'X'
			}
			b.WriteByte(mark)
		}
		fmt.Fprintf(&b, "  %s\n", c.name)
	}
	return b.String()
}
