package logs

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// jsonFileDriver writes a file in Docker's format json-file: a JSON object for each
// line (moby, daemon/logger/jsonfilelog).
var jsonFileDriver = driver{
	names: []string{"json-file"},
	file:  true,
	tags:  true,
	check: checkLabels,
	make: func(l *Logs, place int, path string) log {
		return newFile(l, place, path, newJSONFormat(&l.options))
	},
}

// jsonFormat is
//
//	{"log":"a line\n","stream":"stdout","attrs":{"tag":"web"},"time":"2026-01-02T03:04:05.006Z"}
//
// with attrs only if there are labels or a tag. What is only a part of a line has no
// \n at the end of its log.
type jsonFormat struct {
	attrs  string // with the comma behind
	ending []byte // of each record, from the end of its content on
	most   int    // the length of the longest record
}

const (
	jsonStart = `{"log":"`

	// jsonRecord is how many bytes of output one record has at most, its newline
	// included: the size of Docker's buffer.
	jsonRecord = 16 << 10

	// jsonByte is what one byte of output becomes at most: \u001b.
	jsonByte = 6
)

func newJSONFormat(o *Options) *jsonFormat {
	f := &jsonFormat{attrs: jsonAttributes(o)}
	f.begin(time.Unix(0, 999999999), Stderr)
	f.most = len(jsonStart) + jsonByte*jsonRecord + len(f.ending)
	return f
}

// jsonAttributes are the labels and the tag, as json.Marshal has those of Docker: by
// their names; of several of one name the last one counts.
func jsonAttributes(o *Options) string {
	var attrs [][2]string
	set := func(name, value string) {
		i, found := slices.BinarySearchFunc(attrs, name, func(a [2]string, name string) int { return cmp.Compare(a[0], name) })
		if !found {
			attrs = slices.Insert(attrs, i, [2]string{})
		}
		attrs[i] = [2]string{name, value}
	}
	for _, label := range o.Labels {
		name, value, _ := strings.Cut(label, "=")
		set(name, value)
	}
	if o.Tag != "" {
		set("tag", o.Tag)
	}
	if attrs == nil {
		return ""
	}
	b := []byte(`"attrs":{`)
	for i, a := range attrs {
		if i > 0 {
			b = append(b, ',')
		}
		for j, text := range a {
			b = append(b, '"')
			b = appendEscaped(slices.Grow(b, jsonByte*len(text)+2), []byte(text))
			b = append(b, '"')
			if j == 0 {
				b = append(b, ':')
			}
		}
	}
	return string(append(b, '}', ','))
}

func (f *jsonFormat) begin(now time.Time, source Source) {
	b := append(f.ending[:0], `","stream":"`...)
	b = append(b, source.String()...)
	b = append(b, `",`...)
	b = append(b, f.attrs...)
	b = append(b, `"time":"`...)
	b = now.UTC().AppendFormat(b, time.RFC3339Nano)
	f.ending = append(b, '"', '}', '\n')
}

// isEnd: the beginning of a line is kept until its end comes, as in Docker, or until
// there is a record full of it.
func (f *jsonFormat) isEnd(_, finish bool) bool { return finish }

func (f *jsonFormat) longest() int { return f.most }

func (f *jsonFormat) records(out, data []byte, end bool, r room) (made, used int, why stop) {
	for used < len(data) {
		content := data[used:min(used+jsonRecord, len(data))]
		if line := bytes.IndexByte(content, '\n'); line >= 0 {
			content = content[:line+1]
		} else if len(content) == jsonRecord {
			content = content[:wholeRunes(content)]
		} else if !end {
			return made, used, dataDone
		}
		if r.total <= 0 {
			return made, used, totalFull
		}
		record := f.record(out[made:made:len(out)], content)
		if record == nil {
			return made, used, outFull
		}
		length := int64(len(record))
		if length > r.file && !r.one {
			return made, used, fileFull
		}
		made += int(length)
		used += len(content)
		r.file -= length
		r.total -= length
		r.one = false
	}
	return made, used, dataDone
}

// record makes one record in the capacity of b; nil if it does not fit.
func (f *jsonFormat) record(b, content []byte) []byte {
	if cap(b) < len(jsonStart)+len(f.ending) {
		return nil
	}
	text := appendEscaped(append(b[:0:cap(b)-len(f.ending)], jsonStart...), content)
	if text == nil {
		return nil
	}
	return append(b[:len(text)], f.ending...)
}

// wholeRunes is how much of the beginning of a line a record has that cannot have all
// of it: no character is cut in two. (Docker cuts it, and shows two of U+FFFD.)
func wholeRunes(content []byte) int {
	for n := len(content) - 1; n >= len(content)-utf8.UTFMax; n-- {
		if utf8.RuneStart(content[n]) {
			if utf8.FullRune(content[n:]) {
				break
			}
			return n
		}
	}
	return len(content)
}

// isPlain says of each byte whether it stands for itself in a string of JSON, as
// Docker writes it: safe in HTML, too.
var isPlain = func() (plain [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		plain[c] = !strings.ContainsRune(`"\<>&`, c)
	}
	return plain
}()

const hexDigits = "0123456789abcdef"

// appendEscaped appends text as it is between the quotes of a string of JSON. What is
// no UTF-8 becomes U+FFFD, byte by byte. It gives nil if there is no room for it.
func appendEscaped(b, text []byte) []byte {
	for len(text) > 0 {
		n := 0
		for n < len(text) && isPlain[text[n]] {
			n++
		}
		if n > cap(b)-len(b) {
			return nil
		}
		b = append(b, text[:n]...)
		if text = text[n:]; len(text) == 0 {
			break
		}
		if jsonByte > cap(b)-len(b) {
			return nil
		}
		n = 1
		switch c := text[0]; {
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < utf8.RuneSelf:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		default:
			var r rune
			switch r, n = utf8.DecodeRune(text); {
			case r == utf8.RuneError && n == 1:
				b = append(b, `\ufffd`...)
			case r == '\u2028' || r == '\u2029': // ends a line of JavaScript
				b = append(b, '\\', 'u', '2', '0', '2', hexDigits[r&0xf])
			default:
				b = append(b, text[:n]...)
			}
		}
		text = text[n:]
	}
	return b
}
