package localtime

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// zones are what users set, and what glibc takes: each kind of rule, both halves
// of the earth, and years in which summer lasts for ever.
var zones = []string{
	"EST5EDT4,M3.2.0,M11.1.0", "<+0545>-5:45", "EST5EDT,M3.2.0,M11.1.0", "XYZ3", "XYZ-13:30:15", ":ABC-2",
	"NZST-12NZDT,M9.5.0,M4.1.0/3", "CET-1CEST,M3.5.0,M10.5.0/3", "<-03>3<-02>,M3.5.0/-2,M10.5.0/-1",
	"AAA1BBB,J60,J300", "AAA1BBB,59,300/1:30:15", "AEST-10AEDT,M10.1.0,M4.1.0/3",
	"IST-1GMT0,M10.5.0,M3.5.0/1", "LHST-10:30LHDT-11,M10.1.0,M4.1.0",
}

// TestAgainstDate compares with what date(1) of the C library says, at instants of
// many years and right around each change.
func TestAgainstDate(t *testing.T) {
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	for _, tz := range zones {
		z, ok := parse(tz)
		if !ok {
			t.Errorf("%s is not understood", tz)
			continue
		}
		var instants []int64
		for range 100 {
			instants = append(instants, random.Int64N(4e9))
		}
		for year := 1999; year < 2012; year++ {
			for _, at := range []int64{z.begin.in(year) - int64(z.standard), z.end.in(year) - int64(z.summer)} {
				if z.hasSummer {
					instants = append(instants, at-1, at, at+1)
				}
			}
		}
		want := date(t, tz, instants)
		for i, at := range instants {
			offset := z.offset(at)
			sign := '+'
			if offset < 0 {
				sign, offset = '-', -offset
			}
			if got := fmt.Sprintf("%c%02d:%02d:%02d", sign, offset/3600, offset/60%60, offset%60); got != want[i] {
				t.Fatalf("%s at %d (%s): %s, date(1) says %s", tz, at, time.Unix(at, 0).UTC(), got, want[i])
			}
		}
	}
}

// date asks date(1) for the offset at each instant.
func date(t *testing.T, tz string, instants []int64) []string {
	t.Helper()
	var in bytes.Buffer
	for _, at := range instants {
		fmt.Fprintf(&in, "@%d\n", at)
	}
	cmd := exec.Command("date", "-f", "-", "+%::z")
	cmd.Stdin, cmd.Env = &in, append(os.Environ(), "TZ="+tz)
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("no date(1) to compare with: %v", err)
	}
	return strings.Fields(string(out))
}

// Without dates summer is as in the USA. (glibc may have a file that says how it
// was there in the past.)
func TestUsualSummer(t *testing.T) {
	short, _ := parse("EST5EDT")
	if long, ok := parse("EST5EDT4" + usual); !ok || short != long {
		t.Errorf("%+v, want %+v", short, long)
	}
}

func TestWhatIsNoZone(t *testing.T) {
	for _, tz := range []string{
		"", ":", "UTC", "Europe/Berlin", "/etc/localtime", "AB5", "EST", "EST5EDT,M3.2.0", "EST5EDT,M3.2.0,M11.1.0,", "EST25",
		"EST5:60", "<EST5", "EST5EDT,M13.1.0,M1.1.0", "EST5EDT,M1.6.0,M1.1.0", "EST5EDT,J0,J1", "EST5EDT,366,1", "EST5EDT,M3.2.0/168,1", "EST5 ",
	} {
		if z, ok := parse(tz); ok {
			t.Errorf("%q is read as %+v", tz, z)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tz := range zones {
		f.Add(tz, int64(1e9))
	}
	f.Fuzz(func(t *testing.T, tz string, at int64) {
		z, ok := parse(tz)
		if !ok {
			return
		}
		if offset := z.offset(at % (1 << 36)); offset != z.standard && offset != z.summer {
			t.Errorf("%q: %d", tz, offset)
		}
	})
}

// TestClock: the environment of a process decides. The test runs itself.
func TestClock(t *testing.T) {
	if os.Getenv("LOCALTIME_TEST") != "" {
		local, offset := Clock(time.Unix(1700000000, 5).Local())
		fmt.Println(local.Format("2006-01-02T15:04:05.000000000"), offset)
		os.Exit(0)
	}
	for tz, want := range map[string]string{
		"EST5EDT4,M3.2.0,M11.1.0": "2023-11-14T17:13:20.000000005 -18000",
		"<+0545>-5:45":            "2023-11-15T03:58:20.000000005 20700",
		"UTC":                     "2023-11-14T22:13:20.000000005 0",
		"Asia/Kathmandu":          "2023-11-15T03:58:20.000000005 20700",
		"nonsense":                "2023-11-14T22:13:20.000000005 0",
	} {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestClock$")
		cmd.Env = append(os.Environ(), "LOCALTIME_TEST=1", "TZ="+tz)
		out, err := cmd.Output()
		if got, _, _ := strings.Cut(string(out), "\n"); err != nil || got != want {
			t.Errorf("TZ=%s: %q, %v; want %q", tz, got, err, want)
		}
	}
}
