package shim

import (
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/journal"
)

func TestIsAncestor(t *testing.T) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(unix.Getppid()) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	grandparent, err := parentOf(stat)
	if err != nil {
		t.Fatal(err)
	}
	if !isAncestor(unix.Getppid()) || grandparent > 1 && !isAncestor(grandparent) {
		t.Error("an ancestor is not known")
	}
	if isAncestor(unix.Getpid()) || isAncestor(1<<22) {
		t.Error("a stranger is taken for an ancestor")
	}
}

func TestParentOf(t *testing.T) {
	if pid, err := parentOf([]byte("12 (a) S 1 (b) R) S 34 12 12 0")); err != nil || pid != 34 {
		t.Errorf("%d, %v", pid, err)
	}
	for _, text := range []string{"", "12 (a) S", "12 (a) S x"} {
		if pid, err := parentOf([]byte(text)); err == nil {
			t.Errorf("%q: %d", text, pid)
		}
	}
}

// What a predecessor of the same id has left is removed file by file: a create that
// looks in the midst of it waits, and finds the place free.
func TestCreateWhileRemainsAreRemoved(t *testing.T) {
	root := t.TempDir()
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	theirs, err := statedir.Create(root, "c")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	defer theirs.Remove()
	ours, err := statedir.Open(root, "c")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if err := journal.Lock(theirs.FD()); err != nil {
		t.Fatal(err)
	}
	stale := make(chan bool)
	go func() { stale <- parse([]string{"gracerun", "--root", root, "create", "c"}).isStale(ours, "c") }()
	select {
	case is := <-stale:
		t.Fatalf("nothing was removed yet, and it is stale: %t", is)
	case <-time.After(50 * time.Millisecond):
	}
	if err := theirs.Remove(); err != nil {
		t.Fatal(err)
	}
	journal.Unlock(theirs.FD())
	if !<-stale {
		t.Error("what was removed is taken for a container")
	}
}
