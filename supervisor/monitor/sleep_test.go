package monitor

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/ownsignal"
	"gracerun.io/supervisor/recovery"
	"gracerun.io/supervisor/slumber"
)

func TestRestPatience(t *testing.T) {
	for text, want := range map[string]lifecycle.Duration{
		"": usualPatience, "off": 0, "0": 0, "0s": 0, "200ms": 200 * lifecycle.Millisecond, "1m": 60 * lifecycle.Second,
		"10": usualPatience, "-1s": usualPatience, "never": usualPatience,
	} {
		t.Setenv(sleepVariable, text)
		got, wrong := restPatience()
		if got != want || (wrong != "") != slices.Contains([]string{"10", "-1s", "never"}, text) {
			t.Errorf("%q is %v, and %q is said", text, got, wrong)
		}
	}
}

// Both know by themselves which signal is in which field.
func TestFieldsOfSignals(t *testing.T) {
	s, err := ownsignal.Catch(caughtSignals[:]...)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s.FD())
	for _, sig := range caughtSignals {
		if got, want := slumber.Unit(sig), ownsignal.Unit(sig); got != want {
			t.Errorf("asleep %v adds %x, awake %x", sig, got, want)
		}
	}
}

// The second sleep in a row that was shorter than the wait for it doubles the wait, one
// that was longer makes it the usual again; who dies asleep too often stays awake.
func TestHowTheSleepWas(t *testing.T) {
	t.Setenv(sleepVariable, "1s")
	dir, err := unix.Open(t.TempDir(), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	memo, err := recovery.CreateNotes(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer memo.Close()
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	c := &Container{s: &Supervisor{loop: l}, memo: memo, o: &cmdline.Options{}, notes: &notes{}}
	slept := func(d lifecycle.Duration, same bool) {
		memo.SetAsleep(loop.Now() - lifecycle.Instant(d))
		c.awake(same)
		if memo.Asleep() != 0 {
			t.Error("it still sleeps")
		}
	}
	expect := func(want lifecycle.Duration) {
		t.Helper()
		c.s.rest = rest{}
		if c.restWhenIdle(); c.s.rest.every != want {
			t.Errorf("it waits %v, not %v", c.s.rest.every, want)
		}
	}
	expect(lifecycle.Second)
	for _, want := range []lifecycle.Duration{1, 2, 4, 8, 16, 32, 64, 64} {
		slept(0, true)
		expect(want * lifecycle.Second)
	}
	c.awake(true) // an upgrade
	expect(64 * lifecycle.Second)
	slept(65*lifecycle.Second, true)
	expect(lifecycle.Second)
	slept(0, true)
	expect(lifecycle.Second)
	for range mostSleepsLost {
		expect(lifecycle.Second)
		slept(0, false)
	}
	expect(0)
}

func TestSharedLimit(t *testing.T) {
	for _, test := range []struct {
		own, its string
		limits   map[string]int
		user     int
		want     bool
	}{
		{own: "/machine.slice/libpod-conmon-1.scope", its: "/machine.slice/libpod-1.scope/container"},
		{own: "/a/conmon", its: "/a/ctr", limits: map[string]int{"/a": 100_000}, want: true},
		{own: "/a/conmon", its: "/a/ctr", limits: map[string]int{"/a": 1000, "/a/ctr": 100}},
		{own: "/a/conmon", its: "/a/ctr", limits: map[string]int{"/a": 100, "/a/ctr": 90}, want: true}, // nearly all
		{own: "/pod/conmon", its: "/pod/ctr", limits: map[string]int{"/pod": 40, "/pod/ctr": 1000}, want: true},
		{own: "/pod/conmon", its: "/pod/ctr/nested", limits: map[string]int{"/pod": 40, "/pod/ctr": 1000, "/pod/ctr/nested": 5}},
		{own: "/all/pod/conmon", its: "/all/pod/ctr", limits: map[string]int{"/all": 500, "/all/pod": 2000, "/all/pod/ctr": 1000}, want: true},
		{own: "/all/pod/conmon", its: "/all/pod/ctr", limits: map[string]int{"/all": 50, "/all/pod": 2000, "/all/pod/ctr": 10}},
		{own: "/a/conmon", its: "/a/b/ctr", limits: map[string]int{"/a": 1000, "/a/b": 100}},
		{own: "/a/conmon", its: "/ab/ctr", limits: map[string]int{"/a": 10}},
		{own: "/a", its: "/a/ctr", limits: map[string]int{"/a": 10}, want: true},
		{own: "/a", its: "/a", limits: map[string]int{"/a": 1000}, want: true},
		{own: "/", its: "/", limits: map[string]int{"": 1000}, want: true},
		{own: "/", its: "/a/b"},
		{own: "/", its: "/a/b", user: 1000, want: true},
		{own: "/", its: "/a/b", user: 1000, limits: map[string]int{"/a/b": 100}},
		{own: "/", its: "/a/b", user: 1000, limits: map[string]int{"/a/b": 2000}, want: true},
	} {
		limit := func(path string) (int, bool) { n, ok := test.limits[path]; return n, ok }
		if got := sharedLimit(test.own, test.its, limit, func() (int, bool) { return test.user, test.user > 0 }); got != test.want {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}
