package shim

import (
	"encoding/json"
	"testing"
	"time"

	"gracerun.io/runtime/oci"
)

var instant = time.Date(2026, 8, 19, 12, 39, 10, 5_000_000, time.FixedZone("", 2*3600))

// As logrus and libcrun's error.c write them.
func TestLogLines(t *testing.T) {
	for _, test := range []struct {
		style          oci.Style
		format, level  string
		text, expected string
	}{
		{oci.Runc, "", "error", "container does not exist", `time="2026-08-19T12:39:10+02:00" level=error msg="container does not exist"`},
		{oci.Runc, "text", "warning", "one", `time="2026-08-19T12:39:10+02:00" level=warning msg=one`},
		{oci.Runc, "", "error", "say \"x\"\n", `time="2026-08-19T12:39:10+02:00" level=error msg="say \"x\"\n"`},
		{oci.Runc, "json", "error", "say \"x\"\n\x01", `{"level":"error","msg":"say \"x\"\u000a\u0001","time":"2026-08-19T12:39:10+02:00"}`},
		{oci.Crun, "", "error", "container not running", `container not running`},
		{oci.Crun, "json", "warning", "a `b`", "{\"msg\":\"a `b`\",\"level\":\"warning\",\"time\":\"2026-08-19T10:39:10.005000Z\"}"},
	} {
		c := &call{logFormat: test.format}
		got := string(c.line(test.style, test.level, test.text, instant, false))
		if got != test.expected+"\n" {
			t.Errorf("got %s want %s", got, test.expected)
		}
		if test.format == "json" && !json.Valid([]byte(got)) {
			t.Errorf("not JSON: %s", got)
		}
	}
}

func FuzzAppendJSON(f *testing.F) {
	f.Add("a\"\\\n\x00\xff\u2028é")
	f.Fuzz(func(t *testing.T, text string) {
		var read string
		if err := json.Unmarshal(appendJSON(nil, text), &read); err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		var meant string
		if err := json.Unmarshal(want, &meant); err != nil || read != meant {
			t.Fatalf("%q is written as %q", text, read)
		}
	})
}
