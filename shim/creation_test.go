package shim

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
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
