// Package races stages every scenario of testdata/races: a race that the stock
// stack loses each time must be lost by it here too, and never by ours.
package races

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"gracerun.io/internal/races"
	"gracerun.io/internal/testbed"
)

// atOnce is how many scenarios are staged at a time: they mostly wait.
const atOnce = 4

func TestRaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can stage races: containers and the kernel's trace of signals need it")
	}
	for _, program := range []string{"conmon", "strace", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (make deps)", program)
		}
	}
	bin, dir := t.TempDir(), t.TempDir()
	for _, why := range testbed.Build(bin, "gracemon", "gracerun") {
		t.Fatal(why)
	}
	all, err := races.All()
	if err != nil {
		t.Fatal(err)
	}
	staged := make([]*races.Staged, len(all))
	var wait sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i, s := range all {
		if s.Drain > 0 {
			// How fast the last one is told is for `gracelab drain` to say, on a
			// machine that has nothing else to do.
			s.Drain, s.Harm, s.Sound = 20, []string{"herd-harmed"}, "20 are not many"
		}
		free <- struct{}{}
		wait.Go(func() {
			staged[i] = stage(t, s, bin, dir)
			<-free
		})
	}
	wait.Wait()
	for i, s := range all {
		t.Run(s.ID, func(t *testing.T) { judge(t, s, staged[i]) })
	}
}

// stall is how long the machine may stand still for a scene, where times of a
// second are told apart, to be judged by.
const stall = 300 * time.Millisecond

// stage stages a scenario. One that does not end as it should counts if the
// machine did not stand still meanwhile; else it gets another go, three in all.
func stage(t *testing.T, s *races.Scenario, bin, dir string) (staged *races.Staged) {
	for range 3 {
		longest := testbed.WatchStalls()
		staged = s.Stage(bin, dir, runtimeFor(s))
		still := longest()
		wrong := complaints(s, staged)
		if len(wrong) == 0 || still < stall {
			break
		}
		t.Logf("%s: the machine stood still for %s, and %s", s.ID, still.Round(time.Millisecond), strings.Join(wrong, "; "))
	}
	return staged
}

// runtimeFor is the first runtime that can have the race and is installed.
func runtimeFor(s *races.Scenario) string {
	for _, name := range s.Runtimes {
		if _, err := exec.LookPath(name); err == nil {
			return name
		}
	}
	return s.Runtimes[0]
}

func judge(t *testing.T, s *races.Scenario, staged *races.Staged) {
	if staged.Stock.Skipped != "" {
		t.Skip(staged.Stock.Skipped)
	}
	if staged.Ours.Skipped == races.NoRecovery {
		t.Skip(staged.Ours.Skipped)
	}
	t.Logf("stock: harm in %d of %d: %s", staged.Stock.Harmed, staged.Stock.Trials, strings.Join(staged.Stock.Harms, "; "))
	for _, v := range []*races.Verdict{staged.Stock, staged.Ours} {
		if v.Shown != nil && v.Shown.Timeline != nil {
			var text bytes.Buffer
			v.Shown.Timeline.Text(&text)
			t.Logf("%s\n%s", v.Stack.Name, text.String())
		}
	}
	for _, wrong := range complaints(s, staged) {
		t.Error(wrong)
	}
}

// complaints says what is not as it should be.
func complaints(s *races.Scenario, staged *races.Staged) (all []string) {
	if staged.Stock.Skipped != "" || staged.Ours.Skipped == races.NoRecovery {
		return nil
	}
	switch ours := staged.Ours; {
	case ours.Skipped != "":
		all = append(all, "could not be staged on ours: "+ours.Skipped)
	case s.Ours.Cannot != "":
		if !ours.Shown.Warned {
			all = append(all, "gracelab check does not warn of it")
		}
	case ours.Harmful():
		all = append(all, fmt.Sprintf("ours does harm, in %d of %d: %s", ours.Harmed, ours.Trials, strings.Join(ours.Harms, "; ")))
	}
	// A race that is lost only sometimes may have been won.
	if s.Sound == "" && s.Trials == 1 && !staged.Stock.Harmful() {
		all = append(all, "the stock stack does no harm: is the scene right, or the race mended? Then it belongs marked as sound")
	}
	return all
}
