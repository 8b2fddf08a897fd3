package signalpath

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/testbed"
)

// A container was stopped and deleted: its trace, its events and its stop are still
// there, by its id and by the beginning of it.
func TestAfterwards(t *testing.T) {
	each(t, true, func(t *testing.T, p pairing) {
		c := start(t, p, testbed.Options{Workload: orderly, Grace: time.Hour})
		if got := call(t, c, gracerun(), "stop", "--timeout", "600", c.ID); got.code != 7 || got.stdout != "code=7\n" {
			t.Fatalf("stop: %+v", got)
		}
		// gracemon may have removed it before, once its exit command had run.
		call(t, c, gracerun(), "delete", c.ID)
		if err := testbed.Until(patience(t), "the container is gone", func() bool {
			return call(t, c, gracerun(), "state", c.ID).code != 0
		}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{c.ID, c.ID[:len(c.ID)-1]} {
			got := call(t, c, gracerun(), "trace", name)
			first, _, _ := strings.Cut(got.stdout, "\n")
			if got.code != 0 || !strings.HasPrefix(first, "container "+c.ID) || !strings.HasSuffix(first, ", deleted") || !strings.Contains(got.stdout, "record-exit code=7 in-grace") {
				t.Errorf("trace %s: %+v", name, got)
			}
		}
		lines := strings.Split(strings.TrimSpace(call(t, c, gracerun(), "events", "--signals", c.ID).stdout), "\n")
		var last struct {
			Type, ID string
			Time     time.Time
			Data     struct{ Status, Reason, Margin string }
		}
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Type != "ended" || last.ID != c.ID ||
			last.Data.Status != "code=7" || last.Data.Reason != "in-grace" || last.Data.Margin == "" || time.Since(last.Time) > time.Hour {
			t.Errorf("the last event is %+v (%v) of %q", last, err, lines)
		}
		var stops []struct {
			ID, Status, Reason string
			Asked              time.Time
			GraceSeconds       float64
			TookSeconds        float64
			GraceUsed          float64
		}
		got := call(t, c, gracerun(), "list", "--stops", "--format", "json")
		if err := json.Unmarshal([]byte(got.stdout), &stops); err != nil {
			t.Fatalf("%v: %+v", err, got)
		}
		found := 0
		for _, s := range stops {
			if s.ID == c.ID {
				found++
				if s.Status != "code=7" || s.Reason != "in-grace" || s.GraceSeconds != 600 || s.TookSeconds <= 0 || s.GraceUsed <= 0 || s.GraceUsed > 1 || time.Since(s.Asked) > time.Hour {
					t.Errorf("%+v", s)
				}
			}
		}
		if table := call(t, c, gracerun(), "list", "--stops").stdout; found != 1 || !strings.Contains(table, "code=7 in-grace") {
			t.Errorf("%d stops of it in %s\n%s", found, got.stdout, table)
		}
	})
}
