package statedir

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/signals"
)

func fullRecord() *Record {
	return &Record{
		ID: "c", Bundle: "/b\nc=d\\e", Rootfs: "rootfs", OCIVersion: "1.0.2", Created: "2026-11-24T02:51:44.123Z",
		Terminal: true, CgroupsPath: "/x", Runtime: "/usr/bin/runc", RuntimeArgs: []string{"--root", "/r", "--debug"},
		RuntimeRoot: "/r", Init: "pid=12 start=34 pidfd-inode=56", StopSignal: signals.RTMIN + 3, Grace: 90 * time.Second,
		Policy: "enforce", Annotations: runtime.Annotations{{Key: "a=\n\\", Value: "1\n2"}, {Key: "", Value: ""}},
		Exit: Exit{Status: "signal=9", Reason: "deadline", At: "2026-11-24T02:52:44Z"},
	}
}

func TestRecordRoundTrip(t *testing.T) {
	base(t)
	dir := create(t, "", "c")
	if dir.HasRecord() {
		t.Error("an empty directory has a record")
	}
	if _, err := dir.ReadRecord(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("before it was written: %v", err)
	}
	small := &Record{ID: "c", Bundle: "/b", Runtime: "runc", StopSignal: signals.TERM, Policy: "observe"}
	for _, want := range []*Record{fullRecord(), small} {
		if err := dir.WriteRecord(want); err != nil {
			t.Fatal(err)
		}
		if got, err := dir.ReadRecord(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	if !dir.HasRecord() {
		t.Error("the record is not found")
	}
	other := *small
	other.ID = "d"
	if err := dir.WriteRecord(&other); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.ReadRecord(); err == nil || !strings.HasSuffix(err.Error(), `/container: is of container "d"`) {
		t.Errorf("record of another container: %v", err)
	}
}

func TestParseRecordRefuses(t *testing.T) {
	good := fullRecord().String()
	replace := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the record", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	for _, test := range []struct{ text, want string }{
		{"", `line 1: want version=1, found ""`},
		{replace("version=1", "version=2"), `line 1: want version=1, found "version=2"`},
		{good[:len(good)-1], "line 22: is cut off"},
		{replace("id=c\n", ""), "line 22: id is missing"},
		{replace("id=c", "id=../c"), "line 2: id: invalid container ID format"},
		{replace("id=c\n", "id=c\nid=c\n"), `line 3: "id" is there twice`},
		{replace("terminal=true", "terminal=1"), `line 7: terminal: want true or false, found "1"`},
		{replace("grace-ns=90000000000", "grace-ns=-1"), `line 16: grace-ns: want nanoseconds, found "-1"`},
		{replace("stop-signal=RTMIN+3", "stop-signal=0"), `line 15: stop-signal: unknown signal "0"`},
		{replace("created=2026", "created=x"), `line 6: created: want an RFC 3339 time, found "x-11-24T02:51:44.123Z"`},
		{replace("exit=signal=9", "exit=signal=65"), `line 20: exit: want code=N, signal=N or unknown, found "signal=65"`},
		{replace("exit=signal=9", "exit=code=256"), `line 20: exit: want code=N, signal=N or unknown, found "code=256"`},
		{replace("exit=signal=9\n", ""), "line 22: exit is missing"},
		{replace("rootfs=rootfs", "rootfs"), `line 4: no key=value: "rootfs"`},
		{replace("rootfs=rootfs", `rootfs=\x`), `line 4: unknown escape in "\\x"`},
		{replace("rootfs=rootfs", `rootfs=\`), `line 4: unknown escape in "\\"`},
		{replace("rootfs=", "colour="), "line 4: colour: is not a known key"},
	} {
		_, err := ParseRecord(test.text)
		if err == nil || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

// A record that is accepted is written and read back the same, and a part of it
// is never accepted.
func FuzzParseRecord(f *testing.F) {
	f.Add(fullRecord().String())
	f.Add("version=1\nid=a\nbundle=\nterminal=false\nruntime=\nstop-signal=15\ngrace-ns=0\npolicy=observe\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRecord(text)
		if err != nil {
			return
		}
		again, err := ParseRecord(r.String())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%+v reads back as %+v, %v", r, again, err)
		}
		if _, err := ParseRecord(text[:len(text)-1]); err == nil {
			t.Fatal("accepted without its end")
		}
	})
}
