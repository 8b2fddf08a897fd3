package lifecycle

import (
	"strconv"
	"strings"
)

// Caller is who makes a request: the process that called the runtime, as the edge
// saw it. A nil *Caller is nobody that is known.
type Caller struct {
	Program string // path of its executable
	Pid     int
	Start   uint64 // when it was started, in clock ticks since boot (proc_pid_stat(5), field 22)
	UID     uint32 // the user that it runs as
	Unit    string // the innermost systemd unit of its cgroup, "" if it is in none
}

// NewCaller gives the caller that has this program, process and so on. Of a name
// that is too long the end counts.
func NewCaller(program string, pid int, start uint64, uid uint32, unit string) *Caller {
	return &Caller{Program: last(program), Pid: pid, Start: start, UID: uid, Unit: last(unit)}
}

func last(name string) string { return name[max(0, len(name)-maxName):] }

// Is reports whether both are the same manager: one process; or the same program,
// run by the same user in the same systemd unit, as a manager is that was restarted
// or that is a process of its own for each command. Who is not known, or is in no
// unit, is taken for nobody else.
func (c *Caller) Is(other *Caller) bool {
	if c == nil || other == nil {
		return false
	}
	if c.Pid != 0 && c.Pid == other.Pid && c.Start == other.Start {
		return true
	}
	return c.Unit != "" && c.Program != "" && c.Unit == other.Unit && c.Program == other.Program && c.UID == other.UID
}

// Append appends the caller as one word: program, process, its start, user and unit,
// separated by commas, as in "/usr/bin/crio,812,4711,0,crio.service".
func (c *Caller) Append(b []byte) []byte {
	b = append(appendPlain(b, c.Program), ',')
	b = append(strconv.AppendInt(b, int64(c.Pid), 10), ',')
	b = append(strconv.AppendUint(b, c.Start, 10), ',')
	b = append(strconv.AppendUint(b, uint64(c.UID), 10), ',')
	return appendPlain(b, c.Unit)
}

// String returns what Append appends.
func (c *Caller) String() string { return string(c.Append(nil)) }

// maxName bounds program and unit in bytes: a caller is a word of a line, not the line.
const maxName = 128

// appendPlain appends a name of which all but letters, digits and some signs are
// written as %XX, so that it is one word and has no separator in it.
func appendPlain(b []byte, name string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(name) {
		if c := name[i]; isPlain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b
}

func isPlain(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("/._-@:+", c) >= 0
}

// ParseCaller reads what Append writes. The caller shares no memory with word.
func ParseCaller(word string) (*Caller, bool) {
	parts := strings.Split(word, ",")
	if len(parts) != 5 {
		return nil, false
	}
	program, ok1 := parsePlain(parts[0])
	pid, err1 := strconv.ParseInt(parts[1], 10, 32)
	start, err2 := strconv.ParseUint(parts[2], 10, 64)
	uid, err3 := strconv.ParseUint(parts[3], 10, 32)
	unit, ok2 := parsePlain(parts[4])
	c := &Caller{Program: program, Pid: int(pid), Start: start, UID: uint32(uid), Unit: unit}
	if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil || pid < 0 || c.String() != word {
		return nil, false
	}
	return c, true
}

func parsePlain(text string) (string, bool) {
	var name []byte
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case isPlain(c):
			name = append(name, c)
		case c == '%' && i+2 < len(text):
			n, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			name = append(name, byte(n))
			i += 2
		default:
			return "", false
		}
	}
	return string(name), len(name) <= maxName
}
