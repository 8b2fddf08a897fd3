package native

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
)

// A command declares its flags and gives what is to be done once they are parsed.
type command struct {
	name      string
	arguments string
	summary   string
	min, max  int // how many arguments it takes; max < 0: any number
	declare   func(*flag.FlagSet) action

	// Flags end at the first argument: what follows belongs to a command line
	// that is not ours.
	flagsFirst bool
}

type action func(g *globals, args []string) error

const anyNumber = -1

var commands = []command{
	{name: "checkpoint", arguments: "<container-id>", summary: "not built in", max: anyNumber, declare: noCRIU},
	{name: "create", arguments: "<container-id>", summary: "create a container", min: 1, max: 1, declare: createCommand},
	{name: "delete", arguments: "<container-id>", summary: "remove a stopped container, or with --force any", min: 1, max: 1, declare: deleteCommand},
	{name: "events", arguments: "<container-id>", summary: "show resource usage and out-of-memory events", min: 1, max: 1, declare: eventsCommand},
	{name: "exec", arguments: "<container-id> <command> [argument...]", summary: "run another process in a container", min: 1, max: anyNumber, flagsFirst: true, declare: execCommand},
	{name: "features", summary: "show what this runtime supports, as JSON", declare: featuresCommand},
	{name: "kill", arguments: "<container-id> [signal]", summary: "send a signal (default: SIGTERM) to the container's init process", min: 1, max: 2, declare: killCommand},
	{name: "list", summary: "list the containers under --root", declare: listCommand},
	{name: "pause", arguments: "<container-id>", summary: "freeze all processes of a container", min: 1, max: 1, declare: pauseCommand},
	{name: "ps", arguments: "<container-id> [ps option...]", summary: "show the processes of a container", min: 1, max: anyNumber, flagsFirst: true, declare: psCommand},
	{name: "restore", arguments: "<container-id>", summary: "not built in", max: anyNumber, declare: noCRIU},
	{name: "resume", arguments: "<container-id>", summary: "thaw a paused container", min: 1, max: 1, declare: resumeCommand},
	{name: "run", arguments: "<container-id>", summary: "create and start a container", min: 1, max: 1, declare: runCommand},
	{name: "spec", summary: "write a config.json to begin with", declare: specCommand},
	{name: "start", arguments: "<container-id>", summary: "start the process of a created container", min: 1, max: 1, declare: startCommand},
	{name: "state", arguments: "<container-id>", summary: "show the state of a container, as JSON", min: 1, max: 1, declare: stateCommand},
	{name: "update", arguments: "<container-id>", summary: "change the resource limits of a container", min: 1, max: 1, declare: updateCommand},
}

// globals are the options that stand before the command.
type globals struct {
	root          string
	rootGiven     bool
	log           string
	logFormat     string
	rootless      string
	debug         bool
	systemdCgroup bool
	version       bool
}

func (g *globals) declare(flags *flag.FlagSet) {
	flags.StringVar(&g.root, "root", defaultRoot(), "`directory` of the state of containers")
	flags.StringVar(&g.log, "log", "", "`file` to log to (default: standard error)")
	flags.StringVar(&g.logFormat, "log-format", "text", "`format` of the log: text or json")
	flags.StringVar(&g.rootless, "rootless", "auto", "ignore cgroup permission errors: true, false or auto")
	flags.BoolVar(&g.debug, "debug", false, "log what is being done")
	flags.BoolVar(&g.systemdCgroup, "systemd-cgroup", false, "have systemd make the cgroup; cgroupsPath is slice:prefix:name")
	flags.BoolVar(&g.version, "version", false, "show the version")
	alias(flags, "version", "v")
	// Callers of runc before 1.5 may pass it.
	flags.String("criu", "", "ignored")
}

// dispatch parses the command line and does what it says.
func dispatch(args []string) error {
	var g globals
	flags := newFlagSet(program)
	g.declare(flags)
	if err := flags.Parse(args[1:]); err != nil {
		return helpOr(err, func() { printUsage(flags) })
	}
	flags.Visit(func(f *flag.Flag) { g.rootGiven = g.rootGiven || f.Name == "root" })
	switch name := flags.Arg(0); {
	case g.version:
		return printVersion(os.Stdout)
	case name == "" || name == "help" || name == "h":
		printUsage(flags)
		return nil
	}
	if err := g.apply(); err != nil {
		return err
	}
	for _, c := range commands {
		if c.name == flags.Arg(0) {
			return c.run(args[0], &g, flags.Args()[1:])
		}
	}
	return &exitCoder{fmt.Errorf("unknown command %q: %s help lists them", flags.Arg(0), program), 3}
}

// apply makes the root absolute, since commands change into the bundle, and
// opens the log.
func (g *globals) apply() error {
	if g.rootGiven {
		root, err := filepath.Abs(g.root)
		if err != nil {
			return err
		}
		if g.root = root; root == "/" {
			return errors.New("option --root must not be set to /")
		}
	} else if err := keepRuntimeDir(g.root); err != nil {
		return err
	}
	return openLog(g)
}

func (c command) run(argv0 string, g *globals, args []string) error {
	flags := newFlagSet(c.name)
	act := c.declare(flags)
	usage := func() { c.printUsage(flags) }
	args, err := c.parse(flags, args)
	if err != nil {
		return helpOr(err, usage)
	}
	var expected string
	switch n := len(args); {
	case c.min == c.max && n != c.min:
		expected = "exactly " + strconv.Itoa(c.min)
	case n < c.min:
		expected = "a minimum of " + strconv.Itoa(c.min)
	case c.max != anyNumber && n > c.max:
		expected = "a maximum of " + strconv.Itoa(c.max)
	default:
		return act(g, args)
	}
	fmt.Print("Incorrect Usage.\n\n")
	usage()
	return fmt.Errorf("%s: %q requires %s argument(s)", argv0, c.name, expected)
}

// parse gives the arguments that are left when the flags are taken out, which
// may stand between and after them.
func (c command) parse(flags *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		left := flags.Args()
		taken := len(args) - len(left)
		closed := taken > 0 && args[taken-1] == "--"
		if len(left) == 0 || c.flagsFirst || closed {
			return append(rest, left...), nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// newFlagSet gives one that returns its errors and is otherwise quiet.
func newFlagSet(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	return flags
}

func helpOr(err error, usage func()) error {
	if errors.Is(err, flag.ErrHelp) {
		usage()
		return nil
	}
	fmt.Printf("Incorrect Usage: %v\n\n", err)
	usage()
	return err
}

// alias makes a second name for a flag that was declared.
func alias(flags *flag.FlagSet, name, short string) {
	f := flags.Lookup(name)
	flags.Var(f.Value, short, "same as --"+name)
}

// texts is a flag that may be given several times.
type texts []string

func (t *texts) String() string { return strings.Join(*t, " ") }

func (t *texts) Set(text string) error {
	*t = append(*t, text)
	return nil
}

func printUsage(flags *flag.FlagSet) {
	fmt.Printf("Usage: %s [option...] <command> [option...] [argument...]\n\nCommands:\n", program)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, c := range commands {
		fmt.Fprintf(table, "  %s\t%s\n", c.name, c.summary)
	}
	table.Flush()
	printFlags(flags)
}

func (c command) printUsage(flags *flag.FlagSet) {
	fmt.Printf("Usage: %s %s [option...] %s\n\n%s\n", program, c.name, c.arguments, c.summary)
	printFlags(flags)
}

func printFlags(flags *flag.FlagSet) {
	fmt.Print("\nOptions:\n")
	flags.SetOutput(os.Stdout)
	flags.PrintDefaults()
}
