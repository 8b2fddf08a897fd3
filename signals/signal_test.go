package signals

import (
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Signal{
		"TERM": TERM, "SIGTERM": TERM, "sigterm": TERM, "SigTerm": TERM, "term": TERM,
		"15": TERM, "SIG15": TERM, "015": TERM, "1": HUP, "64": RTMAX, "32": 32, "SIG33": 33,
		"IOT": ABRT, "SIGCLD": CHLD, "poll": IO, "IO": IO, "winch": WINCH,
		"+15": 15, "+015": 15, "RTMIN": 34, "SIGRTMIN": 34, "RTMIN+0": 34, "RTMIN+3": 37, "SIGRTMIN+3": 37, "sigrtmin+15": 49,
		"RTMIN+16": 50, "RTMIN+30": 64, "RTMAX": 64, "RTMAX-1": 63, "SIGRTMAX-14": 50, "RTMAX-30": 34,
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", " ", " TERM", "TERM ", "TERM\n", "SIG", "SIGSIGTERM", "FOO", "TERM\x00",
		"65", "99999999999999999999", "-1", "-15", "+", "++15", "+65", "SIG+15", "+TERM", "15abc", "0x0f", "1e1", "1_5", "١٥",
		"RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMAX-31", "RTMIN+", "RTMIN++1", "RTMIN+-1", "RTMIN3", "RTMIN+99999999999999999999",
		"ſIGTERM", "wınch", "\xff", "0", "SIG0", "00",
	} {
		got, err := Parse(text)
		var unknown *UnknownError
		if !errors.As(err, &unknown) || unknown.Input != text || got != 0 {
			t.Errorf("Parse(%q) = %d, %v; want an UnknownError", text, got, err)
		}
	}
}

func TestUnknownErrorIsOneLine(t *testing.T) {
	_, err := Parse("TE\nRM")
	if want := `unknown signal "TE\nRM"`; err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
}

// crun and runc hand 0 on to the kernel, which delivers nothing and answers
// whether the process is there.
func TestParseKillTakesTheProbe(t *testing.T) {
	for _, text := range []string{"0", "SIG0"} {
		if got, err := ParseKill(text); err != nil || got != Probe {
			t.Errorf("ParseKill(%q) = %d, %v; want the probe", text, got, err)
		}
	}
	if got, err := ParseKill("KILL"); err != nil || got != KILL {
		t.Errorf("ParseKill(KILL) = %d, %v", got, err)
	}
	if Probe.Valid() {
		t.Error("the probe is taken for a signal that can be delivered")
	}
}

func TestNamesRoundTrip(t *testing.T) {
	for s := HUP; s <= RTMAX; s++ {
		for _, text := range []string{s.Name(), s.String(), strings.ToLower(s.String()), strconv.Itoa(int(s))} {
			if got, err := Parse(text); err != nil || got != s {
				t.Errorf("Parse(%q) = %d, %v; want %d", text, got, err, s)
			}
		}
		if !s.Valid() {
			t.Errorf("%d is not valid", s)
		}
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[Signal]string{
		TERM: "SIGTERM", 32: "SIG32", 34: "SIGRTMIN", 37: "SIGRTMIN+3", 49: "SIGRTMIN+15",
		50: "SIGRTMAX-14", 63: "SIGRTMAX-1", 64: "SIGRTMAX", 0: "SIG0", 65: "SIG65", -1: "SIG-1",
	} {
		if got := s.String(); got != want {
			t.Errorf("Signal(%d) is %s, want %s", int(s), got, want)
		}
	}
}

// The table is written by hand; the system package's is generated from the
// kernel's headers.
func TestNumbersAreTheKernels(t *testing.T) {
	for s := HUP; s <= SYS; s++ {
		if got := unix.SignalNum(s.String()); got != syscall.Signal(s) {
			t.Errorf("%s is %d, the kernel says %d", s, int(s), int(got))
		}
	}
}

func TestPackageIsPure(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 3 {
		t.Fatalf("go list names %d packages, strings and strconv among them expected", len(deps))
	}
	for _, dep := range deps {
		switch {
		case dep == "os", dep == "syscall", dep == "time", strings.HasPrefix(dep, "golang.org/x/sys"):
			t.Errorf("signals imports %s, directly or not", dep)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"TERM", "SIGRTMIN+3", "RTMAX-1", "15", "0", "", "sigcld", "-9", "ſIGTERM"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			var unknown *UnknownError
			if !errors.As(err, &unknown) || unknown.Input != text || strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("Parse(%q): error %q", text, err)
			}
			return
		}
		if !s.Valid() {
			t.Fatalf("Parse(%q) = %d, which cannot be delivered", text, s)
		}
		if again, err := Parse(s.String()); err != nil || again != s {
			t.Errorf("Parse(%q) = %d, but its name %s gives %d, %v", text, s, s, again, err)
		}
		// runc's and crun's tables agree wherever they know the name.
		if n := unix.SignalNum(text); n != 0 && n != syscall.Signal(s) {
			t.Errorf("Parse(%q) = %d, the kernel says %d", text, s, n)
		}
	})
}
