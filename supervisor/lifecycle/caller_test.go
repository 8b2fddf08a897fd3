package lifecycle

import (
	"strings"
	"testing"
)

func TestCallerText(t *testing.T) {
	for _, c := range []*Caller{
		NewCaller("/usr/bin/crio", 812, 4711, 0, "crio.service"),
		NewCaller("/home/a b/p%,|;", 1, 0, 4294967295, "user@1000.service"),
		NewCaller("", 0, 0, 0, ""),
		NewCaller(strings.Repeat("é", 500), 1, 1, 1, strings.Repeat("u", 500)),
	} {
		word := c.String()
		got, ok := ParseCaller(word)
		if !ok || *got != *c {
			t.Errorf("%+v is written %q, and read as %+v, %v", c, word, got, ok)
		}
		if strings.ContainsAny(word, " ;|\n") || len(word) > 1000 {
			t.Errorf("%q is not one short word", word)
		}
	}
	for _, word := range []string{
		"", "a,1,2,3", "a,1,2,3,b,c", "a b,1,2,3,u", "a,x,2,3,u", "a,-1,2,3,u", "a,1,2,4294967296,u", "a,01,2,3,u", "%4,1,2,3,u", "%41,1,2,3,u",
		strings.Repeat("a", maxName+1) + ",1,2,3,u",
	} {
		if c, ok := ParseCaller(word); ok {
			t.Errorf("%q is read as %+v", word, c)
		}
	}
}

func FuzzParseCaller(f *testing.F) {
	f.Add("/usr/bin/crio,812,4711,0,crio.service")
	f.Add("/a%20b%25,1,2,3,x%2C")
	f.Fuzz(func(t *testing.T, word string) {
		if c, ok := ParseCaller(word); ok && c.String() != word {
			t.Errorf("%q is read as %+v, which is written %q", word, c, c)
		}
	})
}

// Who is the same manager, and who is not.
func TestCallerIs(t *testing.T) {
	crio := NewCaller("/usr/bin/crio", 812, 4711, 0, "crio.service")
	podman := NewCaller("/usr/bin/podman", 100, 1, 0, "")
	for _, test := range []struct {
		what string
		a, b *Caller
		want bool
	}{
		{"one process", crio, NewCaller("/usr/bin/crio", 812, 4711, 0, "crio.service"), true},
		{"one process that has moved and executed something else", crio, NewCaller("/usr/bin/x", 812, 4711, 0, "y.service"), true},
		{"restarted", crio, NewCaller("/usr/bin/crio", 900, 9999, 0, "crio.service"), true},
		{"its number, used again", crio, NewCaller("/bin/bash", 812, 9999, 0, "session-1.scope"), false},
		{"the same program in another unit", crio, NewCaller("/usr/bin/crio", 900, 9999, 0, "other.service"), false},
		{"another program in its unit", crio, NewCaller("/bin/sh", 900, 9999, 0, "crio.service"), false},
		{"another user", crio, NewCaller("/usr/bin/crio", 900, 9999, 1000, "crio.service"), false},
		{"no unit, one process", podman, NewCaller("/usr/bin/podman", 100, 1, 0, ""), true},
		{"no unit, two processes", podman, NewCaller("/usr/bin/podman", 101, 1, 0, ""), false},
		{"nobody known", nil, nil, false},
		{"one of them known", crio, nil, false},
		{"nothing known of either", &Caller{}, &Caller{}, false},
	} {
		if got := test.a.Is(test.b); got != test.want {
			t.Errorf("%s: %v, want %v", test.what, got, test.want)
		}
		if got := test.b.Is(test.a); got != test.want {
			t.Errorf("%s, the other way round: %v, want %v", test.what, got, test.want)
		}
	}
}
