package lifecycle

import (
	"strings"
	"testing"
)

func TestRestoreRefuses(t *testing.T) {
	for _, text := range []string{
		"", "created", "phase=dead", "phase=alive Living", "phase=alive kill=busy/1", "phase=alive kill=maybe/1/1",
		"phase=alive request=1/own/15/init", "phase=alive request=1/some/15/init/sent", "phase=alive armed=soon",
		"phase=alive status=fine", "phase=alive cause=m4gic", "phase=alive what?=1", "phase=alive =1", "phase=alive opener=crio",
		"phase=alive request=1/own/15/init/sent/2",
	} {
		if _, err := Restore(DefaultConfig(), text); err == nil || !strings.HasPrefix(err.Error(), "snapshot: ") {
			t.Errorf("%q: %v, want an error", text, err)
		}
	}
}

// Words of a later version do not keep this one from going on with what it knows.
func TestRestorePassesOverWordsOfALaterVersion(t *testing.T) {
	m := New(DefaultConfig())
	m.Step(1, Event{Kind: CreateDone})
	m.Step(2, Event{Kind: SignalRequest, Request: FirstRequest, Signal: m.config.StopSignal, By: NewCaller("/usr/bin/crio", 812, 4711, 0, "crio.service")})
	known := string(m.AppendAdditions(append(m.AppendSnapshot(nil), ' ')))
	later := known + " patient mood=cheerful weight=7 request=9/own/15/init/waits/softly"
	restored, err := Restore(m.config, later)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(restored.AppendAdditions(append(restored.AppendSnapshot(nil), ' '))), strings.Replace(known, " policy", " request=9/own/15/init/waits policy", 1); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	restored, err = Restore(m.config, strings.Replace(known, "cause=by-itself", "cause=by-magic", 1))
	if err != nil || restored.cause != ByRequest {
		t.Errorf("a cause of a later version is %v, %v", restored, err)
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
		written := string(m.AppendAdditions(append(m.AppendSnapshot(nil), ' ')))
		again, err := Restore(DefaultConfig(), written)
		if err != nil || string(again.AppendAdditions(append(again.AppendSnapshot(nil), ' '))) != written {
			t.Errorf("%q is written %q, which is read as %v, %v", text, written, again, err)
		}
	})
}
