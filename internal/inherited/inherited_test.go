package inherited

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDescriptors(t *testing.T) {
	var left, own [2]int
	if err := unix.Pipe(left[:]); err != nil {
		t.Fatal(err)
	}
	if err := unix.Pipe2(own[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(own[0])
	defer unix.Close(own[1])
	got := Descriptors(3)
	if !slices.Contains(got, left[0]) || !slices.Contains(got, left[1]) || slices.Contains(got, own[0]) || slices.Contains(got, own[1]) {
		t.Errorf("%v, with %v left open and %v not", got, left, own)
	}
	if got := Descriptors(left[1] + 1); slices.Contains(got, left[0]) || slices.Contains(got, left[1]) {
		t.Errorf("from %d on: %v", left[1]+1, got)
	}
	Close(left[0])
	for _, fd := range left {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("descriptor %d is open: %v", fd, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(own[0]), unix.F_GETFD, 0); err != nil {
		t.Errorf("one that is not to be inherited is closed: %v", err)
	}
}
