package cmdline

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Exit says that gracemon is to write something and end: after --help and
// --version, or because the command line is wrong.
type Exit struct {
	Status         int
	Stdout, Stderr string
	Syslog         string // what --syslog is to get, "" if nothing
}

// Error gives what goes to stderr.
func (e *Exit) Error() string { return e.Stderr }

// Parse reads the arguments, without the program's name. What they mean
// together is for Complete to see. The error is an *Exit.
func Parse(args []string) (*Options, error) {
	o := &Options{
		SocketDir:        DefaultSocketDir,
		LogSizeMax:       -1,
		LogGlobalSizeMax: -1,
		LogMaxFiles:      1,
	}
	var apiVersion bool
	p := parser{args: args, table: o.table(&apiVersion)}
	if problem := p.run(); problem != "" {
		return nil, &Exit{Status: 1, Stderr: "conmon: option parsing failed: " + problem + "\n"}
	}
	if apiVersion {
		o.APIVersion = 1
	}
	switch {
	case p.help:
		return nil, &Exit{Stdout: help(p.table)}
	case o.version:
		return nil, &Exit{Stdout: versionText()}
	case o.LogMaxFiles < 0:
		return nil, wrong("log-max-files must be non-negative, got " + strconv.Itoa(o.LogMaxFiles))
	case o.LogRotate && o.LogMaxFiles == 0:
		return nil, wrong("log-max-files must be at least 1 when log-rotate is enabled, got 0")
	case o.ID == "" && o.Recover == "" && o.Upgrade == "" && !o.Keeper:
		return nil, wrong("Container ID not provided. Use --cid")
	}
	return o, nil
}

func wrong(message string) *Exit {
	return &Exit{Status: 1, Stderr: "conmon: " + message + "\n"}
}

// parser goes through the arguments as g_option_context_parse of GLib does. An
// argument that is no option means nothing and is passed over: Podman says
// "--api-version 1", and the option takes no value.
type parser struct {
	args  []string
	table []option
	next  int // index of the first argument not yet read
	help  bool
}

// run gives what is wrong with the arguments, "" if nothing. It stops at --help,
// whatever comes after it.
func (p *parser) run() (problem string) {
	for p.next < len(p.args) && !p.help && problem == "" {
		arg := p.args[p.next]
		p.next++
		switch {
		case arg == "--":
			return ""
		case len(arg) > 2 && arg[:2] == "--":
			problem = p.long(arg)
		case len(arg) > 1 && arg[0] == '-':
			problem = p.shorts(arg)
		}
	}
	return problem
}

// long reads --name, --name=value or --name value.
func (p *parser) long(arg string) (problem string) {
	if arg == "--help" || arg == "--help-all" {
		p.help = true
		return ""
	}
	name, value, hasValue := strings.Cut(arg[2:], "=")
	for i := range p.table {
		o := &p.table[i]
		switch {
		case o.name != name:
			continue
		case hasValue || !o.takesValue(): // GOption takes --flag=no for --flag
			return o.set("--"+name, value)
		case p.next == len(p.args):
			return "Missing argument for --" + name
		}
		p.next++
		return o.set("--"+name, p.args[p.next-1])
	}
	return "Unknown option " + arg
}

// shorts reads options of one letter in one argument. One of them can have a
// value, which is the next argument; -cvalue is not among the forms.
func (p *parser) shorts(arg string) (problem string) {
	valueTaken := false
letters:
	for j := 1; j < len(arg); j++ {
		if arg[j] == 'h' || arg[j] == '?' {
			p.help = true
			return ""
		}
		for i := range p.table {
			o := &p.table[i]
			if o.short != arg[j] {
				continue
			}
			name, value := "-"+arg[j:j+1], ""
			if o.takesValue() {
				switch {
				case valueTaken:
					return "Error parsing option " + name
				case p.next == len(p.args):
					return "Missing argument for " + name
				}
				value, valueTaken = p.args[p.next], true
				p.next++
			}
			if problem := o.set(name, value); problem != "" {
				return problem
			}
			continue letters
		}
		return "Unknown option " + arg
	}
	return ""
}

// set gives the option its value; name is as the user wrote it.
func (o *option) set(name, value string) (problem string) {
	if o.flag != nil {
		*o.flag = true
		return ""
	}
	if o.num != nil {
		n, problem := integer(name, value, 32)
		if problem == "" {
			*o.num = int(n)
		}
		return problem
	}
	if o.num64 != nil {
		n, problem := integer(name, value, 64)
		if problem == "" {
			*o.num64 = n
		}
		return problem
	}
	if !utf8.ValidString(value) {
		return "Invalid byte sequence in conversion input"
	}
	if o.list != nil {
		*o.list = append(*o.list, value)
	} else {
		*o.text = value
	}
	return ""
}

// integer reads a number as strtol with base 0 does: space before it, a sign,
// 0x for hexadecimal, 0 for octal.
func integer(name, text string, bits int) (n int64, problem string) {
	notANumber := "Cannot parse integer value “" + text + "” for " + name
	digits := text
	for digits != "" && (digits[0] == ' ' || digits[0] >= '\t' && digits[0] <= '\r') {
		digits = digits[1:]
	}
	sign := ""
	if digits != "" && (digits[0] == '-' || digits[0] == '+') {
		sign, digits = digits[:1], digits[1:]
	}
	base := 10
	switch {
	case len(digits) > 2 && digits[0] == '0' && digits[1]|0x20 == 'x':
		base, digits = 16, digits[2:]
	case len(digits) > 1 && digits[0] == '0':
		base, digits = 8, digits[1:]
	}
	if digits == "" || digits[0] == '-' || digits[0] == '+' {
		return 0, notANumber // ParseInt would take a second sign
	}
	n, err := strconv.ParseInt(sign+digits, base, bits)
	if err == nil {
		return n, ""
	}
	if outOfRange(digits, base) {
		return 0, "Integer value “" + text + "” for " + name + " out of range"
	}
	return 0, notANumber
}

// outOfRange tells, of what is no number, that the digits are all right: there
// are too many of them.
func outOfRange(digits string, base int) bool {
	for i := 0; i < len(digits); i++ {
		if _, err := strconv.ParseUint(digits[i:i+1], base, 8); err != nil {
			return false
		}
	}
	return true
}
