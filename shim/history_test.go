package shim

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
)

func TestEventLines(t *testing.T) {
	at := time.Date(2026, 8, 19, 12, 0, 0, 1, time.UTC)
	for _, test := range []struct {
		record journal.Record
		want   string
	}{
		{journal.Record{Event: "signal #12 SIGTERM all force", Effects: []string{"breach #12 repeated-stop", "deliver #12 SIGTERM to=init"}},
			`{"type":"signal","id":"c","time":"2026-08-19T12:00:00.000000001Z","data":{"request":"#12","signal":"SIGTERM","all":true,"force":true}}
{"type":"breach","id":"c","time":"2026-08-19T12:00:00.000000001Z","data":{"request":"#12","breach":"repeated-stop"}}
`},
		{journal.Record{Event: "stop #3 SIGINT grace=10s"},
			`{"type":"stop","id":"c","time":"2026-08-19T12:00:00.000000001Z","data":{"request":"#3","signal":"SIGINT","grace":"10s"}}
`},
		{journal.Record{Event: "delivered kill SIGKILL errno=3"},
			`{"type":"delivered","id":"c","time":"2026-08-19T12:00:00.000000001Z","data":{"request":"kill","signal":"SIGKILL","errno":3}}
`},
		{journal.Record{Event: "delivered stop SIGTERM ok"},
			`{"type":"delivered","id":"c","time":"2026-08-19T12:00:00.000000001Z","data":{"request":"stop","signal":"SIGTERM","errno":0}}
`},
		{journal.Record{Event: "init-exited signal=SIGKILL"},
			`{"type":"init-exited","id":"c","time":"2026-08-19T12:00:00.000000001Z","data":{"signal":"SIGKILL"}}
`},
		{journal.Record{Event: "init-exited unknown"},
			`{"type":"init-exited","id":"c","time":"2026-08-19T12:00:00.000000001Z","data":{"unknown":true}}
`},
		{journal.Record{Event: "init-exited code=7"},
			`{"type":"init-exited","id":"c","time":"2026-08-19T12:00:00.000000001Z","data":{"code":7}}
`},
		{journal.Record{Event: "freezer frozen"}, ""},
		{journal.Record{}, ""},
	} {
		got := string(appendEvents(nil, "c", at, &test.record))
		if got != test.want {
			t.Errorf("%q gives\n%s\nwant\n%s", test.record.Event, got, test.want)
		}
		for line := range strings.Lines(got) {
			if !json.Valid([]byte(line)) {
				t.Errorf("not JSON: %s", line)
			}
		}
	}
}

// Records of one instant are each read once, whenever the reader comes.
func TestFollower(t *testing.T) {
	var all []journal.Record
	for i, at := range []lifecycle.Instant{5, 7, 7, 7, 9, 9} {
		all = append(all, journal.Record{At: at, Event: strconv.Itoa(i)})
	}
	for first := range len(all) + 1 {
		for second := first; second <= len(all); second++ {
			var f follower
			var got string
			for _, end := range []int{first, second, second, len(all), len(all)} {
				for _, r := range f.fresh(all[:end]) {
					got += r.Event
				}
			}
			if got != "012345" {
				t.Errorf("read after %d, %d and %d records: %q", first, second, len(all), got)
			}
		}
	}
	// What was read first is not there any more, in a journal that has grown.
	f := follower{last: 7, same: 2}
	if got := f.fresh(all[4:]); len(got) != 2 {
		t.Errorf("of a journal whose beginning is gone: %v", got)
	}
}
