package logs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// jsonRecordText is an object as a reader of Docker's format has it.
type jsonRecordText struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Attrs  map[string]string `json:"attrs"`
	Time   time.Time         `json:"time"`
}

// jsonContent puts together what one stream has written.
func jsonContent(log []byte, stream string) (all []byte) {
	for line := range strings.Lines(string(log)) {
		var r jsonRecordText
		if err := json.Unmarshal([]byte(line), &r); err != nil || line[len(line)-1] != '\n' || r.Stream != "stdout" && r.Stream != "stderr" || r.Time.IsZero() {
			return fmt.Appendf(all, "<<no record: %.80q, %v>>", line, err)
		}
		if r.Stream == stream {
			all = append(all, r.Log...)
		}
	}
	return all
}

func runJSON(t *testing.T, o Options) *container {
	t.Helper()
	dir := t.TempDir()
	o.Targets = []Target{{"json-file", filepath.Join(dir, "log")}}
	c := run(t, o)
	c.dir = dir
	return c
}

func (c *container) json(names ...string) string {
	c.t.Helper()
	return jsonTime.ReplaceAllString(c.read(names...), `"time":"T"`)
}

var jsonTime = regexp.MustCompile(`"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z"`)

// What Docker's own writer makes of it: moby, daemon/logger/jsonfilelog/jsonlog.
func TestLinesAreWrittenAsDockerDoes(t *testing.T) {
	long := strings.Repeat("x", 40000)
	record := func(text string) string { return `{"log":"` + text + `","stream":"stdout","time":"T"}` + "\n" }
	for name, test := range map[string]struct{ said, want string }{
		"line":       {"hello\n", record(`hello\n`)},
		"empty line": {"\n", record(`\n`)},
		"no end":     {"a\nb", record(`a\n`) + record("b")},
		"terminal":   {"a\r\n", record(`a\r\n`)},
		"quotes":     {"\"\\/\n", record(`\"\\/\n`)},
		"HTML":       {"<a href='x'>&</a>\n", record(`\u003ca href='x'\u003e\u0026\u003c/a\u003e\n`)},
		"controls":   {"\x00\a\b\t\v\f\x1b[0m\x7f\n", record(`\u0000\u0007\u0008\u0009\u000b\u000c\u001b[0m` + "\x7f" + `\n`)},
		"UTF-8":      {"äöü€😀\ufffd\n", record("äöü€😀\ufffd" + `\n`)},
		"separators": {"\u2027\u2028\u2029\u202a\n", record("\u2027" + `\u2028\u2029` + "\u202a" + `\n`)},
		"no UTF-8":   {"a\xffb\xc3(\xe2\x82\n\xed\xa0\x80", record(`a\ufffdb\ufffd(\ufffd\ufffd\n`) + record(`\ufffd\ufffd\ufffd`)},
		"longer than 16384": {long + "\n", record(long[:16384]) + record(long[:16384]) +
			record(long[:40000-2*16384]+`\n`)},
		"16383 and newline": {long[:16383] + "\n", record(long[:16383] + `\n`)},
		"16384 and newline": {long[:16384] + "\n", record(long[:16384]) + record(`\n`)},
		"character cut":     {long[:16383] + "ä\n", record(long[:16383]) + record(`ä\n`)},
		"long no UTF-8":     {long[:16383] + "\x84\xa4\n", record(long[:16383]+`\ufffd`) + record(`\ufffd\n`)},
	} {
		t.Run(name, func(t *testing.T) {
			c := runJSON(t, Options{})
			c.says(test.said)
			c.ends()
			if got := c.json(); got != test.want {
				t.Errorf("log is\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// The beginning of a line waits for its end, and survives the supervisor.
func TestJSONLineInPieces(t *testing.T) {
	c := runJSON(t, Options{})
	c.says("be")
	c.says("gin")
	if got := c.json(); got != "" {
		t.Errorf("log is %q before the line has ended", got)
	}
	c.logs.Close()
	c.open()
	c.says("ning\nrest")
	c.ends()
	if got, want := c.json(), `{"log":"beginning\n","stream":"stdout","time":"T"}`+"\n"+`{"log":"rest","stream":"stdout","time":"T"}`+"\n"; got != want {
		t.Errorf("log is\n%s\nwant\n%s", got, want)
	}
}

func TestJSONAttributes(t *testing.T) {
	for name, test := range map[string]struct {
		tag    string
		labels []string
		attrs  map[string]string
	}{
		"none":   {},
		"tag":    {"web <1>", nil, map[string]string{"tag": "web <1>"}},
		"labels": {"", []string{"b=2", "a=x \"quoted\"\n\t\xff", "com.example.c=", "b=3"}, map[string]string{"a": "x \"quoted\"\n\t\xff", "b": "3", "com.example.c": ""}},
		"both":   {"t", []string{"tag=label", "z=1"}, map[string]string{"tag": "t", "z": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := runJSON(t, Options{Tag: test.tag, Labels: test.labels})
			c.says("x\n")
			c.ends()
			attrs := ""
			if test.attrs != nil {
				b, err := json.Marshal(test.attrs)
				if err != nil {
					t.Fatal(err)
				}
				attrs = `"attrs":` + strings.ReplaceAll(string(b), `\t`, `\u0009`) + ","
			}
			if got, want := c.json(), `{"log":"x\n","stream":"stdout",`+attrs+`"time":"T"}`+"\n"; got != want {
				t.Errorf("log is\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// Times are UTC, without the zeros at their end.
func TestJSONTime(t *testing.T) {
	f := newJSONFormat(&Options{})
	for nanoseconds, want := range map[int64]string{0: "", 100_000_000: ".1", 1: ".000000001", 120: ".00000012", 999_999_999: ".999999999"} {
		f.begin(time.Unix(1e9, nanoseconds).In(time.FixedZone("", 3600)), Stderr)
		if got, want := string(f.ending), `","stream":"stderr","time":"2001-09-09T01:46:40`+want+`Z"}`+"\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestJSONRotates(t *testing.T) {
	c := runJSON(t, Options{SizeMax: 200, Rotate: true, MaxFiles: 2})
	c.says("line0\nline1\nline2\nline3\nline4\nline5\nline6\n")
	c.ends()
	for name, want := range map[string]string{"log": "line6\n", "log.1": "line4\nline5\n", "log.2": "line2\nline3\n"} {
		b, err := os.ReadFile(filepath.Join(c.dir, name))
		if got := string(jsonContent(b, "stdout")); err != nil || got != want || len(b) > 200 {
			t.Errorf("%s has %q, %d bytes, %v; want %q", name, got, len(b), err, want)
		}
	}
}

func TestJSONReopen(t *testing.T) {
	c := runJSON(t, Options{})
	c.says("old\nbegun ")
	os.Rename(c.log(), c.log()+".moved")
	c.logs.Reopen()
	c.says("and ended\n")
	c.ends()
	record := func(text string) string { return `{"log":"` + text + `\n","stream":"stdout","time":"T"}` + "\n" }
	if old, now := c.json(c.log()+".moved"), c.json(); old != record("old") || now != record("begun and ended") {
		t.Errorf("logs are %q and %q", old, now)
	}
}

// Several logs at once have each its own place, limits and troubles.
func TestTwoFilesAndTheJournal(t *testing.T) {
	disk := smallDisk(t, 4<<20)
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	c, j := runJournal(t, Options{SizeMax: 2 * (prefixLen + 6), Targets: []Target{{"k8s-file", log}, {"json-file", filepath.Join(disk, "log")}}})
	c.says("line0\nline1\n")
	full := fill(t, filepath.Join(disk, "ballast"))
	c.says("line2\n")
	if got := c.read(log); got != "T stdout F line2\n" {
		t.Errorf("the k8s-file is %q", got)
	}
	full()
	c.logs.tryAgain(1 << 62)
	c.ends()
	b, err := os.ReadFile(filepath.Join(disk, "log"))
	if got := string(jsonContent(b, "stdout")); err != nil || !strings.HasSuffix("line0\nline1\nline2\n", got) || !strings.HasSuffix(got, "line2\n") {
		t.Errorf("the json-file has %q, %v", got, err)
	}
	for n := range 3 {
		if got, want := field(j.next(), "MESSAGE"), fmt.Sprintf("line%d\n", n); got != want {
			t.Errorf("the journal has %q, want %q", got, want)
		}
	}
}

// What a reader decodes is what was written, but for what is no UTF-8, however it is
// cut into pieces; no record is longer than it may be, and all of them are JSON that
// encoding/json would have written, too.
func FuzzJSONRecords(f *testing.F) {
	f.Add([]byte("a\n\nb\x00c\n"), uint16(3), uint16(300))
	f.Add([]byte(strings.Repeat("x", 17000)+"\n<é\u2028\xff\xe2\x82"), uint16(8192), uint16(65535))
	f.Add([]byte(strings.Repeat("\x01", 16385)), uint16(8192), uint16(65535))
	f.Add([]byte(strings.Repeat("é", 16385)), uint16(8191), uint16(40000))
	f.Fuzz(func(t *testing.T, data []byte, piece, room16 uint16) {
		format := newJSONFormat(&Options{Tag: "t"})
		format.begin(time.Unix(0, 0), Stdout)
		out := make([]byte, int(room16))
		var log []byte
		for from, to := 0, 0; from < len(data); {
			to = min(max(to, from)+1+int(piece), len(data))
			r := room{noLimit, noLimit, false}
			made, used, why := format.records(out, data[from:to], to == len(data), r)
			if used == 0 && why == outFull {
				out = make([]byte, format.longest())
				made, used, why = format.records(out, data[from:to], to == len(data), r)
			}
			log = append(log, out[:made]...)
			from += used
			if used == 0 && why != dataDone || made > len(out) {
				t.Fatalf("%d bytes made of %d, stopped for %d", made, used, why)
			}
		}
		var want []byte
		for rest := data; len(rest) > 0; {
			r, n := utf8.DecodeRune(rest)
			want = utf8.AppendRune(want, r)
			rest = rest[n:]
		}
		if got := string(jsonContent(log, "stdout")); got != string(want) {
			t.Errorf("%q is logged as %q", data, log)
		}
		for line := range strings.Lines(string(log)) {
			var r jsonRecordText
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(r.Log)
			if err != nil {
				t.Fatal(err)
			}
			for short, full := range map[string]string{`\t`: `\u0009`, `\b`: `\u0008`, `\f`: `\u000c`} {
				text = []byte(unescape.ReplaceAllStringFunc(string(text), func(e string) string {
					if e == short {
						return full
					}
					return e
				}))
			}
			if !strings.HasPrefix(strings.ReplaceAll(line, `\ufffd`, "\ufffd"), `{"log":`+string(text)+`,"stream":"stdout","attrs":{"tag":"t"},"time":`) {
				t.Errorf("%q, encoding/json has %q", line, text)
			}
			if len(line) > format.longest() || len(r.Log) > 3*jsonRecord {
				t.Errorf("a record of %d bytes", len(line))
			}
		}
	})
}

// unescape finds each escape of a JSON string, so that none begins within another.
var unescape = regexp.MustCompile(`\\.`)
