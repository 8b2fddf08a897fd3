package settings

import (
	"errors"
	"strconv"
	"strings"
)

// The part of TOML 1.0 that a configuration file needs: comments, tables, and
// strings and lists of strings on one line. What is TOML but not of that part is
// refused, never taken for something else.

// entry is a line of the file: a table, or a key of it and its value.
type entry struct {
	key    string // "" for a line without either
	table  bool
	text   string
	list   []string // where isList
	isList bool
}

// parseLine reads `key = "value"`, `key = ["value", "value"]` or `[table]`.
func parseLine(line string) (e entry, err error) {
	line = strings.Trim(line, " \t")
	if line == "" || line[0] == '#' {
		return entry{}, nil
	}
	if line[0] == '[' {
		name, rest, closed := strings.Cut(line[1:], "]")
		name = strings.Trim(name, " \t")
		if !closed || !isBare(name) || !isRest(rest) {
			return entry{}, errors.New("want [table], found " + strconv.Quote(line))
		}
		return entry{key: name, table: true}, nil
	}
	name, rest, found := strings.Cut(line, "=")
	name, rest = strings.Trim(name, " \t"), strings.Trim(rest, " \t")
	if !found || !isBare(name) || rest == "" {
		return entry{}, errors.New(`want key = "value", found ` + strconv.Quote(line))
	}
	e.key = name
	var ok bool
	if e.isList = rest[0] == '['; e.isList {
		if e.list, rest, ok = parseList(rest[1:]); !ok || !isRest(rest) {
			return entry{}, errors.New(name + `: want texts in quotes between [ and ], on one line`)
		}
		return e, nil
	}
	if e.text, rest, ok = parseString(rest); !ok || !isRest(rest) {
		return entry{}, errors.New(name + `: want a text in quotes, on one line`)
	}
	return e, nil
}

// parseList reads what follows the opening bracket of a list of strings.
func parseList(text string) (list []string, rest string, ok bool) {
	for {
		text = strings.TrimLeft(text, " \t")
		if rest, ok = strings.CutPrefix(text, "]"); ok {
			return list, rest, true
		}
		if text == "" {
			return nil, "", false
		}
		var value string
		if value, text, ok = parseString(text); !ok {
			return nil, "", false
		}
		list = append(list, value)
		text = strings.TrimLeft(text, " \t")
		if more, ok := strings.CutPrefix(text, ","); ok {
			text = more
		} else if !strings.HasPrefix(text, "]") {
			return nil, "", false
		}
	}
}

// isBare: the names that need no quotes.
func isBare(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// isRest: nothing, or a comment.
func isRest(rest string) bool {
	rest = strings.Trim(rest, " \t")
	return rest == "" || rest[0] == '#'
}

// parseString reads a basic string ("with \" escapes") or a literal one ('without').
func parseString(text string) (value, rest string, ok bool) {
	if text[0] == '\'' {
		value, rest, ok = strings.Cut(text[1:], "'")
		return value, rest, ok && !strings.HasPrefix(text, "'''")
	}
	if text[0] != '"' || strings.HasPrefix(text, `"""`) {
		return "", "", false
	}
	var plain []byte
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return string(plain), text[i+1:], true
		case c == '\\' && i+1 < len(text) && strings.IndexByte(`"\`, text[i+1]) >= 0:
			i++
			plain = append(plain, text[i])
		case c == '\\' || c < ' ' && c != '\t':
			return "", "", false // other escapes: nothing here has a use for them
		default:
			plain = append(plain, c)
		}
	}
	return "", "", false
}
