package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// leftOpen is a pipe that the caller of a program has left open in it.
func leftOpen(t *testing.T) (link string, end func()) {
	t.Helper()
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", pipe[1]))
	if err != nil {
		t.Fatal(err)
	}
	return link, func() {
		unix.Close(pipe[0])
		unix.Close(pipe[1])
	}
}

// heldBy waits until nobody has it open but the test and the processes named.
func heldBy(t *testing.T, link string, when string, named ...int) {
	t.Helper()
	var strangers []string
	if err := until("nobody else holds it", func() bool {
		strangers = nil
		found, _ := filepath.Glob("/proc/[0-9]*/fd/*")
		for _, path := range found {
			pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
			if to, _ := os.Readlink(path); to != link || pid == os.Getpid() || slices.Contains(named, pid) {
				continue
			}
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			strangers = append(strangers, string(text))
		}
		return len(strangers) == 0
	}); err != nil {
		t.Errorf("%s it is held by %q", when, strangers)
	}
}

// What a caller has open when it starts a supervisor, the supervisor holds as conmon
// does, as long as the container runs. Those who outlive it hold nothing of it: the
// keeper, and a successor, whether the keeper or a call of gracerun has started it.
func TestResidentsHoldNothingOfTheirCallers(t *testing.T) {
	s := newStack(t, "runc")
	for _, keeper := range []bool{true, false} {
		p := plan{code: 5, after: 0, burst: 1, pause: 0, most: 1}
		if !keeper {
			p.env = []string{"GRACEMON_KEEPER=off"}
		}
		c, err := s.make(p)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := c.remove(); err != nil {
				t.Error(err)
			}
		}()
		link, end := leftOpen(t)
		err = c.create()
		if err != nil {
			t.Fatal(err)
		}
		first, before := pidOf(t, c), c.numbered(t)
		heldBy(t, link, fmt.Sprintf("keeper %v: after the create", keeper), first, c.pid)
		if keeper {
			s.keeper(t) // it is there
		}
		if !c.killMonitor() {
			t.Fatal("it has no supervisor")
		}
		if _, err := c.gracerun("state", c.id); err != nil { // once there is a successor
			t.Error(err)
		}
		if c.numbered(t) == before {
			t.Error("it has no successor")
		}
		heldBy(t, link, fmt.Sprintf("keeper %v: after the supervisor's death", keeper), c.pid)
		end()
	}
}
