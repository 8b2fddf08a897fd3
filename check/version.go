package check

import (
	"strconv"
	"strings"
)

// Version is the numbers of a version, as far as they go: 1.8.1 is {1, 8, 1}.
type Version []int

// ParseVersion finds the version in the first line of what a program answers to
// --version: "crun version 1.8.1", "systemd 252 (252.30-1~deb12u2)". What a
// distribution adds to it ("1.1.5+ds1") is not looked at.
func ParseVersion(text string) (Version, bool) {
	line, _, _ := strings.Cut(text, "\n")
	for _, word := range strings.Fields(line) {
		if v := leadingNumbers(strings.TrimPrefix(word, "v")); v != nil {
			return v, true
		}
	}
	return nil, false
}

// ownVersion is how gracerun and gracemon name themselves, beside what they stand
// in for and whose version comes first in their answer: "gracerun: v0.1" on a line
// of gracerun's, "commit: gracemon v0.1" on one of gracemon's.
func ownVersion(name, text string) (string, bool) {
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "commit: ")
		if own, ok := strings.CutPrefix(line, name); ok {
			standsFor, _, _ := strings.Cut(text, "\n")
			return strings.TrimLeft(own, ": ") + " (as " + standsFor + ")", true
		}
	}
	return "", false
}

func leadingNumbers(word string) Version {
	end := strings.IndexFunc(word, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end >= 0 {
		word = word[:end]
	}
	var v Version
	for _, part := range strings.Split(word, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		v = append(v, n)
	}
	return v
}

// Before reports whether v is an earlier version than w; 1.17 is 1.17.0.
func (v Version) Before(w Version) bool {
	for i := range max(len(v), len(w)) {
		if a, b := v.part(i), w.part(i); a != b {
			return a < b
		}
	}
	return false
}

func (v Version) part(i int) int {
	if i < len(v) {
		return v[i]
	}
	return 0
}

func (v Version) String() string {
	var parts []string
	for _, n := range v {
		parts = append(parts, strconv.Itoa(n))
	}
	return strings.Join(parts, ".")
}
