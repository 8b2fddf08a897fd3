package scope

import (
	"encoding/binary"
	"strings"
)

// encoder writes values in D-Bus's format (the spec's section "Marshaling"),
// little-endian, from an address that is a multiple of eight.
type encoder struct {
	data      []byte
	signature string
}

func (e *encoder) align(n int) {
	for len(e.data)%n != 0 {
		e.data = append(e.data, 0)
	}
}

func (e *encoder) uint32(n uint32) {
	e.align(4)
	e.data = binary.LittleEndian.AppendUint32(e.data, n)
}

func (e *encoder) uint64(n uint64) {
	e.align(8)
	e.data = binary.LittleEndian.AppendUint64(e.data, n)
}

func (e *encoder) string(s string) {
	e.uint32(uint32(len(s)))
	e.data = append(e.data, s...)
	e.data = append(e.data, 0)
}

func (e *encoder) writeSignature(s string) {
	e.data = append(e.data, byte(len(s)))
	e.data = append(e.data, s...)
	e.data = append(e.data, 0)
}

// array writes the elements that fill writes, each aligned to n.
func (e *encoder) array(n int, fill func()) {
	e.uint32(0)
	length := len(e.data) - 4
	e.align(n)
	begin := len(e.data)
	fill()
	binary.LittleEndian.PutUint32(e.data[length:], uint32(len(e.data)-begin))
}

func (e *encoder) field(code byte, signature, text string) {
	e.align(8)
	e.data = append(e.data, code)
	e.writeSignature(signature)
	if signature == "g" {
		e.writeSignature(text)
	} else {
		e.string(text)
	}
}

func (e *encoder) variant(v value) {
	switch v.kind {
	case 'b', 'i', 'u':
		e.writeSignature(string(v.kind))
		e.uint32(uint32(v.number))
	case 't', 'x':
		e.writeSignature(string(v.kind))
		e.uint64(v.number)
	case 's':
		e.writeSignature("s")
		e.string(v.text)
	case 'a':
		e.writeSignature("as")
		e.array(4, func() {
			for _, s := range v.list {
				e.string(s)
			}
		})
	}
}

// decoder reads them.
type decoder struct {
	data      []byte
	at        int
	order     binary.ByteOrder
	signature string
}

func (d *decoder) align(n int) { d.at = (d.at + n - 1) / n * n }

func (d *decoder) take(n int) ([]byte, error) {
	if n < 0 || d.at > len(d.data) || n > len(d.data)-d.at {
		return nil, errMalformed
	}
	d.at += n
	return d.data[d.at-n : d.at], nil
}

func (d *decoder) byte() (byte, error) {
	b, err := d.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// integer reads one of so many bytes.
func (d *decoder) integer(size int) (uint64, error) {
	d.align(size)
	b, err := d.take(size)
	if err != nil {
		return 0, err
	}
	switch size {
	case 1:
		return uint64(b[0]), nil
	case 2:
		return uint64(d.order.Uint16(b)), nil
	case 4:
		return uint64(d.order.Uint32(b)), nil
	}
	return d.order.Uint64(b), nil
}

func (d *decoder) string() (string, error) {
	n, err := d.integer(4)
	if err != nil || n > maxMessage {
		return "", errMalformed
	}
	return d.text(int(n))
}

func (d *decoder) readSignature() (string, error) {
	n, err := d.byte()
	if err != nil {
		return "", err
	}
	return d.text(int(n))
}

// text reads n bytes and the zero after them.
func (d *decoder) text(n int) (string, error) {
	b, err := d.take(n + 1)
	if err != nil || b[n] != 0 {
		return "", errMalformed
	}
	return string(b[:n]), nil
}

// variant reads a value of a type of its own. Of types that no property of ours
// has nothing is read: kind is 0.
func (d *decoder) variant() (value, error) {
	signature, err := d.readSignature()
	if err != nil {
		return value{}, err
	}
	switch signature {
	case "s", "o":
		text, err := d.string()
		return value{kind: 's', text: text}, err
	case "g":
		text, err := d.readSignature()
		return value{kind: 's', text: text}, err
	case "as":
		return d.strings()
	}
	if len(signature) != 1 {
		return value{}, nil
	}
	size, ok := map[byte]int{'y': 1, 'n': 2, 'q': 2, 'b': 4, 'i': 4, 'u': 4, 'x': 8, 't': 8}[signature[0]]
	if !ok {
		return value{}, nil
	}
	n, err := d.integer(size)
	switch {
	case signature == "n":
		n = uint64(int64(int16(n)))
	case signature == "i":
		n = uint64(int64(int32(n)))
	}
	return value{kind: signature[0], number: n}, err
}

func (d *decoder) strings() (value, error) {
	n, err := d.integer(4)
	if err != nil || n > maxMessage {
		return value{}, errMalformed
	}
	v := value{kind: 'a'}
	for end := d.at + int(n); d.at < end; {
		s, err := d.string()
		if err != nil {
			return value{}, err
		}
		v.list = append(v.list, strings.Clone(s))
	}
	return v, nil
}
