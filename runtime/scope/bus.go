package scope

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The little of D-Bus that three calls to systemd need, by hand: a library would
// bring in net, reflect and their start-up, which each kill would pay for too.
// "The spec" is the D-Bus Specification 0.43.

// address is where a bus listens.
type address struct{ path string } // "@NAME": an abstract socket

// addresses reads a list in the spec's format (section "Server Addresses");
// transports other than Unix sockets are left out.
func addresses(text string) []address {
	var all []address
	for one := range strings.SplitSeq(text, ";") {
		rest, ok := strings.CutPrefix(one, "unix:")
		if !ok {
			continue
		}
		for pair := range strings.SplitSeq(rest, ",") {
			key, v, _ := strings.Cut(pair, "=")
			switch v = unescape(v); key {
			case "path":
				all = append(all, address{v})
			case "abstract":
				all = append(all, address{"@" + v})
			}
		}
	}
	return all
}

func unescape(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				out.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}

const (
	answerSeconds = 25      // what libdbus waits for an answer
	maxMessage    = 1 << 20 // systemd's are far smaller
)

// conn is a connection to a bus, ready for calls.
type conn struct {
	fd     int
	serial uint32
	in     []byte // received and not yet read
}

func dial(bus []address) (*conn, error) {
	err := error(unix.ENOENT)
	for _, a := range bus {
		var c *conn
		if c, err = open(a); err == nil {
			return c, nil
		}
		err = errors.New("connect to the bus at " + a.path + ": " + err.Error())
	}
	return nil, err
}

func open(a address) (*conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &conn{fd: fd}
	limit := unix.Timeval{Sec: answerSeconds}
	for _, err := range []error{
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.Connect(fd, &unix.SockaddrUnix{Name: a.path}),
	} {
		if err != nil {
			c.close()
			return nil, err
		}
	}
	if err := c.begin(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// begin authenticates (the spec's section "Authentication Protocol"). The kernel
// tells the bus who we are; to say it would be wrong in a user namespace.
func (c *conn) begin() error {
	if err := c.write([]byte("\x00AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")); err != nil {
		return err
	}
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		word, _, _ := strings.Cut(line, " ")
		switch word {
		case "DATA":
		case "OK":
			_, err := c.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", nil)
			return err
		default:
			return errors.New("the bus refuses us: " + line)
		}
	}
}

func (c *conn) line() (string, error) {
	for {
		if line, rest, ok := strings.Cut(string(c.in), "\r\n"); ok {
			c.in = []byte(rest)
			return line, nil
		}
		if len(c.in) > 4096 {
			return "", errors.New("the bus does not speak D-Bus")
		}
		if err := c.fill(); err != nil {
			return "", err
		}
	}
}

func (c *conn) write(data []byte) error {
	for len(data) > 0 {
		n, err := unix.SendmsgN(c.fd, data, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (c *conn) fill() error {
	var buf [4096]byte
	for {
		n, err := unix.Read(c.fd, buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return errors.New("no answer in " + strconv.Itoa(answerSeconds) + " s")
		case err != nil:
			return err
		case n == 0:
			return errors.New("the bus has hung up")
		}
		c.in = append(c.in, buf[:n]...)
		return nil
	}
}

// busError is an error that came as a reply.
type busError struct{ name, text string }

func (e *busError) Error() string { return e.text + " (" + e.name + ")" }

const (
	systemd   = "org.freedesktop.systemd1"
	managerAt = "/org/freedesktop/systemd1"
)

// property gives one property of a unit. Those of all units and those of scopes
// are on two interfaces. It need not be loaded: systemd then loads it, or finds
// that there is none.
func (c *conn) property(unit, name string) (value, error) {
	v, err := c.propertyOn("Unit", unit, name)
	if _, ok := err.(*busError); ok {
		return c.propertyOn("Scope", unit, name)
	}
	return v, err
}

func (c *conn) propertyOn(iface, unit, name string) (value, error) {
	var body encoder
	body.string(systemd + "." + iface)
	body.string(name)
	reply, err := c.call(systemd, unitPath(unit), "org.freedesktop.DBus.Properties", "Get", &encoder{body.data, "ss"})
	if err != nil {
		return value{}, err
	}
	return reply.variant()
}

// setProperty sets a property until the unit or the host goes.
func (c *conn) setProperty(unit string, p property) error {
	var body encoder
	body.string(unit)
	body.uint32(1) // runtime
	body.array(8, func() {
		body.align(8)
		body.string(p.name)
		body.variant(p.value)
	})
	_, err := c.call(systemd, managerAt, systemd+".Manager", "SetUnitProperties", &encoder{body.data, "sba(sv)"})
	return err
}

// reload is daemon-reload.
func (c *conn) reload() error {
	_, err := c.call(systemd, managerAt, systemd+".Manager", "Reload", nil)
	return err
}

// unitPath is the object of a unit: what is no letter or digit is escaped, and a
// digit at the beginning too (sd_bus_path_encode(3)).
func unitPath(unit string) string {
	const hex = "0123456789abcdef"
	path := []byte(managerAt + "/unit/")
	for i, b := range []byte(unit) {
		if isAlphanumeric(b) && (i > 0 || b > '9') {
			path = append(path, b)
		} else {
			path = append(path, '_', hex[b>>4], hex[b&15])
		}
	}
	return string(path)
}

// Message types and header fields (the spec's section "Message Format").
const (
	methodCall   = 1
	methodReturn = 2
	errorReply   = 3

	fieldPath        = 1
	fieldInterface   = 2
	fieldMember      = 3
	fieldErrorName   = 4
	fieldReplySerial = 5
	fieldDestination = 6
	fieldSignature   = 8
)

// call calls a method and waits for its reply. Whatever else arrives is dropped.
func (c *conn) call(destination, path, iface, member string, body *encoder) (*decoder, error) {
	c.serial++
	if body == nil {
		body = &encoder{}
	}
	var m encoder
	m.data = append(m.data, 'l', methodCall, 0, 1)
	m.uint32(uint32(len(body.data)))
	m.uint32(c.serial)
	m.array(8, func() {
		m.field(fieldPath, "o", path)
		m.field(fieldInterface, "s", iface)
		m.field(fieldMember, "s", member)
		m.field(fieldDestination, "s", destination)
		if body.signature != "" {
			m.field(fieldSignature, "g", body.signature)
		}
	})
	m.align(8)
	if err := c.write(append(m.data, body.data...)); err != nil {
		return nil, err
	}
	for {
		reply, err := c.receive()
		if err != nil {
			return nil, err
		}
		if reply.to != c.serial {
			continue
		}
		switch reply.kind {
		case methodReturn:
			return reply.body, nil
		case errorReply:
			e := &busError{name: reply.errorName}
			if strings.HasPrefix(reply.body.signature, "s") {
				e.text, _ = reply.body.string()
			}
			return nil, e
		}
	}
}

type message struct {
	kind      byte
	to        uint32 // whose reply it is
	errorName string
	body      *decoder
}

var errMalformed = errors.New("the bus sent what is not D-Bus")

func (c *conn) receive() (*message, error) {
	for len(c.in) < 16 {
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
	var order binary.ByteOrder = binary.LittleEndian
	if c.in[0] == 'B' {
		order = binary.BigEndian
	}
	bodyLen, fieldsLen := order.Uint32(c.in[4:]), order.Uint32(c.in[12:])
	if bodyLen > maxMessage || fieldsLen > maxMessage || c.in[0] != 'l' && c.in[0] != 'B' {
		return nil, errMalformed
	}
	header := (16 + int(fieldsLen) + 7) &^ 7
	for len(c.in) < header+int(bodyLen) {
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
	m := &message{kind: c.in[1], body: &decoder{data: c.in[header : header+int(bodyLen)], order: order}}
	fields := &decoder{data: c.in[:16+int(fieldsLen)], at: 16, order: order}
	c.in = c.in[header+int(bodyLen):]
	for fields.at < len(fields.data) {
		fields.align(8)
		code, err := fields.byte()
		if err != nil {
			return nil, err
		}
		v, err := fields.variant()
		if err != nil {
			return nil, err
		}
		switch code {
		case fieldReplySerial:
			m.to = uint32(v.number)
		case fieldErrorName:
			m.errorName = v.text
		case fieldSignature:
			m.body.signature = v.text
		}
	}
	return m, nil
}
