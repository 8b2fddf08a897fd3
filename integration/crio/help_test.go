package crio

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

// bounded is for calls that nobody else gives up.
func (u *user) bounded() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	_ = context.AfterFunc(ctx, cancel)
	return ctx
}

// beside does something a number of times, all at once.
func (u *user) beside(times int, do func(i int)) {
	var wait sync.WaitGroup
	failures := make(chan any, times)
	for i := range times {
		wait.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					failures <- p
				}
			}()
			do(i)
		})
	}
	wait.Wait()
	select {
	case p := <-failures:
		panic(p)
	default:
	}
}

// tryCreate makes and starts a container that may be impossible, and gives what
// became of it.
func (u *user) tryCreate(p *pod, argv []string) string {
	p.count++
	name := fmt.Sprintf("c%d", p.count)
	file := u.dir + "/" + p.name + "/" + name + ".json"
	u.json(file, map[string]any{
		"metadata": map[string]any{"name": name, "attempt": 0},
		"image":    map[string]any{"image": "localhost/box:1"},
		"command":  argv,
		"log_path": name + ".log",
		"linux":    map[string]any{"security_context": map[string]any{"namespace_options": p.namespaces()}},
	})
	r := u.do("create", p.id, file, p.config)
	if r.code != 0 {
		return "create: " + lastLine(r.err)
	}
	c := &container{pod: p, id: r.out[:len(r.out)-1]}
	p.made = append(p.made, c)
	if r = u.do("start", c.id); r.code != 0 {
		return "start: " + lastLine(r.err)
	}
	return "started"
}

// rotate moves a container's log away.
func rotate(c *container, n int) error { return os.Rename(c.log, fmt.Sprintf("%s.%d", c.log, n)) }

func writeFile(path string) error { return os.WriteFile(path, nil, 0o644) }

// cleanUp removes what the test has made, and complains of what is left then.
func cleanUp(t *testing.T, all []*variant, dir string) {
	for _, v := range all {
		if v.node == nil {
			continue
		}
		if err := v.node.Close(); err != nil {
			t.Error(err)
		}
		for _, cgroup := range v.node.Cgroups() {
			if err := os.Remove(cgroup); err != nil && !os.IsNotExist(err) {
				t.Errorf("%s has left behind: %v", v.stack.Name, err)
			}
		}
	}
	endLeft(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("left behind: %v", err)
	}
}

// endLeft ends the processes that are left, each of which is a fault.
func endLeft(t *testing.T, dir string) {
	var left []string
	waitFor(func() bool { left = processes(dir + "/"); return len(left) == 0 })
	for _, text := range left {
		t.Errorf("left behind: process %s", text)
		var pid int
		_, _ = fmt.Sscan(text, &pid)
		if fd, err := process.Open(pid); err == nil {
			_ = fd.Send(signals.KILL)
			fd.Close()
		}
	}
}

// waitFor waits for a condition, and gives up after a while.
func waitFor(holds func() bool) {
	for deadline := time.Now().Add(patience); !holds() && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
}
