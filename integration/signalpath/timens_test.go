package signalpath

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
)

// Of two who stop a container one is in another time namespace: they mean the same
// instants, whoever was first.
func TestStopFromAnotherTimeNamespace(t *testing.T) {
	const ahead, behind = "100000", "-1"
	if out, err := exec.Command("unshare", "-T", "--monotonic", ahead, "true").CombinedOutput(); err != nil {
		t.Skipf("no time namespace can be made here: %s", out)
	}
	each(t, true, func(t *testing.T, p pairing) {
		if !strings.HasSuffix(p.name, "gracerun over runc") {
			t.Skip("one runtime is enough")
		}
		for _, order := range [][2]string{{"0", ahead}, {ahead, "0"}, {behind, ahead}} {
			t.Run(order[0]+" and then "+order[1], func(t *testing.T) {
				t.Parallel()
				const grace = 4 * time.Second
				c := start(t, p, testbed.Options{Workload: deaf, Grace: time.Minute})
				ctx := patience(t)
				begin := testbed.Now()
				ends := make(chan error, 2)
				stop := func(offset string) {
					argv := []string{"-T", "--monotonic", offset, gracerun(), "--root", c.Root(), "stop", "--timeout", "4s", c.ID}
					cmd := c.Command(ctx, "unshare")
					cmd.Args = append(cmd.Args[:len(cmd.Args)-2], argv...)
					var out bytes.Buffer
					cmd.Stdout, cmd.Stderr = &out, &out
					err := cmd.Run()
					if out.String() == "signal=9\n" {
						err = nil
					} else {
						t.Errorf("stop with the clock %s s ahead: %v: %s", offset, err, out.String())
					}
					ends <- err
				}
				go stop(order[0])
				err := testbed.Until(ctx, "the first has begun to stop it", func() bool {
					return strings.Contains(call(t, c, gracerun(), "trace", c.ID).stdout, "SIGTERM ok")
				})
				if err != nil {
					t.Error(err)
				}
				go stop(order[1])
				<-ends
				<-ends
				took := c.Ended() - begin
				if took < grace {
					t.Errorf("it was killed after %v of a grace of %v", took, grace)
				}
			})
		}
	})
}
