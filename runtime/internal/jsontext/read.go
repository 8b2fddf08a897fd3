// Package jsontext reads and writes the little JSON that gracerun needs, to the
// letter of RFC 8259, without encoding/json.
//
// Its reason is memory and start time. Measured on Linux amd64, Go 1.26, PSS of
// one of 30 idle processes: 555 KiB bare, 773 KiB after encoding/json read five
// fields of a config.json, 1109 KiB after it filled runtime-spec's specs.Spec.
// A monitor per container pays that for as long as the container lives.
//
// Where JSON leaves room it decides as encoding/json does: bytes that are not
// UTF-8 and lone surrogates become U+FFFD. Keys that come twice are the
// business of the caller, who sees them all.
package jsontext

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// SyntaxError says where a text is not JSON, or not the JSON that was expected.
type SyntaxError struct {
	Line, Column int // from 1; the column counts bytes
	Message      string
}

func (e *SyntaxError) Error() string {
	return strconv.Itoa(e.Line) + ":" + strconv.Itoa(e.Column) + ": " + e.Message
}

// maxDepth is that of encoding/json.
const maxDepth = 10000

// Reader goes through one JSON text. The methods that read a value must each be
// called where one stands: at the start, and in the functions given to Object.
type Reader struct {
	data  []byte
	pos   int
	depth int
}

// NewReader reads data, which must not change meanwhile.
func NewReader(data []byte) *Reader { return &Reader{data: data} }

// End fails if anything but white space follows the value that was read.
func (r *Reader) End() error {
	if r.peek() != 0 || r.pos < len(r.data) {
		return r.unexpected("after the end of the document")
	}
	return nil
}

// Offset gives where the value that comes next begins, or what else comes.
func (r *Reader) Offset() int {
	r.peek()
	return r.pos
}

// Fail gives an error at the value that comes next.
func (r *Reader) Fail(message string) error {
	r.peek()
	return r.failAt(r.pos, message)
}

// Null reads null if that is what stands there.
func (r *Reader) Null() bool {
	if r.peek() != 'n' {
		return false
	}
	begin := r.pos
	if r.literal("null") != nil {
		r.pos = begin // for whoever reads what is no value
		return false
	}
	return true
}

// Bool reads true or false.
func (r *Reader) Bool() (bool, error) {
	switch r.peek() {
	case 't':
		return true, r.literal("true")
	case 'f':
		return false, r.literal("false")
	}
	return false, r.unexpected("instead of true or false")
}

// Object reads an object and calls member for each key, in order. member must
// read the value, with Skip if with nothing else.
func (r *Reader) Object(member func(key string) error) error {
	if r.peek() != '{' {
		return r.unexpected("instead of an object")
	}
	return r.list('}', func() error {
		if r.peek() != '"' {
			return r.unexpected("instead of a key in double quotes")
		}
		key, err := r.String()
		if err != nil {
			return err
		}
		if r.peek() != ':' {
			return r.unexpected("after a key, instead of a colon")
		}
		r.pos++
		return member(key)
	})
}

// list reads from an opening bracket to the closing one.
func (r *Reader) list(closing byte, item func() error) error {
	if r.depth++; r.depth > maxDepth {
		return r.failAt(r.pos, "nested too deeply")
	}
	r.pos++
	if r.peek() == closing {
		return r.close()
	}
	for {
		if err := item(); err != nil {
			return err
		}
		switch r.peek() {
		case ',':
			r.pos++
		case closing:
			return r.close()
		default:
			return r.unexpected("instead of a comma or " + string(rune(closing)))
		}
	}
}

func (r *Reader) close() error {
	r.pos++
	r.depth--
	return nil
}

// Skip reads a value of any kind and checks its syntax.
func (r *Reader) Skip() error {
	switch c := r.peek(); {
	case c == '{':
		return r.Object(func(string) error { return r.Skip() })
	case c == '[':
		return r.list(']', r.Skip)
	case c == '"':
		_, err := r.String()
		return err
	case c == '-' || isDigit(c):
		return r.number()
	case c == 't' || c == 'f':
		_, err := r.Bool()
		return err
	case c == 'n':
		return r.literal("null")
	}
	return r.unexpected("instead of a value")
}

func (r *Reader) literal(word string) error {
	for i := range len(word) {
		if r.at() != word[i] {
			return r.unexpected("in " + word)
		}
		r.pos++
	}
	return nil
}

func (r *Reader) number() error {
	if r.at() == '-' {
		r.pos++
	}
	if r.at() == '0' {
		r.pos++ // a leading zero stands alone
	} else if err := r.digits(); err != nil {
		return err
	}
	if r.at() == '.' {
		r.pos++
		if err := r.digits(); err != nil {
			return err
		}
	}
	if c := r.at(); c == 'e' || c == 'E' {
		r.pos++
		if c := r.at(); c == '+' || c == '-' {
			r.pos++
		}
		return r.digits()
	}
	return nil
}

func (r *Reader) digits() error {
	if !isDigit(r.at()) {
		return r.unexpected("instead of a digit")
	}
	for isDigit(r.at()) {
		r.pos++
	}
	return nil
}

// Int reads a whole number that fits 64 bits.
func (r *Reader) Int() (int64, error) {
	if c := r.peek(); c != '-' && !isDigit(c) {
		return 0, r.unexpected("instead of a number")
	}
	start := r.pos
	if err := r.number(); err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(r.data[start:r.pos]), 10, 64)
	if err != nil {
		return 0, r.failAt(start, "is not a whole number of 64 bits")
	}
	return n, nil
}

// List reads a list and calls item for each entry, which must read it.
func (r *Reader) List(item func() error) error {
	if r.peek() != '[' {
		return r.unexpected("instead of a list")
	}
	return r.list(']', item)
}

// String reads a string.
func (r *Reader) String() (string, error) {
	if r.peek() != '"' {
		return "", r.unexpected("instead of a string")
	}
	r.pos++
	var text []byte
	for r.pos < len(r.data) {
		c := r.data[r.pos]
		switch {
		case c == '"':
			r.pos++
			return string(text), nil
		case c == '\\':
			char, err := r.escape()
			if err != nil {
				return "", err
			}
			text = utf8.AppendRune(text, char)
		case c < ' ':
			return "", r.unexpected("in a string, where it must be escaped")
		default:
			char, size := utf8.DecodeRune(r.data[r.pos:])
			text = utf8.AppendRune(text, char)
			r.pos += size
		}
	}
	return "", r.unexpected("in a string")
}

// escape reads what begins with a backslash, and both halves of a surrogate pair.
func (r *Reader) escape() (rune, error) {
	r.pos++
	c := r.at()
	if c == 'u' {
		high, err := r.hex()
		if err != nil || !utf16.IsSurrogate(high) {
			return high, err
		}
		return r.lowHalf(high)
	}
	const written, meant = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	for i := range len(written) {
		if c == written[i] {
			r.pos++
			return rune(meant[i]), nil
		}
	}
	return 0, r.unexpected("after a backslash")
}

// lowHalf reads the second half of a pair if it follows. What follows and is
// none is left to be read as what it is.
func (r *Reader) lowHalf(high rune) (rune, error) {
	before := r.pos
	if r.at() != '\\' {
		return utf8.RuneError, nil
	}
	r.pos++
	if r.at() != 'u' {
		r.pos = before
		return utf8.RuneError, nil
	}
	low, err := r.hex()
	if err != nil {
		return 0, err
	}
	char := utf16.DecodeRune(high, low)
	if char == utf8.RuneError {
		r.pos = before
	}
	return char, nil
}

// hex reads the u of an escape and its four digits.
func (r *Reader) hex() (rune, error) {
	var value rune
	for range 4 {
		r.pos++
		c := r.at()
		switch {
		case isDigit(c):
			value = value<<4 + rune(c-'0')
		case c >= 'a' && c <= 'f':
			value = value<<4 + rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			value = value<<4 + rune(c-'A'+10)
		default:
			return 0, r.unexpected("in a \\u escape")
		}
	}
	r.pos++
	return value, nil
}

// peek skips white space and gives the byte after it, 0 at the end.
func (r *Reader) peek() byte {
	for {
		switch c := r.at(); c {
		case ' ', '\t', '\r', '\n':
			r.pos++
		default:
			return c
		}
	}
}

// at gives the byte here, 0 at the end. A byte 0 in the text is valid nowhere,
// so that the two need not be told apart but for the message.
func (r *Reader) at() byte {
	if r.pos >= len(r.data) {
		return 0
	}
	return r.data[r.pos]
}

func (r *Reader) unexpected(where string) error {
	if r.pos >= len(r.data) {
		return r.failAt(r.pos, "unexpected end of text")
	}
	char, _ := utf8.DecodeRune(r.data[r.pos:])
	return r.failAt(r.pos, "unexpected "+strconv.QuoteRune(char)+" "+where)
}

func (r *Reader) failAt(pos int, message string) error {
	line, column := 1, 1
	for _, c := range r.data[:pos] {
		column++
		if c == '\n' {
			line, column = line+1, 1
		}
	}
	return &SyntaxError{line, column, message}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
