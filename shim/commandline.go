package shim

import (
	"strings"

	"gracerun.io/faults"
	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/oci"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/settings"
)

// call is one call of the program: its command line, as far as gracerun has to
// understand it.
//
// It is read as crun (getopt_long, options in order) and runc (urfave/cli: one
// dash or two, options also after arguments) read it. What neither would accept
// is not judged here: it goes to the wrapped runtime, whose message is the one
// that callers know.
type call struct {
	argv    []string
	globals []string // the options before the command
	command string
	args    []string // what follows the command

	// understood: every global option is known, and there is a command.
	understood bool

	root      string // --root, "" if not given
	log       string
	logFormat string
	debug     bool
	systemd   bool // --systemd-cgroup, --cgroup-manager=systemd

	wrapped string             // path of the wrapped runtime, once it is known
	maker   string             // of the runtime that has made the container, until it is needed
	problem string             // with the options, as scan found it; "" for none
	config  *settings.Settings // see settings
	wrong   error              // in the configuration file
	spec    *bundle.Config     // of the container that is created
	journal *journal.Writer    // likewise, once it is begun
	faults  *faults.Injector
	by      *lifecycle.Caller // see caller
}

// Names for commands that are spelled as options.
const (
	versionCommand = "--version"
	helpCommand    = "--help"
)

func parse(argv []string) *call {
	c := &call{argv: argv}
	g, n, whole := oci.ParseGlobals(argv[1:])
	c.root, c.log, c.logFormat, c.debug, c.systemd = g.Root, g.Log, g.LogFormat, g.Debug, g.Systemd
	switch g.Other {
	case "":
	case "version", "v", "V":
		c.command, c.understood = versionCommand, true
		return c
	case "help", "h", "?":
		c.command, c.understood = helpCommand, true
		return c
	default:
		return c
	}
	i := 1 + n
	if !whole { // the wrapped runtime says what is missing
		return c
	}
	if i == len(argv) {
		return c
	}
	c.globals, c.command, c.args = argv[1:i], argv[i], argv[i+1:]
	if c.command == "help" || c.command == "h" {
		c.command = helpCommand
	}
	c.understood = g.KnownFormat()
	return c
}

// A flag of a command: its names, and whether a value follows.
type flag struct {
	name, short string
	takesValue  bool
	text        *string // where its value goes
	on          *bool   // or that it was given
}

// scan reads the arguments of a command. ok is false if there is anything that
// flags does not have.
func (c *call) scan(flags []flag) (arguments []string, ok bool) {
	for i := 0; i < len(c.args); i++ {
		name, value, hasValue, isOption := oci.Option(c.args[i])
		if c.args[i] == "--" {
			return append(arguments, c.args[i+1:]...), true
		}
		if !isOption {
			arguments = append(arguments, c.args[i])
			continue
		}
		f := find(flags, name)
		if f == nil {
			c.problem = "unknown option " + c.args[i]
			return nil, false
		}
		switch {
		case !f.takesValue:
			*f.on = value != "false"
		case hasValue:
			*f.text = value
		default:
			if i++; i == len(c.args) {
				c.problem = "option " + c.args[i-1] + " needs a value"
				return nil, false
			}
			*f.text = c.args[i]
		}
	}
	return arguments, true
}

func find(flags []flag, name string) *flag {
	for i := range flags {
		if f := &flags[i]; name == f.name || name == f.short && name != "" {
			return f
		}
	}
	return nil
}

// creation is what create and run are told.
type creation struct {
	id                               string
	bundle, config, pidFile, console string
	detach                           bool
}

// scanCreation reads the arguments of create and run. The runtimes keep adding
// flags; whichever those are, the id comes last.
func (c *call) scanCreation() (n creation, ok bool) {
	last := len(c.args) - 1
	if last < 0 || strings.HasPrefix(c.args[last], "-") {
		return n, false
	}
	n = creation{id: c.args[last], bundle: "."}
	flags := []flag{
		{name: "bundle", short: "b", takesValue: true, text: &n.bundle},
		{name: "config", short: "f", takesValue: true, text: &n.config},
		{name: "pid-file", takesValue: true, text: &n.pidFile},
		{name: "console-socket", takesValue: true, text: &n.console},
		{name: "detach", short: "d", on: &n.detach},
	}
	for i := 0; i < last; i++ {
		name, value, hasValue, isOption := oci.Option(c.args[i])
		if !isOption {
			continue // the value of a flag that is not known here
		}
		f := find(flags, name)
		if f == nil && len(name) > 1 && c.args[i][1] != '-' {
			f = find(flags, name[:1]) // "-bDIR", as getopt takes it
			value, hasValue = strings.TrimPrefix(c.args[i][1:], name[:1]), true
		}
		switch {
		case f == nil:
		case !f.takesValue:
			*f.on = value != "false"
		case hasValue:
			*f.text = value
		case i+1 < last:
			i++
			*f.text = c.args[i]
		default:
			return n, false
		}
	}
	return n, true
}

// load reads the container's configuration.
func (n *creation) load(rules bundle.Rules) (*bundle.Config, error) {
	path := n.config
	if path == "" {
		path = "config.json"
	}
	if path[0] != '/' {
		path = n.bundle + "/" + path
	}
	return bundle.LoadFile(path, rules)
}
