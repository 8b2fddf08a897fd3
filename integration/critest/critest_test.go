// Package critest runs the validation suite of the Container Runtime Interface
// (cri-tools' critest) on a real CRI-O, over stock conmon and runc and over ours:
// `make critest`. A spec that passes on stock must pass on ours, and one that
// cannot pass on stock here must be in unable.tsv, with the reason.
package critest

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gracerun.io/internal/crinode"
	"gracerun.io/internal/testbed"
)

//go:embed unable.tsv
var unableText string

// images are those that critest asks for; all of them are box.
var images = []crinode.NamedImage{
	{Name: "registry.k8s.io/e2e-test-images/busybox:1.29-2"},
	{Name: "registry.k8s.io/e2e-test-images/nginx:1.14-2", Change: `CMD ["/bin/nginx", ":80", "master process"]`},
	{Name: "registry.k8s.io/e2e-test-images/httpd:2.4.39-4", Change: `CMD ["/bin/nginx"]`},
	{Name: "registry.k8s.io/e2e-test-images/nonewprivs:1.3", Change: `CMD ["/bin/nnp"]`},
	{Name: "gcr.io/k8s-staging-cri-tools/hostnet-nginx-amd64:latest", Change: `CMD ["/bin/nginx", ":12003"]`},
	{Name: "gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest", Change: `USER default-user`},
}

// localPorts is what a node does, or its kube-proxy, so that a host port can be asked
// for on 127.0.0.1, too: such packets are routed, and get an address to answer to.
const localPorts = `set -e
echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
iptables -t nat -I POSTROUTING -s 127.0.0.0/8 ! -d 127.0.0.0/8 -j MASQUERADE`

// tries is how often a spec is tried that has failed, on either, for no reason that
// is known: some fail now and then, since critest gives CRI-O less than a second
// between the end of a grace period and that of a call.
const tries = 3

// TestMain: what a dead monitor leaves is reaped at once, as by a host's PID 1.
func TestMain(m *testing.M) { os.Exit(testbed.UnderReaper(m.Run)) }

func TestCritest(t *testing.T) {
	if os.Getenv("GRACERUN_CRITEST") == "" {
		t.Skip("takes some twenty minutes: make critest")
	}
	programs, err := crinode.Find("../../.work/crio")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(programs.Dir + "/critest"); err != nil {
		t.Fatalf("%v (integration/crio/programs/build critest)", err)
	}
	dir, err := os.MkdirTemp("", "gt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, why := range testbed.Build(dir, "gracemon", "gracerun") {
		t.Fatalf("%s: %s", name, why)
	}
	store, err := crinode.Store(programs, dir, images...)
	if err != nil {
		t.Fatal(err)
	}
	stacks := []*crinode.Stack{crinode.Stock("runc"), crinode.Ours(dir, "runc", "")}
	suites := make([]*suite, len(stacks))
	for i, stack := range stacks {
		node, err := crinode.New(programs, stack, fmt.Sprintf("%s/%d", dir, i), store)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := node.Close(); err != nil {
				t.Error(err)
			}
			for _, cgroup := range node.Cgroups() {
				_ = os.Remove(cgroup)
			}
		})
		if out, err := node.Command(t.Context(), "/bin/sh", "-c", localPorts).CombinedOutput(); err != nil {
			t.Fatalf("%s: ports on 127.0.0.1: %v: %s", stack.Name, err, out)
		}
		suites[i] = &suite{node: node, outcomes: map[string]outcome{}}
	}
	both(suites, func(s *suite) { s.err = s.run(os.Getenv("FOCUS")) })
	for i, s := range suites {
		if s.err != nil {
			t.Fatalf("%s: %v", stacks[i].Name, s.err)
		}
	}
	stock, ours := suites[0], suites[1]
	for range tries - 1 {
		again := notYet(stock, ours)
		if len(again) == 0 {
			break
		}
		t.Logf("once more, on both: %q", again)
		focus := strings.Join(quoted(again), "|")
		both(suites, func(s *suite) { s.err = s.run(focus) })
	}
	report(t, stock, ours)
}

func both(suites []*suite, do func(s *suite)) {
	var wait sync.WaitGroup
	for _, s := range suites {
		wait.Go(func() { do(s) })
	}
	wait.Wait()
}

func quoted(names []string) (all []string) {
	for _, name := range names {
		all = append(all, regexp.QuoteMeta(name))
	}
	return all
}

// A suite is critest on one stack.
type suite struct {
	node     *crinode.Node
	outcomes map[string]outcome
	err      error
}

// An outcome is what became of a spec.
type outcome struct {
	state   string // passed, failed, skipped, ...
	message string
}

// run runs the specs that match; a spec that has failed before may pass now.
func (s *suite) run(focus string) error {
	report := s.node.Dir + "/report.json"
	args := []string{
		"--runtime-endpoint", "unix://" + s.node.Socket(), "--image-endpoint", "unix://" + s.node.Socket(),
		// StopPodSandbox takes it for the grace period.
		"--runtime-service-timeout", "20s", "--image-service-timeout", "30s",
		"--ginkgo.json-report", report, "--ginkgo.no-color", "--ginkgo.timeout", "2h", "--test.timeout", "2h",
	}
	if focus != "" {
		args = append(args, "--ginkgo.focus", focus)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Minute)
	defer cancel()
	out, failed := s.node.Command(ctx, s.node.Programs.Dir+"/critest", args...).CombinedOutput()
	text, err := os.ReadFile(report)
	if err != nil {
		return fmt.Errorf("critest: %v: %s", failed, out[max(0, len(out)-2000):])
	}
	_ = os.Remove(report)
	return s.read(text)
}

func (s *suite) read(text []byte) error {
	var suites []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeType            string
			LeafNodeText            string
			State                   string
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(text, &suites); err != nil {
		return err
	}
	for _, one := range suites {
		for _, spec := range one.SpecReports {
			if spec.LeafNodeType != "It" {
				continue
			}
			name := strings.Join(append(spec.ContainerHierarchyTexts, spec.LeafNodeText), " ")
			if before, was := s.outcomes[name]; was && (spec.State == "skipped" || before.state == "passed") {
				continue
			}
			s.outcomes[name] = outcome{spec.State, spec.Failure.Message}
		}
	}
	return nil
}

// notYet gives the specs that have failed on either and are not known to be unable.
func notYet(stock, ours *suite) (names []string) {
	known := unable()
	for _, name := range sorted(stock.outcomes) {
		failed := stock.outcomes[name].state == "failed" || ours.outcomes[name].state == "failed"
		if failed && known[name] == "" {
			names = append(names, name)
		}
	}
	return names
}

// unable gives the specs that cannot pass here, with the reasons.
func unable() map[string]string {
	reasons := map[string]string{}
	for line := range strings.Lines(unableText) {
		if name, reason, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && !strings.HasPrefix(line, "#") {
			reasons[name] = reason
		}
	}
	return reasons
}

func report(t *testing.T, stock, ours *suite) {
	known := unable()
	count := map[string]int{}
	var table bytes.Buffer
	for _, name := range sorted(stock.outcomes) {
		s, o := stock.outcomes[name], ours.outcomes[name]
		count["stock "+s.state]++
		count["ours "+o.state]++
		if s.state != "passed" || o.state != "passed" {
			fmt.Fprintf(&table, "%-8s %-8s %s\n", s.state, o.state, name)
		}
		switch {
		case s.state == "passed" && o.state != "passed":
			t.Errorf("%s: passes on stock; on ours, %d times of %d: %s: %s", name, tries, tries, o.state, o.message)
		case s.state == "failed" && known[name] == "":
			t.Errorf("%s: fails on stock, for no reason that is known: %s", name, s.message)
		}
	}
	t.Logf("%d specs: %v\nstock    ours\n%s", len(stock.outcomes), count, table.String())
}

func sorted(outcomes map[string]outcome) (names []string) {
	for name := range outcomes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
