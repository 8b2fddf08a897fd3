// Package usage says how gracerun is called: its commands, their options, and
// the help that is printed for them. The manual page gracerun(8) and the shell
// completions are checked against it.
//
// Options of crun and runc that gracerun only passes on are not listed: they
// differ from version to version, and the wrapped runtime documents them.
package usage

import "strings"

// Option is one option of a command.
type Option struct {
	Name    string // without dashes
	Short   string // one letter, "" for none
	Value   string // placeholder of its argument, "" if it takes none
	Default string // value without the option, "" for none
	Text    string // one sentence, without a full stop
}

// Command is one command of gracerun.
type Command struct {
	Name      string
	Arguments string // placeholders, as in "CONTAINER [SIGNAL]"
	Summary   string // one line
	Text      string // more than that, "" for none
	Options   []Option

	// Wrapped says that the wrapped runtime has this command too, and takes
	// options that are not listed here.
	Wrapped bool
}

// Globals are the options before the command.
var Globals = []Option{
	{Name: "root", Value: "DIR", Default: "the wrapped runtime's", Text: "directory of the wrapped runtime's state; one container ID can exist once under each"},
	{Name: "log", Value: "FILE", Default: "standard error", Text: "file for errors and warnings; over crun also journald:NAME, syslog:NAME or file:PATH"},
	{Name: "log-format", Value: "FORMAT", Default: "text", Text: "format of the log: text or json"},
	{Name: "log-level", Value: "LEVEL", Text: "level of the wrapped runtime's log"},
	{Name: "debug", Text: "make the wrapped runtime's log more verbose"},
	{Name: "systemd-cgroup", Text: "have systemd make the cgroup; cgroupsPath is SLICE:PREFIX:NAME"},
	{Name: "cgroup-manager", Value: "MANAGER", Text: "over crun: systemd, cgroupfs or disabled"},
	{Name: "rootless", Value: "VALUE", Text: "ignore cgroup permission errors: true, false or auto"},
	{Name: "criu", Value: "PATH", Text: "ignored by the runtimes of today"},
	{Name: "help", Short: "h", Text: "print this help, or that of a command"},
	{Name: "version", Short: "v", Text: "print the version of the wrapped runtime and of gracerun"},
}

var (
	bundle = Option{Name: "bundle", Short: "b", Value: "DIR", Default: ".", Text: "directory of the OCI bundle"}
	config = Option{Name: "config", Short: "f", Value: "FILE", Default: "config.json", Text: "configuration file, in the bundle unless the path is absolute; crun only"}
	socket = Option{Name: "console-socket", Value: "SOCKET", Text: "AF_UNIX socket that receives the terminal's master"}
	pid    = Option{Name: "pid-file", Value: "FILE", Text: "file for the process number of the container's init"}
)

// Commands are the commands, by name. Each is one that gracerun does something
// about; any other name goes to the wrapped runtime as it is.
var Commands = []Command{
	{Name: "create", Arguments: "CONTAINER", Summary: "create a container", Wrapped: true,
		Text:    "The stop settings are read from the annotations in config.json (gracerun-annotations(7)) and from the\nconfiguration file (gracerun.toml(5)).",
		Options: []Option{bundle, config, socket, pid}},
	{Name: "delete", Arguments: "CONTAINER", Summary: "remove a container that has ended", Wrapped: true,
		Options: []Option{{Name: "force", Short: "f", Text: "kill the container first, whatever the policy is"}}},
	{Name: "events", Arguments: "CONTAINER", Summary: "print events of a container as JSON lines", Wrapped: true,
		Text:    "With --signals: signals, stops and breaches of a grace period, as they happen, until the container ends.\nWithout it: the wrapped runtime's events; crun has none.",
		Options: []Option{{Name: "signals", Text: "print the events of the signal path"}}},
	{Name: "features", Summary: "print what the wrapped runtime supports, as JSON", Wrapped: true,
		Text: "gracerun adds the annotations io.gracerun.version, io.gracerun.runtime and io.gracerun.stop."},
	{Name: "kill", Arguments: "CONTAINER [SIGNAL]", Summary: "send a signal to the container's init (default: SIGTERM)", Wrapped: true,
		Text: "SIGNAL is a name, with or without SIG, or a number; 0 asks whether the container runs. The container's\nsupervisor sends it and keeps the policy of gracerun-annotations(7).",
		Options: []Option{
			{Name: "all", Short: "a", Text: "send the signal to every process of the container"},
			{Name: "force", Text: "send the signal where the policy would hold it"},
		}},
	{Name: "list", Summary: "list the containers of the wrapped runtime, or the last stops of this node", Wrapped: true,
		Text: "With --stops: the stops of the containers that gracerun and gracemon know, present and deleted, the last one\nat the end: how long each took, how much of its grace period that was, and how it ended.",
		Options: []Option{
			{Name: "stops", Text: "list stops"},
			{Name: "format", Short: "f", Value: "FORMAT", Default: "table", Text: "table or json"},
		}},
	{Name: "pause", Arguments: "CONTAINER", Summary: "freeze all processes of a container", Wrapped: true},
	{Name: "resume", Arguments: "CONTAINER", Summary: "thaw a paused container", Wrapped: true},
	{Name: "run", Arguments: "CONTAINER", Summary: "create and start a container", Wrapped: true,
		Options: []Option{bundle, config, socket, {Name: "detach", Short: "d", Text: "return when the container has started"}, pid}},
	{Name: "start", Arguments: "CONTAINER", Summary: "start the program of a created container", Wrapped: true},
	{Name: "state", Arguments: "CONTAINER", Summary: "print the state of a container as JSON", Wrapped: true},
	{Name: "stop", Arguments: "CONTAINER", Summary: "stop a container within its grace period, and wait for its end",
		Text: "The stop signal is sent once. SIGKILL follows when the grace period is over. Prints code=N, signal=N or\nunknown, and exits with N, 128+N or 255.",
		Options: []Option{
			{Name: "signal", Short: "s", Value: "SIGNAL", Default: "the container's stop signal", Text: "the signal to send"},
			{Name: "timeout", Short: "t", Value: "GRACE", Default: "the container's grace period", Text: "the grace period, as 30s, 2m or a number of seconds"},
		}},
	{Name: "trace", Arguments: "CONTAINER", Summary: "print the journal of a container's supervisor",
		Text: "CONTAINER is an id, the beginning of one, the manager's name, or [[NAMESPACE/]POD/]CONTAINER. Journals of deleted\ncontainers are kept for a while (history in gracerun.toml(5)). `gracelab trace` draws a journal."},
}

// Find gives the command of that name, nil if there is none.
func Find(name string) *Command {
	for i := range Commands {
		if Commands[i].Name == name {
			return &Commands[i]
		}
	}
	return nil
}

// Wanted reports whether the arguments of a command ask for its help. What
// follows the first argument that is no option, or "--", can belong to a program
// that is run in the container.
func Wanted(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--help", "-help", "-h", "-?":
			return true
		}
		if arg == "--" || !strings.HasPrefix(arg, "-") {
			return false
		}
	}
	return false
}

// Line is the first line of a command's help, and what is said of a command line
// that is wrong.
func (c *Command) Line() string {
	line := "gracerun " + c.Name
	if len(c.Options) > 0 || c.Wrapped {
		line += " [OPTION...]"
	}
	if c.Arguments != "" {
		line += " " + c.Arguments
	}
	return line
}

// Help is the text of `gracerun COMMAND --help`.
func (c *Command) Help() string {
	var b strings.Builder
	b.WriteString("Usage: " + c.Line() + "\n\n" + upper(c.Summary) + ".\n")
	if c.Text != "" {
		b.WriteString(c.Text + "\n")
	}
	b.WriteString("\nOptions:\n")
	for _, o := range c.Options {
		o.write(&b)
	}
	(&Option{Name: "help", Short: "h", Text: "print this help"}).write(&b)
	if c.Wrapped {
		b.WriteString("\nOther options go to the wrapped runtime (crun, runc) as they are.\n")
	}
	return b.String()
}

// Overview is the text of `gracerun --help`.
func Overview() string {
	var b strings.Builder
	b.WriteString("Usage: gracerun [GLOBAL OPTION...] COMMAND [OPTION...] [ARGUMENT...]\n\n" +
		"An OCI runtime around crun, runc or gracerun-native. Signals, stops and states go to\n" +
		"the container's supervisor; everything else is done by the wrapped runtime.\n\nCommands:\n")
	for i := range Commands {
		pad(&b, "  "+Commands[i].Name, 14, Commands[i].Summary)
	}
	b.WriteString("\nAny other command (exec, ps, update, checkpoint, ...) is the wrapped runtime's.\n\nGlobal options:\n")
	for _, o := range Globals {
		o.write(&b)
	}
	b.WriteString("\ngracerun(8), gracerun.toml(5) and gracerun-annotations(7) are the manual.\n")
	return b.String()
}

func (o *Option) write(b *strings.Builder) {
	left := "      --" + o.Name
	if o.Short != "" {
		left = "  -" + o.Short + ", --" + o.Name
	}
	if o.Value != "" {
		left += "=" + o.Value
	}
	text := o.Text
	if o.Default != "" {
		text += " (default: " + o.Default + ")"
	}
	pad(b, left, 31, text)
}

// pad writes a line of two columns. A left column that is too wide has a line of
// its own.
func pad(b *strings.Builder, left string, width int, right string) {
	b.WriteString(left)
	if len(left) > width-2 {
		b.WriteByte('\n')
		left = ""
	}
	for range width - len(left) {
		b.WriteByte(' ')
	}
	b.WriteString(right + "\n")
}

func upper(text string) string { return string(text[0]-'a'+'A') + text[1:] }
