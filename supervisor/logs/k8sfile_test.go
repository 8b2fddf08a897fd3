package logs

import (
	"strings"
	"testing"
	"time"
)

func TestPrefix(t *testing.T) {
	var p prefix
	for _, test := range []struct {
		at     time.Time
		source Source
		want   string
	}{
		{time.Date(1997, 3, 25, 13, 20, 42, 999999999, time.FixedZone("", 3600)), Stdout, "1997-03-25T13:20:42.999999999+01:00 stdout F "},
		{time.Date(1997, 3, 25, 13, 20, 42, 1, time.FixedZone("", 3600)), Stderr, "1997-03-25T13:20:42.000000001+01:00 stderr F "},
		{time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC), Stdout, "2026-12-31T23:59:59.000000000+00:00 stdout F "},
		{time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", -(3*3600+30*60))), Stdout, "2026-01-02T03:04:05.000000006-03:30 stdout F "},
		{time.Date(2026, 1, 2, 3, 4, 6, 6, time.FixedZone("", 5*3600+45*60)), Stderr, "2026-01-02T03:04:06.000000006+05:45 stderr F "},
	} {
		p.at(test.at, test.source)
		p.text[prefixLen-2] = 'F'
		if got := string(p.text[:]); got != test.want {
			t.Errorf("got  %q\nwant %q", got, test.want)
		}
	}
}

func TestRecordsStopWhereTheyMust(t *testing.T) {
	p := &prefix{}
	p.at(time.Unix(0, 0), Stdout)
	const line = prefixLen + 4 // "abc\n"
	data := []byte("abc\nabc\nabc\nab")
	for name, test := range map[string]struct {
		out        int
		flush      bool
		room       room
		made, used int
		why        stop
	}{
		"held":               {1000, false, room{noLimit, noLimit, false}, 3 * line, 12, dataDone},
		"flushed":            {1000, true, room{noLimit, noLimit, false}, 4*line - 1, 14, dataDone},
		"buffer":             {2*line + 1, true, room{noLimit, noLimit, false}, 2 * line, 8, outFull},
		"file":               {1000, true, room{2*line + 1, noLimit, false}, 2 * line, 8, fileFull},
		"file exactly":       {1000, true, room{2 * line, noLimit, false}, 2 * line, 8, fileFull},
		"one in a tiny file": {1000, true, room{1, noLimit, true}, line, 4, fileFull},
		"total":              {1000, true, room{noLimit, line + 1, false}, 2 * line, 8, totalFull},
		"total reached":      {1000, true, room{noLimit, 0, false}, 0, 0, totalFull},
	} {
		t.Run(name, func(t *testing.T) {
			made, used, why := makeRecords(make([]byte, test.out), data, p, test.flush, test.room)
			if made != test.made || used != test.used || why != test.why {
				t.Errorf("made %d of %d bytes, stopped for %d; want %d of %d, %d", made, used, why, test.made, test.used, test.why)
			}
		})
	}
}

// However output is cut into pieces, the records give it back, none longer than
// conmon's.
func FuzzRecords(f *testing.F) {
	f.Add([]byte("a\n\nb\x00c\n"), uint16(3), false)
	f.Add([]byte(strings.Repeat("x", 9000)+"\n"), uint16(8192), true)
	f.Fuzz(func(t *testing.T, data []byte, piece uint16, flush bool) {
		p := &prefix{}
		p.at(time.Unix(0, 0), Stdout)
		out := make([]byte, 64<<10)
		var log []byte
		for from, to := 0, 0; from < len(data); {
			to = min(max(to, from)+1+int(piece), len(data))
			made, used, why := makeRecords(out, data[from:to], p, flush || to == len(data), room{noLimit, noLimit, false})
			log = append(log, out[:made]...)
			from += used
			if used == 0 && why != dataDone {
				t.Fatalf("stopped for %d with an empty buffer", why)
			}
		}
		if got := string(streamContent(log, "stdout")); got != string(data) {
			t.Errorf("%q is logged as %q", data, log)
		}
		for _, record := range strings.SplitAfter(string(log), "\n") {
			if len(record) > prefixLen+maxRecord+1 {
				t.Errorf("a record of %d bytes", len(record))
			}
		}
	})
}
