package hostclock

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"gracerun.io/supervisor/lifecycle"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]lifecycle.Duration{
		"monotonic           0         0\nboottime            0         0\n": 0,
		"monotonic      100000         0\nboottime         5000 500000000\n": 100_000 * lifecycle.Second,
		"boottime            1         2\nmonotonic          -3 700000000\n": -3*lifecycle.Second + 700*lifecycle.Millisecond,
		"monotonic  1 999999999\n": 2*lifecycle.Second - 1,
	} {
		if got, ok := parse([]byte(text)); got != want || !ok {
			t.Errorf("parse(%q) = %v, %v; want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "monotonic", "monotonic 1", "monotonic x 0", "monotonic 1 -1", "monotonic 1 1000000000",
		"monotonic 9223372036854775807 0", "monotonic -9223372036854775808 0", "boottime 1 2\n"} {
		if got, ok := parse([]byte(text)); got != 0 || ok {
			t.Errorf("parse(%q) = %v, %v; want nothing", text, got, ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("monotonic      100000         0\nboottime         5000 500000000\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, ok := parse(text); got != 0 && !ok {
			t.Errorf("parse(%q) = %v and is not understood", text, got)
		}
	})
}

// A process in another time namespace tells the same instant.
func TestNow(t *testing.T) {
	if os.Getenv("HOSTCLOCK_CHILD") != "" {
		os.Stdout.WriteString(strconv.FormatInt(int64(Now()), 10) + "\n")
		os.Exit(0)
	}
	for _, ahead := range []string{"100000", "0"} {
		before := Now()
		cmd := exec.Command("unshare", "-T", "--monotonic", ahead, os.Args[0], "-test.run", "^TestNow$")
		cmd.Env = append(os.Environ(), "HOSTCLOCK_CHILD=1")
		out, err := cmd.Output()
		if err != nil {
			t.Skip("no time namespace can be made here: " + err.Error())
		}
		got, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
		if after := Now(); err != nil || got < int64(before) || got > int64(after) {
			t.Errorf("%s seconds ahead: %d is not between %d and %d (%v)", ahead, got, before, after, err)
		}
	}
}
