// Package pack writes states down as short byte strings, so that the explorer
// can tell whether it has been in one before.
package pack

// Bits returns up to eight flags as one byte.
func Bits(flags ...bool) (b byte) {
	for i, f := range flags {
		if f {
			b |= 1 << i
		}
	}
	return b
}

// Int appends n, in fewer bytes if it is small. Negative numbers take ten.
func Int(b []byte, n int64) []byte {
	u := uint64(n)
	for ; u >= 0x80; u >>= 7 {
		b = append(b, byte(u)|0x80)
	}
	return append(b, byte(u))
}

// Until appends how far at is from now. What is past is past: how long ago
// makes no difference to what happens next.
func Until[T ~int64](b []byte, at, now T) []byte {
	if at == 1<<63-1 {
		return Int(b, int64(at)) // never
	}
	return Int(b, int64(max(at-now, 0)))
}
