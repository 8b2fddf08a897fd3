// Package node has a real kubelet and API server end pods over a real CRI-O, with
// stock conmon and runc, and with ours under each policy: `make node-test`. What
// each container heard, when, and what it lost comes out as one table.
package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gracerun.io/internal/crinode"
	"gracerun.io/internal/testbed"
	"gracerun.io/signals"
)

// TestMain: what a dead monitor leaves is reaped at once, as by a host's PID 1.
func TestMain(m *testing.M) { os.Exit(testbed.UnderReaper(m.Run)) }

func bounded() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), crinode.Patience)
	_ = context.AfterFunc(ctx, cancel)
	return ctx
}

func podNames(out []byte) (names []string) {
	var list struct {
		Containers []struct{ Labels map[string]string }
	}
	if json.Unmarshal(out, &list) != nil {
		return []string{"unknown"}
	}
	for _, c := range list.Containers {
		names = append(names, strings.TrimSuffix(c.Labels["io.kubernetes.pod.name"], "-"+nodeName))
	}
	return names
}

func TestNode(t *testing.T) {
	if os.Getenv("GRACERUN_NODE_TEST") == "" {
		t.Skip("takes some ten minutes: make node-test")
	}
	programs, err := crinode.Find("../../.work/crio")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kubelet", "kubectl"} {
		if _, err := os.Stat(programs.Dir + "/" + name); err != nil {
			t.Fatalf("%v (integration/crio/programs/build kubernetes)", err)
		}
	}
	dir, err := os.MkdirTemp("", "gn-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, why := range testbed.Build(dir, "gracemon", "gracerun") {
		t.Fatalf("%s: %s", name, why)
	}
	store, err := crinode.Store(programs, dir)
	if err != nil {
		t.Fatal(err)
	}
	stacks := []*crinode.Stack{crinode.Stock("runc"), crinode.Ours(dir, "runc", "observe"), crinode.Ours(dir, "runc", "delegate"),
		crinode.Ours(dir, "runc", "enforce")}
	all := make([]*cluster, len(stacks))
	var wait sync.WaitGroup
	errs := make([]error, len(stacks))
	for i, stack := range stacks {
		wait.Go(func() {
			var n *crinode.Node
			if n, errs[i] = crinode.New(programs, stack, fmt.Sprintf("%s/%d", dir, i), store); errs[i] == nil {
				all[i], errs[i] = start(n)
			}
		})
	}
	wait.Wait()
	t.Cleanup(func() {
		_ = on(all, func(c *cluster) error {
			if c == nil {
				return nil
			}
			if err := c.close(); err != nil {
				t.Error(err)
			}
			return nil
		})
	})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("pods", func(t *testing.T) { endPods(t, all) })
	t.Run("drains", func(t *testing.T) { drainAll(t, all) })
}

// endPods has all pods run beside each other, and ends each in its way.
func endPods(t *testing.T, all []*cluster) {
	rows := make([][]string, len(podCases))
	for i := range rows {
		rows[i] = make([]string, len(all))
	}
	err := on(all, func(c *cluster) error {
		column := slices.Index(all, c)
		errs := beside(len(podCases), func(i int) error { return c.make(&podCases[i], podCases[i].name) })
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		for i, err := range beside(len(podCases), func(i int) error {
			p := &podCases[i]
			began := now()
			end := p.end
			if end == nil {
				end = remove()
			}
			if err := end(c, p.name); err != nil {
				return err
			}
			if err := c.gone(p.name, began); err != nil {
				return err
			}
			rows[i][column] = c.story(p.name, began)
			if why := c.judge(p.name, p.observe, p.owned); why != "" {
				t.Errorf("%s, %s: %s", c.Stack.Name, p.name, why)
			}
			return nil
		}) {
			if err != nil {
				t.Errorf("%s, %s: %v", c.Stack.Name, podCases[i].name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(podCases))
	for i, p := range podCases {
		names[i] = p.about
	}
	t.Log("\n" + table(all, "pod", names, rows))
}

func beside(count int, do func(i int) error) []error {
	errs := make([]error, count)
	var wait sync.WaitGroup
	for i := range count {
		wait.Go(func() { errs[i] = do(i) })
	}
	wait.Wait()
	return errs
}

// story says what a pod's program heard, and when, and what it saved.
func (c *cluster) story(name string, began time.Duration) string {
	var terms []string
	for _, at := range c.heard(name) {
		terms = append(terms, fmt.Sprintf("%.1f", (at-began).Seconds()))
	}
	told := "never told"
	if terms != nil {
		told = "TERM at " + strings.Join(terms, ", ") + " s"
	}
	return fmt.Sprintf("%s, saved %d", told, c.saved(name))
}

// judge holds ours against what is expected; stock is only shown.
func (c *cluster) judge(name string, observe, owned expected) string {
	want := owned
	if c.Stack.Policy == "observe" {
		want = observe
	}
	switch saved, terms := c.saved(name), len(c.heard(name)); {
	case !c.Stack.Ours():
		return ""
	case saved < want.saved:
		return fmt.Sprintf("saved %d, not %d", saved, want.saved)
	case want.terms > 0 && terms > want.terms:
		return fmt.Sprintf("heard TERM %d times", terms)
	}
	return ""
}

func table(all []*cluster, title string, names []string, rows [][]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |", title)
	for _, c := range all {
		fmt.Fprintf(&b, " %s |", c.Stack.Name)
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", len(all)+1) + "\n")
	for i, name := range names {
		fmt.Fprintf(&b, "| %s | %s |\n", name, strings.Join(rows[i], " | "))
	}
	return b.String()
}

// ledgers is how many pods are drained at a time.
const ledgers = 8

// A drain is one of a node full of ledgers, and what happens in the middle of it.
type drain struct {
	about   string
	disturb func(c *cluster) error // once all have been told
	observe expected
	owned   expected // under delegate and enforce
}

var drains = []drain{
	{"undisturbed", nil, whole, whole},
	{"crio killed and restarted", (*cluster).restartCRIO, expected{}, whole},
	{"kubelet killed and restarted", (*cluster).restartKubelet, expected{}, whole},
	{"all monitors killed", func(c *cluster) error { return c.signalMonitors(signals.KILL) }, whole, whole},
	{"TERM to all monitors", func(c *cluster) error { return c.signalMonitors(signals.TERM) }, whole, whole},
	{"KILL by a third party", (*cluster).killAll, expected{}, whole},
}

func drainAll(t *testing.T, all []*cluster) {
	var names []string
	var rows [][]string
	ledger := podCase{save: 10 * time.Second, grace: 30}
	for n, d := range drains {
		names = append(names, d.about)
		row := make([]string, len(all))
		err := on(all, func(c *cluster) error {
			name := func(i int) string { return fmt.Sprintf("ledger-%d-%d", n, i) }
			for _, err := range beside(ledgers, func(i int) error { return c.make(&ledger, name(i)) }) {
				if err != nil {
					return err
				}
			}
			began := now()
			done := make(chan answer, 1)
			go func() {
				done <- c.kubectl("drain", nodeName, "--grace-period=60", "--force", "--disable-eviction", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=170s")
			}()
			if d.disturb != nil {
				err := c.until("all have been told", func() bool {
					for i := range ledgers {
						if len(c.heard(name(i))) == 0 {
							return false
						}
					}
					return true
				})
				if err != nil {
					return err
				}
				if err := d.disturb(c); err != nil {
					return err
				}
			}
			drained := <-done
			took := now() - began
			terms, saved, whole := map[int]int{}, 0, 0
			for i := range ledgers {
				terms[len(c.heard(name(i)))]++
				saved += c.saved(name(i))
				if c.saved(name(i)) == 10 {
					whole++
				}
				if why := c.judge(name(i), d.observe, d.owned); why != "" {
					t.Errorf("%s, %s, %s: %s", c.Stack.Name, d.about, name(i), why)
				}
			}
			outcome := "drained"
			if drained.err != nil {
				outcome = "NOT drained"
				if c.Stack.Ours() {
					t.Errorf("%s, %s: %v", c.Stack.Name, d.about, drained.err)
				}
			}
			left := ""
			if err := c.until("nothing runs", func() bool { return len(c.runningPods()) == 0 }); err != nil {
				left = ", containers left behind"
				if c.Stack.Ours() {
					t.Errorf("%s, %s: %v", c.Stack.Name, d.about, err)
				}
			}
			row[slices.Index(all, c)] = fmt.Sprintf("%s in %.0f s, TERM %s, %d of %d entries, %d of %d ledgers whole%s",
				outcome, took.Seconds(), times(terms), saved, 10*ledgers, whole, ledgers, left)
			return c.kubectl("uncordon", nodeName).err
		})
		rows = append(rows, row)
		if err != nil {
			t.Fatalf("%s: %v", d.about, err)
		}
	}
	t.Log("\n" + table(all, fmt.Sprintf("kubectl drain --grace-period=60, %d ledgers", ledgers), names, rows))
}

// times says how many have heard something how often.
func times(counts map[int]int) string {
	var words []string
	for often := range 5 {
		if counts[often] > 0 {
			words = append(words, fmt.Sprintf("%d× for %d", often, counts[often]))
		}
	}
	return strings.Join(words, ", ")
}
