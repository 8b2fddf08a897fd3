package bundle

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
)

func TestParse(t *testing.T) {
	config, err := Parse([]byte(`{
		"ociVersion": "1.0.2",
		"process": {"terminal": true, "args": ["sh", "-c", "\"x\""], "rlimits": [{"soft": 1}]},
		"root": {"path": "rootfs", "readonly": true},
		"hooks": null,
		"linux": {"cgroupsPath": "/a/b", "resources": {"devices": [{"allow": false}]}},
		"annotations": {"b": "2", "a": "1", "empty": null}
	}`), Go)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		OCIVersion: "1.0.2", Rootfs: "rootfs", Terminal: true, CgroupsPath: "/a/b",
		Annotations: runtime.Annotations{{Key: "b", Value: "2"}, {Key: "a", Value: "1"}, {Key: "empty"}},
	}
	if !equal(*config, want) {
		t.Errorf("got %+v, want %+v", *config, want)
	}
}

func equal(a, b Config) bool {
	return a.OCIVersion == b.OCIVersion && a.Rootfs == b.Rootfs && a.Terminal == b.Terminal &&
		a.CgroupsPath == b.CgroupsPath && slices.Equal(a.Annotations, b.Annotations)
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{``, "1:1: unexpected end of text"},
		{`[]`, "1:1: unexpected '[' instead of an object"},
		{`{}`, "1:3: ociVersion is missing"},
		{`{"ociVersion": ""}`, "1:19: ociVersion is missing"},
		{`{"ociVersion": 1}`, "1:16: unexpected '1' instead of a string"},
		{`{"ociVersion": "1", "process": {"terminal": "yes"}}`, `1:45: unexpected '"' instead of true or false`},
		{`{"ociVersion": "1", "annotations": ["a"]}`, "1:36: unexpected '[' instead of an object"},
		{`{"ociVersion": "1", "annotations": {"a": 1}}`, "1:42: unexpected '1' instead of a string"},
		{`{"ociVersion": "1", "process": {"args": [}}`, "1:42: unexpected '}' instead of a value"},
	} {
		_, err := Parse([]byte(test.text), Go)
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.text, err, test.want)
		}
	}
}

// What may be a hook counts as one.
func TestPoststart(t *testing.T) {
	for text, want := range map[string]bool{
		`null`: false, `{}`: false, `{"poststart": null}`: false, `{"poststart": []}`: false, `{"prestart": [{"path": "/x"}]}`: false,
		`{"prestart": [], "poststart": [{"path": "/x"}]}`: true, `{"PostStart": [{}]}`: true, `{"post\u0073tart": [{}], "poststart": []}`: true,
		`[]`: true, `{"poststart": "x"}`: true, `1`: true,
	} {
		config, err := Parse([]byte(`{"ociVersion": "1", "hooks": `+text+`, "process": {"terminal": true}}`), Go)
		if err != nil || config.Poststart != want || !config.Terminal {
			t.Errorf("%s: %+v, %v", text, config, err)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	load := func() string {
		t.Helper()
		_, err := Load(dir, Go)
		if err == nil {
			return ""
		}
		return strings.ReplaceAll(err.Error(), dir, "DIR")
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := load(), "JSON specification file DIR/config.json not found"; got != want {
		t.Errorf("missing: got %q, want %q", got, want)
	}
	write(`{"ociVersion": "1.0.0"}`)
	if got := load(); got != "" {
		t.Errorf("good: %s", got)
	}
	write("{\n\"ociVersion\": }")
	if got, want := load(), "DIR/config.json:2:15: unexpected '}' instead of a string"; got != want {
		t.Errorf("malformed: got %q, want %q", got, want)
	}
	if err := os.Truncate(path, maxConfigMiB<<20+1); err != nil {
		t.Fatal(err)
	}
	if got, want := load(), "read DIR/config.json: is larger than 64 MiB"; got != want {
		t.Errorf("huge: got %q, want %q", got, want)
	}
	os.Remove(path)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := load(), "read DIR/config.json: is not a regular file"; got != want {
		t.Errorf("FIFO: got %q, want %q", got, want)
	}
}

// What JSON leaves open is read as the runtime reads it: as encoding/json does, or the
// first of those that have the very name.
func TestRules(t *testing.T) {
	for _, test := range []struct {
		text      string
		goes, cru Config
	}{
		{
			`{"ociVersion": "1", "ociVersion": "2", "OCIVERSION": "3"}`,
			Config{OCIVersion: "3"}, Config{OCIVersion: "1"},
		},
		{
			`{"ociVersion": "1", "Annotationſ": {"a": "1"}, "annotations": {"a": "2", "A": "3"}, "annotations": {"a": "4", "b": null}}`,
			Config{OCIVersion: "1", Annotations: runtime.Annotations{{Key: "A", Value: "3"}, {Key: "a", Value: "4"}, {Key: "b"}}},
			Config{OCIVersion: "1", Annotations: runtime.Annotations{{Key: "a", Value: "2"}, {Key: "A", Value: "3"}}},
		},
		{
			`{"ociVersion": "1", "process": {"terminal": true}, "root": {"Path": "r"}, "process": {}, "Root": null, "linux": {"cgroupsPath": "/a", "cgroupspath": "/b"}}`,
			Config{OCIVersion: "1", Terminal: true, CgroupsPath: "/b"},
			Config{OCIVersion: "1", Terminal: true, CgroupsPath: "/a"},
		},
	} {
		for rules, want := range map[Rules]Config{Go: test.goes, Crun: test.cru} {
			if got, err := Parse([]byte(test.text), rules); err != nil || !equal(*got, want) {
				t.Errorf("%s, by rules %d: %+v, %v; want %+v", test.text, rules, got, err, want)
			}
		}
	}
	const trailing = `{"ociVersion": "1"} {}`
	if _, err := Parse([]byte(trailing), Go); err != nil {
		t.Errorf("%s: %v, but a decoder reads one document", trailing, err)
	}
	if _, err := Parse([]byte(trailing), Crun); err == nil {
		t.Errorf("%s is accepted by crun's rules", trailing)
	}
}

// What Parse accepts encoding/json reads in the same way.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"terminal":true},"linux":{"cgroupsPath":"x"},"annotations":{"a":"b"}}`))
	f.Add([]byte(`{"ociVersion":"1","root":null,"annotations":null}`))
	f.Add([]byte(`{"ociVersion":"1","root":n{}}`))
	f.Add([]byte(`{"ociVersion":"1","ociversion":"2","Annotationſ":{"a":"b"},"annotations":{"b":null,"b":"c"},"annotations":null}`))
	f.Add([]byte(`{"ociVersion":"1","process":{"terminal":true},"process":null,"LINUX":{"cgroupspath":"x"},"linux":{}} garbage`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Parse(data, Go)
		if err != nil {
			return
		}
		var want struct {
			OCIVersion  string            `json:"ociVersion"`
			Annotations map[string]string `json:"annotations"`
			Process     *struct {
				Terminal bool `json:"terminal"`
			} `json:"process"`
			Root *struct {
				Path string `json:"path"`
			} `json:"root"`
			Linux *struct {
				CgroupsPath string `json:"cgroupsPath"`
			} `json:"linux"`
		}
		if err := json.NewDecoder(bytes.NewReader(data)).Decode(&want); err != nil {
			t.Fatalf("accepted what encoding/json does not read: %v", err)
		}
		same := got.OCIVersion == want.OCIVersion && len(got.Annotations) == len(want.Annotations) &&
			got.Terminal == (want.Process != nil && want.Process.Terminal) &&
			(want.Root == nil && got.Rootfs == "" || want.Root != nil && got.Rootfs == want.Root.Path) &&
			(want.Linux == nil && got.CgroupsPath == "" || want.Linux != nil && got.CgroupsPath == want.Linux.CgroupsPath)
		for _, a := range got.Annotations {
			value, ok := want.Annotations[a.Key]
			same = same && ok && value == a.Value
		}
		if !same {
			t.Fatalf("%q is read as %+v, by encoding/json as %+v", data, *got, want)
		}
	})
}
