package jsontext

import "unicode/utf8"

// AppendString appends text as a JSON string. With html it is escaped as
// encoding/json does it by default, and so runc: also "<", ">" and "&", which
// crun leaves alone.
func AppendString(to []byte, text string, html bool) []byte {
	to = append(to, '"')
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			to = appendASCII(to, c, html)
			i++
			continue
		}
		char, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case char == utf8.RuneError && size == 1:
			to = append(to, `\ufffd`...)
		case html && (char == '\u2028' || char == '\u2029'):
			to = append(to, `\u202`...)
			to = append(to, byte('8'+char-'\u2028'))
		default:
			to = append(to, text[i:i+size]...)
		}
		i += size
	}
	return append(to, '"')
}

func appendASCII(to []byte, c byte, html bool) []byte {
	switch c {
	case '"', '\\':
		return append(to, '\\', c)
	case '\b':
		return append(to, `\b`...)
	case '\f':
		return append(to, `\f`...)
	case '\n':
		return append(to, `\n`...)
	case '\r':
		return append(to, `\r`...)
	case '\t':
		return append(to, `\t`...)
	}
	if c < ' ' || html && (c == '<' || c == '>' || c == '&') {
		const hex = "0123456789abcdef"
		return append(to, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
	}
	return append(to, c)
}
