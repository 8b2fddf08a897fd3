package monitor

import (
	"os"
	"path/filepath"
	"testing"

	"gracerun.io/supervisor/recovery"
)

// A place that --recover or --upgrade names must have a container in it, unless it
// is the keeper that names it, or stands for all there are.
func TestEachNamesAPlace(t *testing.T) {
	base := t.TempDir()
	t.Setenv("GRACERUN_STATE_DIR", base)
	found := filepath.Join(base, "default", "id")
	os.MkdirAll(found, 0o700)
	os.WriteFile(filepath.Join(found, recovery.OriginName), nil, 0o600)
	for _, test := range []struct {
		where     string
		mayBeGone bool
		status    int
		calls     int
	}{
		{base, false, 0, 1}, {found, false, 0, 1}, {found + "/", false, 0, 1}, {"all", false, 0, 1},
		{base + "/nosuch", false, 1, 0}, {base + "/nosuch", true, 0, 0}, {t.TempDir(), false, 1, 0},
	} {
		calls := 0
		status := each(test.where, test.mayBeGone, func(string) error { calls++; return nil })
		if status != test.status || calls != test.calls {
			t.Errorf("%s: status %d after %d calls, want %d after %d", test.where, status, calls, test.status, test.calls)
		}
	}
	t.Setenv("GRACERUN_STATE_DIR", base+"/nosuch")
	if status := each("all", false, nil); status != 0 {
		t.Errorf("nothing to do for all: status %d", status)
	}
}
