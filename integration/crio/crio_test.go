// Package crio has a real CRI-O, driven by a real crictl, work with gracemon in
// place of conmon, and with gracerun in front of runc, crun and gracerun-native.
//
// Each case is done with every stack, and its user notes what there is to be seen.
// With conmon and the runtime alone it is what a node has today; ours over the same
// runtime must show the same, or, where a case says so, better.
package crio

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gracerun.io/internal/crinode"
	"gracerun.io/internal/testbed"
)

// atOnce is how many users are at work at a time: they wait more than they work.
const atOnce = 8

// TestMain: what a dead monitor leaves is reaped at once, as by a host's PID 1.
func TestMain(m *testing.M) { os.Exit(testbed.UnderReaper(m.Run)) }

// A testCase is something that users do.
type testCase struct {
	name string
	// telling is for what is done with every runtime; the rest is so with GRACERUN_SOAK.
	telling bool
	do      func(u *user)
	want    string // what must be among the notes of every stack
	ours    string // what must be among the notes of ours, where that is more than stock does
	// better says what ours does and stock does not, so that they are not compared.
	better string
	// alone is for what happens to the whole node: it gets one of its own.
	alone bool
	// costly is for what is done over runc alone, but with GRACERUN_SOAK.
	costly bool
	// skip says why a stack has to be left out, "" if not.
	skip func(s *crinode.Stack) string
	// limits is for what needs the limits of linux.resources.
	limits bool
}

var cases = slices.Concat(lifeCases, stopCases, streamCases, resourceCases, crashCases, nodeCases)

// A variant is a stack that the cases are done with.
type variant struct {
	stack     *crinode.Stack
	reference int  // which of the variants is compared with; its own index: none
	few       bool // only with the telling cases, unless GRACERUN_SOAK is set
	err       error
	node      *crinode.Node
}

// A result is what one user saw.
type result struct {
	notes string
	left  string // what was there after all pods were removed
	err   error
	took  time.Duration
	skip  string
}

func soak() bool { return os.Getenv("GRACERUN_SOAK") != "" }

func TestCRIO(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run CRI-O with these containers")
	}
	programs, err := crinode.Find("../../.work/crio")
	if err != nil {
		t.Skip(err)
	}
	// Paths of sockets are beneath it, which must be short.
	dir, err := os.MkdirTemp("", "gc-")
	if err != nil {
		t.Fatal(err)
	}
	for name, why := range testbed.Build(dir, "gracemon", "gracerun", "gracerun-native") {
		t.Errorf("%s: %s", name, why)
	}
	store, err := crinode.Store(programs, dir)
	if err != nil {
		t.Fatal(err)
	}
	newer, _ := filepath.Abs("../../.work/trixie/usr/bin/crun")
	all := []*variant{
		{stack: crinode.Stock("runc")},
		{stack: crinode.Ours(dir, "runc", "")},
		{stack: crinode.Stock("crun"), reference: 2},
		{stack: crinode.Ours(dir, "crun", ""), reference: 2},
		{stack: crinode.Ours(dir, "gracerun-native", ""), few: true},
		{stack: crinode.Stock(newer), reference: 5, few: true},
		{stack: crinode.Ours(dir, newer, ""), reference: 5, few: true},
	}
	t.Cleanup(func() { cleanUp(t, all, dir) })
	var wait sync.WaitGroup
	for i, v := range all {
		wait.Go(func() { v.node, v.err = crinode.New(programs, v.stack, fmt.Sprintf("%s/%d", dir, i), store) })
	}
	wait.Wait()
	results := make([][]*result, len(cases))
	t.Cleanup(func() { t.Log("\n" + matrix(all, results)) })
	free := make(chan struct{}, atOnce)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			results[i] = c.withAll(all, programs, store, fmt.Sprintf("%s/a%d", dir, i), free)
			for j, v := range all {
				t.Run(v.stack.Name, func(t *testing.T) { judge(t, &c, all, results[i], j) })
			}
		})
	}
}

// withAll does the case with all stacks, as many at a time as are free.
func (c *testCase) withAll(all []*variant, programs crinode.Programs, store, dir string, free chan struct{}) []*result {
	results := make([]*result, len(all))
	var wait sync.WaitGroup
	for j, v := range all {
		wait.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			results[j] = c.with(v, programs, store, fmt.Sprintf("%s-%d", dir, j))
		})
	}
	wait.Wait()
	return results
}

func (c *testCase) with(v *variant, programs crinode.Programs, store, dir string) (r *result) {
	r = &result{}
	switch {
	case v.stack.Missing != "":
		r.skip = v.stack.Missing
		return r
	case (v.few && !c.telling || c.costly && filepath.Base(v.stack.Runtime) != "runc") && !soak():
		r.skip = "this case is done over this runtime with GRACERUN_SOAK"
		return r
	case c.limits && !v.stack.Resources():
		r.skip = "no limits here: cgroup2 has no controllers beside version 1's, and this crun takes nothing else"
		return r
	}
	if c.skip != nil {
		if r.skip = c.skip(v.stack); r.skip != "" {
			return r
		}
	}
	begin := time.Now()
	node, err := v.node, v.err
	if c.alone {
		if node, err = crinode.New(programs, v.stack, dir, store); err == nil {
			defer func() {
				if err := node.Close(); err != nil && r.err == nil {
					r.err = err
				}
			}()
		}
	}
	if err != nil {
		r.err = err
		return r
	}
	name := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(c.name), "-"), "-")
	u := &user{Node: node, name: name, dir: node.Dir + "/data/" + name}
	defer func() {
		if p := recover(); p != nil {
			f, ok := p.(failed)
			if !ok {
				panic(p)
			}
			r.err = f.error
			u.abandon()
		}
		r.notes, r.took = strings.Join(u.notes, "\n"), time.Since(begin)
	}()
	u.must(os.MkdirAll(u.dir, 0o755))
	c.do(u)
	r.left = u.clear()
	return r
}

// clear removes what the case has not, and gives what is left then.
func (u *user) clear() string {
	for _, p := range u.pods {
		if !p.removed {
			u.ok("rmp", "--force", p.id)
		}
	}
	// What follows a container's end may take a while; a stock monitor leaves things
	// for ever.
	patient := 20 * time.Second
	if !u.Stack.Ours() {
		patient = 0
	}
	var left []string
	for deadline := time.Now().Add(patient); ; time.Sleep(20 * time.Millisecond) {
		if left = u.left(); len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n")
		}
	}
}

// abandon removes the pods of a case that has failed, as far as that goes.
func (u *user) abandon() {
	for _, p := range u.pods {
		if !p.removed && p.id != "" && u.CRIOPid() != 0 {
			_ = u.Crictl(u.bounded(), "rmp", "--force", p.id).Run()
		}
	}
}

func judge(t *testing.T, c *testCase, all []*variant, results []*result, j int) {
	v, r := all[j], results[j]
	switch {
	case r.skip != "":
		t.Skip(r.skip)
	case r.err != nil:
		t.Fatalf("%v\nseen so far:\n%s", r.err, r.notes)
	}
	if c.want != "" && !strings.Contains(r.notes, c.want) {
		t.Errorf("seen:\n%s\nwhich must have:\n%s", r.notes, c.want)
	}
	if v.stack.Ours() {
		if !strings.Contains(r.notes, c.ours) {
			t.Errorf("seen:\n%s\nwhich must have, with ours:\n%s", r.notes, c.ours)
		}
		if r.left != "" {
			t.Errorf("left behind:\n%s", r.left)
		}
	}
	if ref := results[v.reference]; c.better == "" && j != v.reference && ref.err == nil && ref.skip == "" && r.notes != ref.notes {
		t.Errorf("seen:\n%s\nwith %s:\n%s", r.notes, all[v.reference].stack.Name, ref.notes)
	}
	if c.better != "" && !v.stack.Ours() {
		t.Logf("%s; %s does not:\n%s", c.better, v.stack.Name, r.notes)
	}
}

// matrix shows what was done with which stack, and how long the slowest took.
func matrix(all []*variant, results [][]*result) string {
	var b strings.Builder
	for i, v := range all {
		fmt.Fprintf(&b, "%c  %s\n", 'a'+i, v.stack.Name)
	}
	for i, c := range cases {
		if results[i] == nil {
			continue
		}
		var longest time.Duration
		for j, v := range all {
			r, mark := results[i][j], byte('=')
			ref := results[i][v.reference]
			switch {
			case r.skip != "":
				mark = '-'
			case r.err != nil || !strings.Contains(r.notes, c.want) || v.stack.Ours() && (!strings.Contains(r.notes, c.ours) || r.left != ""):
				mark = 'X'
			case c.better != "" && v.stack.Ours():
				mark = '+'
			case c.better != "":
				mark = '.'
			case ref.err == nil && ref.skip == "" && r.notes != ref.notes:
				mark = 'X'
			}
			b.WriteByte(mark)
			longest = max(longest, r.took)
		}
		fmt.Fprintf(&b, "  %s (%s)\n", c.name, longest.Round(100*time.Millisecond))
	}
	return b.String()
}
