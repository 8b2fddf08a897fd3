package scope

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
)

func TestUnitName(t *testing.T) {
	for _, c := range []struct {
		path       string
		crun, runc string
	}{
		{"kubepods-podx.slice:crio:abc", "crio-abc.scope", "crio-abc.scope"},
		{"system.slice:libpod:abc", "libpod-abc.scope", "libpod-abc.scope"},
		{"", "crun-id.scope", "runc-id.scope"},
		{":pod:abc", "pod-abc.scope", "pod-abc.scope"},
		{"plain", "plain.scope", ""},
		{"a.slice:name", "name.scope", ""},
		{"a.slice:x:y.slice", "x-y.slice.scope", ""}, // runc makes a slice of it
		{"/kubepods/podx/abc", "", ""},               // of the other cgroup manager
		{"a.slice:../../etc:x", "", ""},
		{"a.slice:x:y\nz", "", ""},
	} {
		if got := unitName("id", c.path, true); got != c.crun {
			t.Errorf("crun, %q: %q, want %q", c.path, got, c.crun)
		}
		if got := unitName("id", c.path, false); got != c.runc {
			t.Errorf("runc, %q: %q, want %q", c.path, got, c.runc)
		}
	}
}

// A drop-in is for one unit and not for all whose names begin as its name does.
func TestNoDropInForOthers(t *testing.T) {
	for unit, written := range map[string]bool{"crun-a.scope": true, "crun-a-.scope": false, "crio-.scope": false, "a@.scope": false, "a@b.scope": true} {
		units := t.TempDir()
		s := &Scope{Unit: unit, managers: []manager{{units: units}},
			asked: []property{{"DefaultDependencies", value{kind: 'b', number: 1}}}}
		err := s.Prepare()
		_, missing := os.Stat(filepath.Join(units, unit+".d", dropIn))
		if err == nil != written || missing == nil != written {
			t.Errorf("%s: %v, %v", unit, err, missing)
		}
	}
}

// The user's systemd is asked where the directory is the caller's own, not where it is
// that of the one who has become root, or others can write.
func TestOthersRuntimeDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/systemd", 0o755); err != nil {
		t.Fatal(err)
	}
	isAsked := func() bool {
		for _, m := range managers(func(name string) string { return map[string]string{"XDG_RUNTIME_DIR": dir}[name] }) {
			if m.units == dir+"/systemd/user" {
				return true
			}
		}
		return false
	}
	if !isAsked() {
		t.Error("our own is not asked")
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if isAsked() {
		t.Error("others can write there, and it is asked")
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if unix.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	if err := os.Chown(dir, 65534, -1); err != nil {
		t.Fatal(err)
	}
	if isAsked() {
		t.Error("it is another user's, and it is asked")
	}
}

func TestParseProperty(t *testing.T) {
	for text, want := range map[string]value{
		"true":                         {kind: 'b', number: 1},
		"false":                        {kind: 'b'},
		"'inactive-or-failed'":         {kind: 's', text: "inactive-or-failed"},
		`"double"`:                     {kind: 's', text: "double"},
		`['crio.service']`:             {kind: 'a', list: []string{"crio.service"}},
		`['a.service', 'it\'s.mount']`: {kind: 'a', list: []string{"a.service", "it's.mount"}},
		`[]`:                           {kind: 'a'},
		"uint64 15000000":              {kind: 't', number: 15000000},
		"uint64 18446744073709551615":  {kind: 't', number: 1<<64 - 1},
		"int64 -1":                     {kind: 'x', number: 1<<64 - 1},
		"uint32 7":                     {kind: 'u', number: 7},
		"int32 -7":                     {kind: 'i', number: 1<<64 - 7},
		"13":                           {kind: 'i', number: 13},
	} {
		p, ok := parseProperty("Name", text)
		if !ok || p.value.kind != want.kind || p.value.number != want.number || p.value.text != want.text ||
			strings.Join(p.value.list, "|") != strings.Join(want.list, "|") {
			t.Errorf("%q: %+v %v, want %+v", text, p.value, ok, want)
		}
	}
	if p, ok := parseProperty("TimeoutStopSec", "uint64 15"); !ok || p.name != "TimeoutStopUSec" || p.value.number != 15_000_000 {
		t.Errorf("TimeoutStopSec: %+v %v", p, ok)
	}
	if p, ok := parseProperty("TimeoutStopUSec", "uint64 15"); !ok || p.name != "TimeoutStopUSec" || p.value.number != 15 {
		t.Errorf("TimeoutStopUSec: %+v %v", p, ok)
	}
	for _, text := range []string{"", "yes", "'open", "['a'", "['a' 'b']", "[a]", "uint64 -1", "uint32 4294967296", "uint64 1 2", "[('a', 1)]", "@as []"} {
		if p, ok := parseProperty("Name", text); ok {
			t.Errorf("%q was taken for %+v", text, p.value)
		}
	}
}

func FuzzParseProperty(f *testing.F) {
	f.Add("['a', 'b']")
	f.Add("uint64 1")
	f.Fuzz(func(_ *testing.T, text string) { parseProperty("NameSec", text) })
}

// crio is what CRI-O asks.
var crio = runtime.Annotations{
	{Key: "io.kubernetes.pod.terminationGracePeriod", Value: "15"},
	{Key: "org.systemd.property.DefaultDependencies", Value: "true"},
	{Key: "org.systemd.property.After", Value: "['crio.service', 'x\n[Service]\nExecStart=/bin/evil']"},
	{Key: "org.systemd.property.TimeoutStopUSec", Value: "uint64 15000000"},
	{Key: "org.systemd.property.Bad Name", Value: "true"},
}

func none(string) string { return "" }

func TestNothingAsked(t *testing.T) {
	if s := Of("id", "a.slice:crio:id", true, crio[:1], "", none); s != nil {
		t.Errorf("%+v, want nil", s)
	}
}

func TestMonitor(t *testing.T) {
	for cgroups, want := range map[string]string{
		"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-a1.scope\n":  "libpod-conmon-a1.scope",
		"4:freezer:/x\n1:name=systemd:/kubepods.slice/crio-conmon-a1.scope\n0::/":               "crio-conmon-a1.scope",
		"4:memory:/machine.slice/libpod-conmon-a1.scope\n1:name=systemd:/machine.slice\n0::/\n": "",
		"0::/user.slice/user-1000.slice/session-2.scope\n":                                      "",
		"0::/system.slice/my-conmon-thing.service\n":                                            "",
		"0::/machine.slice/libpod-conmon-a1.scope/below\n":                                      "",
		"0::/machine.slice/libpod-conmon-a b.scope\n":                                           "",
		"0::/\n":  "",
		"":        "",
		"nothing": "",
	} {
		if got := Monitor(cgroups); got != want {
			t.Errorf("%q: %q, want %q", cgroups, got, want)
		}
	}
}

// TestAfterMonitor: that is reason enough for a drop-in, and one among others.
func TestAfterMonitor(t *testing.T) {
	for want, annotations := range map[string]runtime.Annotations{
		"[Unit]\nAfter=libpod-conmon-id.scope\n": nil,
		"[Unit]\nDefaultDependencies=yes\nAfter=crio.service\nAfter=libpod-conmon-id.scope\n[Scope]\nTimeoutStopSec=15000000us\n": crio,
	} {
		units := filepath.Join(t.TempDir(), "system")
		s := Of("id", "a.slice:libpod:id", true, annotations, "libpod-conmon-id.scope", none)
		s.managers = []manager{{units: units}}
		if err := s.Prepare(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(units, "libpod-id.scope.d", dropIn))
		if err != nil {
			t.Fatal(err)
		}
		if _, got, _ := strings.Cut(string(text), "\n"); got != want {
			t.Errorf("drop-in:\n%s\nwant:\n%s", got, want)
		}
	}
}

func TestDropIn(t *testing.T) {
	units := filepath.Join(t.TempDir(), "system")
	s := Of("id", "a.slice:crio:id", true, crio, "", none)
	s.managers = []manager{{units: units}}
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(units, "crio-id.scope.d", dropIn)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "[Unit]\nDefaultDependencies=yes\nAfter=crio.service\n[Scope]\nTimeoutStopSec=15000000us\n"
	if _, got, _ := strings.Cut(string(text), "\n"); got != want {
		t.Errorf("drop-in:\n%s\nwant:\n%s", got, want)
	}
	if err := s.Prepare(); err != nil {
		t.Errorf("prepared again: %v", err)
	}
	again := Named("crio-id.scope", none)
	again.managers = s.managers
	if err := again.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(units); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := again.Remove(); err != nil {
		t.Errorf("removed again: %v", err)
	}
}

func TestRemoveLeavesOthersDropIns(t *testing.T) {
	units := t.TempDir()
	s := Of("id", "a.slice:crio:id", true, crio, "", none)
	s.managers = []manager{{units: units}}
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(units, "crio-id.scope.d", "50-MemoryMax.conf")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}

// TestEachPrepareIsSeen: systemd looks again when the directory's time is another.
func TestEachPrepareIsSeen(t *testing.T) {
	units := t.TempDir()
	seen := map[int64]bool{}
	for n := range 200 {
		s := &Scope{Unit: "u" + string(rune('a'+n%26)) + strings.Repeat("x", n/26) + ".scope", managers: []manager{{units: units}}, asked: []property{
			{"DefaultDependencies", value{kind: 'b', number: 1}}}}
		if err := s.Prepare(); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(units)
		if err != nil {
			t.Fatal(err)
		}
		at := st.ModTime().UnixMicro() // systemd compares microseconds
		if seen[at] {
			t.Fatalf("two drop-ins within one time stamp, %d", at)
		}
		seen[at] = true
	}
}

func TestAddresses(t *testing.T) {
	got := addresses("tcp:host=x;unix:path=/run/a%20b,guid=1;unix:abstract=/tmp/x")
	if len(got) != 2 || got[0].path != "/run/a b" || got[1].path != "@/tmp/x" {
		t.Errorf("%+v", got)
	}
}

func TestUnitPath(t *testing.T) {
	if got, want := unitPath("crio-1.scope"), "/org/freedesktop/systemd1/unit/crio_2d1_2escope"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := unitPath("1a.scope"), "/org/freedesktop/systemd1/unit/_31a_2escope"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestVariantsRoundTrip(t *testing.T) {
	for _, v := range []value{
		{kind: 'b', number: 1}, {kind: 'i', number: 1<<64 - 7}, {kind: 'u', number: 7}, {kind: 't', number: 1<<64 - 1},
		{kind: 'x', number: 1<<64 - 1}, {kind: 's', text: "text"}, {kind: 'a', list: []string{"a", "", "long enough"}}, {kind: 'a'},
	} {
		var e encoder
		e.variant(v)
		d := &decoder{data: e.data, order: binary.LittleEndian}
		got, err := d.variant()
		if err != nil || got.String() != v.String() || d.at != len(e.data) {
			t.Errorf("%v came back as %v, %v; read %d of %d", v, got, err, d.at, len(e.data))
		}
		for n := range e.data { // cut short anywhere: an error, no panic
			d := &decoder{data: e.data[:n], order: binary.LittleEndian}
			if _, err := d.variant(); err == nil {
				t.Errorf("%v cut to %d bytes was taken", v, n)
			}
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("l\x02\x01\x01\x00\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x05\x01u\x00\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var fds [2]int
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = pair
		defer unix.Close(fds[0])
		if len(data) > 1<<16 {
			return
		}
		if _, err := unix.Write(fds[1], data); err != nil {
			t.Fatal(err)
		}
		unix.Close(fds[1])
		c := &conn{fd: fds[0]}
		for {
			if _, err := c.receive(); err != nil {
				return
			}
		}
	})
}

// TestNoBus: without systemd the caller is told so, and of which unit.
func TestNoBus(t *testing.T) {
	s := Of("id", "a.slice:crio:id", true, crio, "", none)
	s.managers = []manager{{units: t.TempDir(), bus: []address{{filepath.Join(t.TempDir(), "bus")}}}}
	_, err := s.Verify()
	var deviation *Deviation
	if err == nil || errors.As(err, &deviation) || !strings.Contains(err.Error(), "crio-id.scope") || !strings.Contains(err.Error(), "connect") {
		t.Errorf("error %v", err)
	}
	s.managers = nil
	if _, err := s.Verify(); err == nil || !strings.Contains(err.Error(), "no systemd to ask") {
		t.Errorf("error %v", err)
	}
}
