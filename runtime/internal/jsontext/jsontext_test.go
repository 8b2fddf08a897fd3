package jsontext

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestString(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`""`, ""},
		{`"plain"`, "plain"},
		{`"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t"},
		{`"\u00e9\u20AC"`, "é€"},
		{`"\ud83d\ude00"`, "😀"},
		{`"\ud83d"`, "\ufffd"},
		{`"\ud83dx"`, "\ufffdx"},
		{`"\ud83d\n"`, "\ufffd\n"},
		{`"\ud83d\u0041"`, "\ufffdA"},
		{"\"\xff\"", "\ufffd"},
	} {
		got, err := NewReader([]byte(test.text)).String()
		if err != nil || got != test.want {
			t.Errorf("%s: got %q, %v, want %q", test.text, got, err, test.want)
		}
	}
}

func TestInt(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, " -12": -12, "9223372036854775807": 1<<63 - 1} {
		if got, err := NewReader([]byte(text)).Int(); err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "1.5", "1e3", "9223372036854775808", `"1"`, "-"} {
		if got, err := NewReader([]byte(text)).Int(); err == nil {
			t.Errorf("%s: got %d", text, got)
		}
	}
}

func TestList(t *testing.T) {
	r := NewReader([]byte(`["a", "b"]`))
	var all string
	err := r.List(func() error {
		text, err := r.String()
		all += text
		return err
	})
	if err != nil || all != "ab" || r.End() != nil {
		t.Errorf("got %q, %v", all, err)
	}
	if NewReader([]byte(`{}`)).List(func() error { return nil }) == nil {
		t.Error("an object is taken for a list")
	}
}

func TestErrorsSayWhere(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "1:1: unexpected end of text"},
		{"{\n \"a\": tru }", "2:10: unexpected ' ' in true"},
		{"{\n\n  a: 1}", "3:3: unexpected 'a' instead of a key in double quotes"},
		{`{"a" 1}`, "1:6: unexpected '1' after a key, instead of a colon"},
		{`[1 2]`, "1:4: unexpected '2' instead of a comma or ]"},
		{`[01]`, "1:3: unexpected '1' instead of a comma or ]"},
		{`-`, "1:2: unexpected end of text"},
		{`1.e5`, "1:3: unexpected 'e' instead of a digit"},
		{`"a`, "1:3: unexpected end of text"},
		{"\"a\nb\"", `1:3: unexpected '\n' in a string, where it must be escaped`},
		{`"\q"`, "1:3: unexpected 'q' after a backslash"},
		{`"\u12g4"`, `1:6: unexpected 'g' in a \u escape`},
		{`{} x`, "1:4: unexpected 'x' after the end of the document"},
		{"1\x00", `1:2: unexpected '\x00' after the end of the document`},
		{strings.Repeat("[", maxDepth+1), "1:10001: nested too deeply"},
	} {
		err := skip(test.text)
		if err == nil || err.Error() != test.want {
			t.Errorf("%.20s: got %v, want %s", test.text, err, test.want)
		}
	}
}

// skip reads text as one document.
func skip(text string) error {
	r := NewReader([]byte(text))
	if err := r.Skip(); err != nil {
		return err
	}
	return r.End()
}

// The same texts are JSON for us as for encoding/json, and strings come out the
// same.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,-0.5e+3,true,false,null,"x\u00e9\ud83d\ude00"],"b":{}}`,
		`"\ud83d\u0041"`, "\"\xed\xa0\x80\"", `[,]`, `{"a":}`, " \t\r\n1 ", `01`, `1e`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := skip(string(data))
		if valid := json.Valid(data); valid != (err == nil) {
			t.Fatalf("%q: encoding/json says %v, we say %v", data, valid, err)
		}
		var want string
		if json.Unmarshal(data, &want) != nil || strings.TrimSpace(string(data)) == "null" {
			return
		}
		if got, err := NewReader(data).String(); err != nil || got != want {
			t.Fatalf("%q: got %q, %v, want %q", data, got, err, want)
		}
	})
}

// What we write is what encoding/json writes; without the escapes for HTML it
// means the same and has none of them.
func FuzzAppendString(f *testing.F) {
	for _, seed := range []string{"", "a", "\x00\x1f\x7f", "<&>", "\u2028\u2029", "\xff", "\b\f\n\r\t\"\\/", "😀"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendString(nil, text, true); string(got) != string(want) {
			t.Fatalf("html: got %s, want %s", got, want)
		}
		var meant, read string
		plain := AppendString(nil, text, false)
		if err := json.Unmarshal(want, &meant); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(plain, &read); err != nil || read != meant {
			t.Fatalf("%s reads as %q, %v, want %q", plain, read, err, meant)
		}
		for _, char := range []string{"<", ">", "&", "\u2028", "\u2029"} {
			if strings.Count(string(plain), char) != strings.Count(text, char) {
				t.Fatalf("%q is escaped in %s", char, plain)
			}
		}
	})
}
