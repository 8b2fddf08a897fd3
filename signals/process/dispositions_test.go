package process

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"gracerun.io/signals"
)

func dispositions(t *testing.T, pid int) Dispositions {
	t.Helper()
	d, err := ReadDispositions(pid)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Each case is a real process: the forecast is checked, then the signal is sent
// and the process must do as forecast.
func TestHears(t *testing.T) {
	type ending func(t *testing.T, c *child, p Pidfd)
	for _, test := range []struct {
		name    string
		root    bool
		start   func(t *testing.T) *child
		settled func(d Dispositions) bool
		hears   bool
		why     string
		ending  ending
	}{
		{
			name:  "default action",
			start: func(t *testing.T) *child { return startSleep(t) },
			hears: true, why: "default action: terminates", ending: endsBy(Status{Known: true, Signal: signals.TERM}),
		},
		{
			name: "PID 1 without a handler", root: true,
			start: func(t *testing.T) *child { return startSleep(t, asInit) },
			why:   "PID 1 of a pid namespace without a handler", ending: livesOn(false),
		},
		{
			name: "PID 1 with a handler", root: true,
			start: func(t *testing.T) *child { return started(startHelper(t, "handler", asInit)) },
			hears: true, why: "has a handler", ending: endsBy(Status{Known: true, Code: 7}),
		},
		{
			name: "PID 1 that waits for it", root: true,
			start:   func(t *testing.T) *child { return startHelper(t, "waiter", asInit) },
			settled: func(d Dispositions) bool { return d.Awaited.Has(signals.TERM) },
			hears:   true, why: "a thread waits for signals in sigtimedwait", ending: endsBy(Status{Known: true, Code: 7}),
		},
		{
			name: "PID 1 with a signalfd", root: true,
			start:   func(t *testing.T) *child { return startHelper(t, "signalfd", asInit) },
			settled: func(d Dispositions) bool { return d.Caught == 0 && d.Threads == 1 && d.Signalfd.Has(signals.TERM) },
			hears:   true, why: "reads it from a signalfd", ending: readsFromSignalfd,
		},
		{
			name: "PID 1 that blocks it", root: true,
			start:   func(t *testing.T) *child { return startHelper(t, "blocker", asInit) },
			settled: blocksTermOnly,
			why:     "blocked: pending until unblocked", ending: livesOn(true),
		},
		{
			name:    "blocked",
			start:   func(t *testing.T) *child { return startHelper(t, "blocker") },
			settled: blocksTermOnly,
			why:     "blocked: pending until unblocked", ending: livesOn(true),
		},
		{
			name: "ignored",
			start: func(t *testing.T) *child {
				return started(start(t, exec.Command("sh", "-c", `trap "" TERM; echo ready; exec sleep 1000`)))
			},
			why: "ignored", ending: livesOn(false),
		},
		{
			name: "stopped",
			start: func(t *testing.T) *child {
				c := startSleep(t)
				if err := openPidfd(t, c.pid()).Send(signals.STOP); err != nil {
					t.Fatal(err)
				}
				return c
			},
			settled: func(d Dispositions) bool { return d.State == Stopped },
			why:     "is stopped: pending until it continues", ending: endsWhenContinued,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.root {
				needRoot(t)
			}
			c := test.start(t)
			p := openPidfd(t, c.pid())
			if test.settled != nil {
				eventually(t, "the process to be as the case says", func() bool { return test.settled(dispositions(t, c.pid())) })
			}
			d := dispositions(t, c.pid())
			if d.IsInit() != test.root {
				t.Errorf("IsInit is %v; numbers are %v", d.IsInit(), d.NSPids)
			}
			if hears, why := d.Hears(signals.TERM); hears != test.hears || why != test.why {
				t.Errorf("Hears(TERM) is %v, %q; want %v, %q (%+v)", hears, why, test.hears, test.why, d)
			}
			if hears, why := d.Hears(signals.KILL); !hears {
				t.Errorf("Hears(KILL) is false, %q", why)
			}
			if err := p.Send(signals.TERM); err != nil {
				t.Fatal(err)
			}
			test.ending(t, c, p)
		})
	}
}

// blocksTermOnly tells the program from what it is before its execve: that has
// no handler either for a moment, but blocks every signal, or none.
func blocksTermOnly(d Dispositions) bool {
	return d.Caught == 0 && d.Threads == 1 && d.Blocked == 1<<(signals.TERM-1)
}

func started(c *child) *child {
	c.t.Helper()
	c.line()
	return c
}

func endsBy(want Status) func(*testing.T, *child, Pidfd) {
	return func(t *testing.T, c *child, p Pidfd) {
		t.Helper()
		if exited, err := p.Wait(limit); !exited || err != nil {
			t.Fatalf("Wait is %v, %v", exited, err)
		}
		if hears, why := dispositionsHears(t, c.pid(), signals.TERM); hears || why != "has exited" {
			t.Errorf("a zombie: Hears is %v, %q", hears, why)
		}
		if got, err := p.Reap(); got != want || err != nil {
			t.Errorf("ended with %+v, %v; want %+v", got, err, want)
		}
		if _, err := ReadDispositions(c.pid()); !errors.Is(err, ErrGone) {
			t.Errorf("after it was reaped: %v, want ErrGone", err)
		}
	}
}

func dispositionsHears(t *testing.T, pid int, sig signals.Signal) (bool, string) {
	t.Helper()
	d := dispositions(t, pid)
	return d.Hears(sig)
}

// livesOn: had TERM acted, it would be what the process died of, for it came
// before KILL.
func livesOn(pending bool) func(*testing.T, *child, Pidfd) {
	return func(t *testing.T, c *child, p Pidfd) {
		t.Helper()
		if d := dispositions(t, c.pid()); d.SharedPending.Has(signals.TERM) != pending {
			t.Errorf("pending signals are %x, TERM among them: want %v", d.SharedPending, pending)
		}
		if err := p.Send(signals.KILL); err != nil {
			t.Fatal(err)
		}
		endsBy(Status{Known: true, Signal: signals.KILL})(t, c, p)
	}
}

func endsWhenContinued(t *testing.T, c *child, p Pidfd) {
	t.Helper()
	d := dispositions(t, c.pid())
	if !d.SharedPending.Has(signals.TERM) {
		t.Errorf("pending signals are %x, want TERM among them", d.SharedPending)
	}
	if hears, why := d.Hears(signals.CONT); !hears {
		t.Errorf("Hears(CONT) is false, %q", why)
	}
	if err := p.Send(signals.CONT); err != nil {
		t.Fatal(err)
	}
	endsBy(Status{Known: true, Signal: signals.TERM})(t, c, p)
}

func readsFromSignalfd(t *testing.T, c *child, p Pidfd) {
	t.Helper()
	var siginfo [128]byte
	if _, err := io.ReadFull(c.out, siginfo[:]); err != nil || siginfo[0] != byte(signals.TERM) {
		t.Errorf("the process read % x, %v; want TERM", siginfo[:4], err)
	}
	livesOn(false)(t, c, p)
}

// From inside a pid namespace not even KILL reaches its PID 1.
func TestKillOfOnesOwnInit(t *testing.T) {
	if !inPidNamespace(t) {
		return
	}
	d := dispositions(t, 1)
	if !slices.Equal(d.NSPids, []int{1}) {
		t.Fatalf("numbers are %v", d.NSPids)
	}
	if hears, why := d.Hears(signals.KILL); hears {
		t.Errorf("Hears(KILL) is true, %q", why)
	}
	// This process is that PID 1: the signal is sent, and the test goes on.
	if err := openPidfd(t, 1).Send(signals.KILL); err != nil {
		t.Error(err)
	}
}

func TestDefaultActions(t *testing.T) {
	d := dispositions(t, startSleep(t).pid())
	for sig, want := range map[signals.Signal]string{
		signals.INT:       "default action: terminates",
		signals.RTMIN + 3: "default action: terminates",
		signals.TSTP:      "default action: stops",
		signals.WINCH:     "default action: ignored",
		signals.CHLD:      "default action: ignored",
		signals.CONT:      "default action: continues, but is not stopped",
		signals.STOP:      "cannot be caught, blocked or ignored",
		signals.Probe:     "no signal has this number",
		65:                "no signal has this number",
	} {
		if _, why := d.Hears(sig); why != want {
			t.Errorf("Hears(%v): %q, want %q", sig, why, want)
		}
	}
}

func TestReadDispositionsOfManyThreads(t *testing.T) {
	d := dispositions(t, os.Getpid())
	if d.Threads < 2 || !d.Caught.Has(signals.URG) || d.Blocked.Has(signals.TERM) {
		t.Errorf("of this Go program: %+v", d)
	}
	if _, err := ReadDispositions(maxPid + 1); !errors.Is(err, ErrGone) {
		t.Errorf("of nobody: %v, want ErrGone", err)
	}
}

const sampleStatus = "Name:\tSigCgt:\\n x\nUmask:\t0022\nState:\tS (sleeping)\nNSpid:\t812\t7\t1\nThreads:\t3\n" +
	"SigQ:\t0/96365\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000004000\n" +
	"SigIgn:\t8000000000000000\nSigCgt:\t0000000180004a02\n"

func TestParseStatus(t *testing.T) {
	d, err := ParseStatus([]byte(sampleStatus))
	if err != nil {
		t.Fatal(err)
	}
	if d.State != 'S' || d.Threads != 3 || !slices.Equal(d.NSPids, []int{812, 7, 1}) || !d.IsInit() ||
		!d.Pending.Has(signals.HUP) || !d.SharedPending.Has(signals.INT) || !d.Blocked.Has(signals.TERM) ||
		!d.Ignored.Has(signals.RTMAX) || !d.Caught.Has(signals.INT) || d.Caught.Has(signals.HUP) ||
		d.Ignored.Has(signals.Probe) || d.Ignored.Has(65) {
		t.Errorf("read as %+v", d)
	}
	// Each line is needed, and needs a value.
	for _, field := range []string{"State", "NSpid", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"} {
		for _, replacement := range []string{"Gone:", field + ":\n", field + ":\t-1 x"} {
			text := replaceLine(sampleStatus, field+":", replacement)
			if d, err := ParseStatus([]byte(text)); err == nil && !(field == "State" && d.State == '-') {
				t.Errorf("with %q: read as %+v, want an error", replacement, d)
			}
		}
	}
}

func replaceLine(text, prefix, replacement string) string {
	lines := slices.Collect(strings.Lines(text))
	for i, line := range lines {
		if strings.HasPrefix(line, prefix) {
			lines[i] = replacement + "\n"
		}
	}
	return strings.Join(lines, "")
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(sampleStatus))
	f.Add([]byte("State:\t\nThreads:\t1 2\nNSpid:\t-1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := ParseStatus(text)
		if err != nil {
			return
		}
		if len(d.NSPids) == 0 || d.Threads < 0 {
			t.Errorf("ParseStatus(%q) = %+v", text, d)
		}
		for sig := signals.Probe; sig <= signals.RTMAX+1; sig++ {
			hears, why := d.Hears(sig)
			if why == "" || hears && (!sig.Valid() || d.Blocked.Has(sig) && sig != signals.KILL && sig != signals.STOP && sig != signals.CONT) {
				t.Errorf("of %+v: Hears(%v) is %v, %q", d, sig, hears, why)
			}
		}
	})
}
