package scope

import (
	"strconv"
	"strings"
)

// value is of one of the types that annotations have and the bus gives.
type value struct {
	kind   byte // 'b', 's', 'a' (of strings), the D-Bus code of an integer, or 0: of another type
	number uint64
	text   string
	list   []string
}

// parseProperty reads an annotation: a GVariant in its text format, of a type
// that crun knows (libcrun/cgroup-systemd.c, append_systemd_annotation). NameSec
// in seconds is NameUSec in microseconds.
func parseProperty(name, text string) (property, bool) {
	text = strings.Trim(text, " ")
	factor := uint64(1)
	if stem, ok := strings.CutSuffix(name, "Sec"); ok && len(stem) > 0 && stem[len(stem)-1] >= 'a' && stem[len(stem)-1] <= 'z' {
		name, factor = stem+"USec", 1_000_000
	}
	v, ok := parseValue(text, factor)
	return property{name, v}, ok
}

var integerTypes = []struct {
	name string
	kind byte
	bits int
}{
	{"uint64", 't', 64}, {"int64", 'x', 64}, {"uint32", 'u', 32}, {"int32", 'i', 32},
}

func parseValue(text string, factor uint64) (value, bool) {
	switch {
	case text == "true":
		return value{kind: 'b', number: 1}, true
	case text == "false":
		return value{kind: 'b'}, true
	case text == "":
		return value{}, false
	case text[0] == '\'' || text[0] == '"':
		s, rest, ok := parseString(text)
		return value{kind: 's', text: s}, ok && rest == ""
	case text[0] == '[':
		return parseList(text[1:])
	}
	kind, bits := byte('i'), 32
	for _, t := range integerTypes {
		if rest, ok := strings.CutPrefix(text, t.name+" "); ok {
			text, kind, bits = strings.Trim(rest, " "), t.kind, t.bits
			break
		}
	}
	var n uint64
	if kind == 't' || kind == 'u' {
		u, err := strconv.ParseUint(text, 10, bits)
		if err != nil {
			return value{}, false
		}
		n = u
	} else {
		i, err := strconv.ParseInt(text, 10, bits)
		if err != nil {
			return value{}, false
		}
		n = uint64(i)
	}
	return value{kind: kind, number: n * factor}, true
}

// parseString reads a quoted string from the beginning of text.
func parseString(text string) (s, rest string, ok bool) {
	if text == "" || text[0] != '\'' && text[0] != '"' {
		return "", "", false
	}
	var out strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == text[0]:
			return out.String(), text[i+1:], true
		case text[i] == '\\' && i+1 < len(text):
			i++
			out.WriteByte(text[i])
		default:
			out.WriteByte(text[i])
		}
	}
	return "", "", false
}

func parseList(text string) (value, bool) {
	v := value{kind: 'a'}
	for first := true; ; first = false {
		text = strings.TrimLeft(text, " ")
		if first && text == "]" {
			return v, true
		}
		s, rest, ok := parseString(text)
		if !ok {
			return value{}, false
		}
		v.list = append(v.list, s)
		rest = strings.TrimLeft(rest, " ")
		if rest == "]" {
			return v, true
		}
		if text, ok = strings.CutPrefix(rest, ","); !ok {
			return value{}, false
		}
	}
}

// isIn tells whether what was asked is what there is. Of a dependency others may
// have asked for more. A type that is not read cannot be compared: it counts as well.
func (v value) isIn(has value, more bool) bool {
	switch has.kind {
	case 0:
		return true
	case 's':
		return v.kind == 's' && v.text == has.text || isInteger(v.kind)
	case 'a':
		if v.kind != 'a' {
			return true // a path, or one of another form
		}
		for _, s := range v.list {
			if !contains(has.list, s) {
				return false
			}
		}
		return more || len(v.list) == len(has.list)
	}
	return v.kind == 's' || v.number == has.number
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func isInteger(kind byte) bool { return strings.IndexByte("ynqiuxt", kind) >= 0 && kind != 0 }

func (v value) String() string {
	switch v.kind {
	case 'b':
		return yesNo(v.number != 0)
	case 's':
		return strconv.Quote(v.text)
	case 'a':
		return "[" + strings.Join(v.list, " ") + "]"
	case 'y', 'q', 'u', 't':
		return strconv.FormatUint(v.number, 10)
	case 'n', 'i', 'x':
		return strconv.FormatInt(int64(v.number), 10)
	}
	return "of another type"
}
