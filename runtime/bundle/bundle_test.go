package bundle

import (
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
	}`))
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
		{"{\"ociVersion\": \"1\",\n \"ociVersion\": \"2\"}", `2:16: "ociVersion" is there twice`},
		{`{"ociVersion": "1", "annotations": {"a": "1", "a": "2"}}`, `1:52: "a" is there twice`},
		{`{"ociVersion": "1"} {}`, "1:21: unexpected '{' after the end of the document"},
		{`{"ociVersion": "1", "process": {"args": [}}`, "1:42: unexpected '}' instead of a value"},
	} {
		_, err := Parse([]byte(test.text))
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.text, err, test.want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	load := func() string {
		t.Helper()
		_, err := Load(dir)
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

// What Parse accepts encoding/json reads in the same way.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"terminal":true},"linux":{"cgroupsPath":"x"},"annotations":{"a":"b"}}`))
	f.Add([]byte(`{"ociVersion":"1","root":null,"annotations":null}`))
	f.Add([]byte(`{"ociVersion":"1","ociVersion":"2"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := Parse(data)
		if err != nil {
			return
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(data, &members); err != nil {
			t.Fatalf("accepted what is no JSON object: %v", err)
		}
		var version string
		if err := json.Unmarshal(members["ociVersion"], &version); err != nil || version != config.OCIVersion {
			t.Fatalf("ociVersion %q, encoding/json reads %q (%v)", config.OCIVersion, version, err)
		}
		annotations := map[string]string{}
		if text, ok := members["annotations"]; ok {
			if err := json.Unmarshal(text, &annotations); err != nil {
				t.Fatal(err)
			}
		}
		if len(annotations) != len(config.Annotations) {
			t.Fatalf("annotations %q, encoding/json reads %q", config.Annotations, annotations)
		}
		for _, a := range config.Annotations {
			if annotations[a.Key] != a.Value {
				t.Fatalf("annotations %q, encoding/json reads %q", config.Annotations, annotations)
			}
		}
	})
}
