package signalpath

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
)

// A state base without room for another file, as a /run whose inodes are used up: with
// none, for the directories alone, or for some of the files in them. The container is
// made, started, stopped and deleted, as it is by conmon and runc, which have nothing
// there.
func TestNoInodesForState(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		if !strings.Contains(p.name, "runc") {
			t.Skip("one runtime is enough")
		}
		for inodes := 1; inodes <= 12; inodes++ {
			t.Run(fmt.Sprint(inodes), func(t *testing.T) {
				c, err := p.stack.New(t.TempDir(), testbed.Options{Workload: orderly, Grace: time.Minute})
				if err != nil {
					t.Fatal(err)
				}
				base := filepath.Dir(filepath.Dir(c.StateDir()))
				if err := unix.Mount("tmpfs", base, "tmpfs", 0, fmt.Sprintf("size=1m,mode=700,nr_inodes=%d", inodes)); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					call(t, c, gracerun(), "delete", "--force", c.ID)
					if err := unix.Unmount(base, unix.MNT_DETACH); err != nil {
						t.Error(err)
					}
				})
				ctx := patience(t)
				if err := c.Create(ctx); err != nil {
					t.Fatal(err)
				}
				if err := c.Start(ctx); err != nil {
					t.Fatal(err)
				}
				if err := c.Await(ctx, "ready"); err != nil {
					t.Fatal(err)
				}
				if got := call(t, c, gracerun(), "state", c.ID); !strings.Contains(got.stdout, `"status": "running"`) {
					t.Errorf("state: %+v", got)
				}
				if got := call(t, c, gracerun(), "kill", c.ID, "TERM"); got.code != 0 {
					t.Errorf("kill TERM: %+v", got)
				}
				if err := c.AwaitEnd(ctx); err != nil {
					t.Fatal(err)
				}
				if status := c.LastStatus(); status != 7 && status != -1 {
					t.Errorf("it ended with %d", status)
				}
				if err := c.AwaitExitFile(ctx); err != nil {
					t.Error(err)
				}
				err = testbed.Until(ctx, "it is deleted", func() bool {
					got := call(t, c, gracerun(), "delete", c.ID)
					return got.code == 0 || strings.Contains(got.stderr, "does not exist")
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
	})
}
