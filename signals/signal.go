// Package signals knows the names and numbers of Linux signals, as the callers
// of container runtimes write them.
//
// The numbers are those of amd64 and arm64 (signal(7), "x86/ARM"). MIPS, SPARC,
// Alpha and PA-RISC number several signals differently and are not supported.
//
// The package is pure: it imports nothing that reaches the system, so that the
// lifecycle machine can use it.
package signals

import (
	"strconv"
	"strings"
)

// Signal is a Linux signal number. Valid signals are 1 through 64.
type Signal int

// Probe is the null signal of kill(2): it asks whether the process is there and
// may be signalled, and delivers nothing. It is not a valid Signal.
const Probe Signal = 0

// The standard signals.
const (
	HUP    Signal = 1
	INT    Signal = 2
	QUIT   Signal = 3
	ILL    Signal = 4
	TRAP   Signal = 5
	ABRT   Signal = 6
	BUS    Signal = 7
	FPE    Signal = 8
	KILL   Signal = 9
	USR1   Signal = 10
	SEGV   Signal = 11
	USR2   Signal = 12
	PIPE   Signal = 13
	ALRM   Signal = 14
	TERM   Signal = 15
	STKFLT Signal = 16
	CHLD   Signal = 17
	CONT   Signal = 18
	STOP   Signal = 19
	TSTP   Signal = 20
	TTIN   Signal = 21
	TTOU   Signal = 22
	URG    Signal = 23
	XCPU   Signal = 24
	XFSZ   Signal = 25
	VTALRM Signal = 26
	PROF   Signal = 27
	WINCH  Signal = 28
	IO     Signal = 29
	PWR    Signal = 30
	SYS    Signal = 31
)

// The real-time signals that programs may use. The kernel's own range starts at
// 32, but glibc keeps 32 and 33 for its threads and calls 34 SIGRTMIN; crun,
// Podman and systemd count from 34 too. So does this package: counting from 32
// would turn a stop signal of RTMIN+3 into another signal.
const (
	RTMIN Signal = 34
	RTMAX Signal = 64
)

var names = [...]string{
	HUP: "HUP", INT: "INT", QUIT: "QUIT", ILL: "ILL", TRAP: "TRAP", ABRT: "ABRT",
	BUS: "BUS", FPE: "FPE", KILL: "KILL", USR1: "USR1", SEGV: "SEGV", USR2: "USR2",
	PIPE: "PIPE", ALRM: "ALRM", TERM: "TERM", STKFLT: "STKFLT", CHLD: "CHLD",
	CONT: "CONT", STOP: "STOP", TSTP: "TSTP", TTIN: "TTIN", TTOU: "TTOU", URG: "URG",
	XCPU: "XCPU", XFSZ: "XFSZ", VTALRM: "VTALRM", PROF: "PROF", WINCH: "WINCH",
	IO: "IO", PWR: "PWR", SYS: "SYS",
}

// Valid reports whether s can be delivered: whether it is 1 through 64.
func (s Signal) Valid() bool { return s >= HUP && s <= RTMAX }

// Name gives the short name: "TERM", "RTMIN+3". The upper half of the real-time
// range counts down from RTMAX, as kill(1) lists it, because crun and Podman
// know RTMIN+0 to +15 and RTMAX-14 to -0 only. A number without a name, such as
// 32, is given in digits.
func (s Signal) Name() string {
	switch {
	case s >= HUP && int(s) < len(names):
		return names[s]
	case s == RTMIN:
		return "RTMIN"
	case s > RTMIN && s <= RTMIN+15:
		return "RTMIN+" + strconv.Itoa(int(s-RTMIN))
	case s > RTMIN+15 && s < RTMAX:
		return "RTMAX-" + strconv.Itoa(int(RTMAX-s))
	case s == RTMAX:
		return "RTMAX"
	}
	return strconv.Itoa(int(s))
}

// String gives the full name: "SIGTERM", "SIGRTMIN+3", "SIG32".
func (s Signal) String() string { return "SIG" + s.Name() }

// UnknownError is the error of Parse and ParseKill for a text that names no signal.
type UnknownError struct {
	Input string // as the caller wrote it
}

// Error says it in runc's words. crun's differ only in the quotes (`FOO`
// instead of "FOO"); runc's also escape what would break a log line.
func (e *UnknownError) Error() string { return "unknown signal " + strconv.Quote(e.Input) }

// Parse reads a signal that is to be delivered: a stop signal of a container,
// for instance. It takes what any of crun, runc and Podman takes: names in
// either case, with or without SIG (TERM, SIGTERM, sigterm), the aliases IOT,
// CLD and POLL, real-time names (RTMIN+3, SIGRTMAX-1) over their whole range,
// and numbers (15, +15, SIG15).
//
// Refused are accidents of theirs: trailing text after a number (crun), numbers
// that no kernel takes, and 0, which would be a stop that
// nobody hears. The error is an *UnknownError.
//
// What a wrapped runtime is handed should be the number: runc knows neither
// real-time names nor the aliases.
func Parse(text string) (Signal, error) {
	s, err := ParseKill(text)
	if err == nil && s == Probe {
		return 0, &UnknownError{Input: text}
	}
	return s, err
}

// ParseKill reads the signal argument of the command `kill`. It differs from
// Parse in taking 0 as Probe, as crun and runc do: `runc kill ID 0` asks
// whether the container lives. An empty text is an error here; that runc's
// command line takes an empty argument for TERM is for the command to decide.
func ParseKill(text string) (Signal, error) {
	name := strings.TrimPrefix(strings.Map(upper, text), "SIG")
	if s, ok := lookup(name); ok {
		return s, nil
	}
	if digits, ok := strings.CutPrefix(text, "+"); ok { // as runc does (strconv.Atoi)
		if n, ok := number(digits, int(RTMAX)); ok {
			return Signal(n), nil
		}
	}
	return 0, &UnknownError{Input: text}
}

// upper touches ASCII only: strings.ToUpper would turn the long s (U+017F) into
// an S and the dotless i (U+0131) into an I.
func upper(r rune) rune {
	if r >= 'a' && r <= 'z' {
		return r - 'a' + 'A'
	}
	return r
}

func lookup(name string) (Signal, bool) {
	if n, ok := number(name, int(RTMAX)); ok {
		return Signal(n), true
	}
	if offset, ok := strings.CutPrefix(name, "RTMIN"); ok {
		n, ok := distance(offset, '+')
		return RTMIN + Signal(n), ok
	}
	if offset, ok := strings.CutPrefix(name, "RTMAX"); ok {
		n, ok := distance(offset, '-')
		return RTMAX - Signal(n), ok
	}
	switch name {
	case "IOT":
		return ABRT, true
	case "CLD":
		return CHLD, true
	case "POLL":
		return IO, true
	}
	for s := HUP; int(s) < len(names); s++ {
		if names[s] == name {
			return s, true
		}
	}
	return 0, false
}

// distance reads what follows RTMIN or RTMAX: nothing, or a sign and a number
// that stays within the real-time range.
func distance(offset string, sign byte) (int, bool) {
	if offset == "" {
		return 0, true
	}
	if offset[0] != sign {
		return 0, false
	}
	return number(offset[1:], int(RTMAX-RTMIN))
}

// number reads decimal digits and nothing else, up to limit.
func number(digits string, limit int) (int, bool) {
	if digits == "" || digits[0] < '0' || digits[0] > '9' {
		return 0, false // most are names, and an error would be made for nobody
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return int(n), err == nil && n <= uint64(limit)
}
