package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"gracerun.io/internal/crinode"
)

const crioSection = "CRI-O"

const (
	crioLife = "runp, create and start"
	crioExec = "crictl exec of a program that does nothing"
)

// Whom the tables compare.
const (
	crioOurs   = "gracemon and gracerun over runc"
	crioTheirs = "conmon and runc"
)

// crioStack is a node with a CRI-O of its own.
type crioStack struct {
	name   string
	node   *crinode.Node
	serial int
	target *crinode.Container // to execute in
}

func (s *crioStack) String() string { return s.name }

// crio measures what a kubelet waits for, by crictl: over runc, since crun would need a
// script before it on a machine whose cgroups are version 1's.
func (l *lab) crio() error {
	programs, err := crinode.Find(l.CRIO)
	if err != nil {
		l.missing("CRI-O", err.Error())
		return nil
	}
	if l.runc.Missing != "" || l.conmon.Missing != "" || l.gracemon.Missing != "" {
		l.missing("CRI-O", "conmon, runc or gracemon is missing")
		return nil
	}
	bin, err := filepath.Abs(l.Bin)
	if err != nil {
		return err
	}
	// Paths of sockets are beneath it, which must be short.
	dir, err := os.MkdirTemp("", "gb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := crinode.Store(programs, dir)
	if err != nil {
		l.note("CRI-O: %v", err)
		return nil
	}
	ours, stock := crinode.Ours(bin, "runc", ""), crinode.Stock("runc")
	var stacks []*crioStack
	for _, s := range []*crinode.Stack{ours, stock} {
		s.Plain = true
		n, err := crinode.New(programs, s, filepath.Join(dir, fmt.Sprint(len(stacks))), store)
		if err != nil {
			l.note("CRI-O, %s: %v", s.Name, err)
			continue
		}
		defer n.Close()
		name := crioTheirs
		if s.Ours() {
			name = crioOurs
		}
		stacks = append(stacks, &crioStack{name: name, node: n})
	}
	l.progress("CRI-O: %d stacks", len(stacks))
	ctx, cancel := context.WithTimeout(l.ctx, 3*time.Minute)
	defer cancel()
	interleave(l, "runp, create and start", l.rounds(8), stacks, func(s *crioStack) error {
		begin := now()
		c, err := s.start(ctx)
		if err != nil {
			return err
		}
		l.report.add(crioSection, crioLife, s.name, Wall, milliseconds(now()-begin))
		s.target = c
		return nil
	})
	interleave(l, "crictl exec", l.rounds(15), stacks, func(s *crioStack) error {
		if s.target == nil {
			return fmt.Errorf("there is no container to execute in")
		}
		begin := now()
		if out, err := s.node.Crictl(ctx, "exec", s.target.ID, "/bin/true").CombinedOutput(); err != nil {
			return fmt.Errorf("crictl exec: %w: %s", err, out)
		}
		l.report.add(crioSection, crioExec, s.name, Wall, milliseconds(now()-begin))
		return nil
	})
	return nil
}

// start makes a pod with a container that runs.
func (s *crioStack) start(ctx context.Context) (*crinode.Container, error) {
	s.serial++
	name := fmt.Sprint("p", s.serial)
	dir := filepath.Join(s.node.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	c := &crinode.Container{Node: s.node, Name: name, Command: []string{"/bin/sleep", "1000"}, Grace: 1, Dir: dir}
	if err := c.Create(ctx); err != nil {
		return nil, err
	}
	return c, c.Start(ctx)
}
