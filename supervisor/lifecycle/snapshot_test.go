package lifecycle

import (
	"strings"
	"testing"
)

func TestRestoreRefuses(t *testing.T) {
	for _, text := range []string{
		"", "created", "phase=dead", "phase=alive living", "phase=alive kill=busy/1", "phase=alive kill=maybe/1/1",
		"phase=alive request=1/own/15/init", "phase=alive request=1/some/15/init/sent", "phase=alive armed=soon",
		"phase=alive status=fine", "phase=alive cause=magic", "phase=alive what=1",
	} {
		if _, err := Restore(DefaultConfig(), text); err == nil || !strings.HasPrefix(err.Error(), "snapshot: ") {
			t.Errorf("%q: %v, want an error", text, err)
		}
	}
}

// FuzzRestore: what is restored is written as something that restores it.
func FuzzRestore(f *testing.F) {
	m := New(DefaultConfig())
	m.Step(1, Event{Kind: CreateDone})
	m.Step(2, Event{Kind: StopRequest, Request: FirstRequest, Grace: -1})
	f.Add(string(m.AppendSnapshot(nil)))
	f.Fuzz(func(t *testing.T, text string) {
		m, err := Restore(DefaultConfig(), text)
		if err != nil {
			return
		}
		written := string(m.AppendSnapshot(nil))
		again, err := Restore(DefaultConfig(), written)
		if err != nil || string(again.AppendSnapshot(nil)) != written {
			t.Errorf("%q is written %q, which is read as %v, %v", text, written, again, err)
		}
	})
}
