// Package cmdline is gracemon's command line: every option of conmon, read as
// conmon reads it, and a few of our own.
//
// Podman and CRI-O build the command line and look at the exit status, at
// stderr, and at the output of --version and --help. Options and messages are
// those of conmon 2.2 (src/cli.c), and what conmon 2.1.6 had besides. The
// syntax is that of GLib's GOption, which conmon uses.
//
// gracemon stays resident for each container: this package keeps away from os,
// fmt and flag.
package cmdline

import "gracerun.io/supervisor/logs"

// Options is what the command line asks for. A text that is empty was not given.
type Options struct {
	// The container.
	ID     string // --cid: what the runtime calls it
	UUID   string // --cuuid: names the attach socket, see SocketDir
	Name   string // --name: for the journal
	Bundle string // --bundle; the working directory if not given, except for an exec

	// The runtime and what it does.
	Runtime          string   // --runtime: path of the program
	RuntimeArgs      []string // --runtime-arg: before the command
	RuntimeOpts      []string // --runtime-opt, --restore-arg: after the command
	SystemdCgroup    bool     // --systemd-cgroup
	NoPivot          bool     // --no-pivot
	NoNewKeyring     bool     // --no-new-keyring
	ReplaceListenPID bool     // --replace-listen-pid: LISTEN_PID becomes the runtime's, whatever it was
	Exec             bool     // --exec: a process in a container that runs, instead of a container
	ExecAttach       bool     // --exec-attach: wait until the client has attached
	ExecProcessSpec  string   // --exec-process-spec: path of the process in JSON
	Restore          string   // --restore: path of the checkpoint to start from

	// The caller.
	APIVersion       int    // --api-version: 0 or 1, says how messages to the caller look
	Sync             bool   // --sync: the caller's child supervises, nothing is forked
	MonitorPIDFile   string // --conmon-pidfile
	ContainerPIDFile string // --container-pidfile: the runtime writes it

	// Streams.
	Terminal       bool   // --terminal
	Stdin          bool   // --stdin: the container has a stdin that clients can write to
	LeaveStdinOpen bool   // --leave-stdin-open: a client that leaves does not end it
	SocketDir      string // --socket-dir-path: the link SocketDir/UUID to the bundle is how clients reach the attach socket
	FullAttach     bool   // --full-attach: no such link
	NotifySocket   string // --sdnotify-socket: the host's, to forward to

	// Logs.
	Log              []logs.Target // --log-path
	LogTag           string        // --log-tag
	LogLabels        []string      // --log-label: NAME=VALUE
	LogSizeMax       int64         // --log-size-max: bytes; no limit if below 1
	LogGlobalSizeMax int64         // --log-global-size-max: bytes over the container's life; no limit if below 1
	LogRotate        bool          // --log-rotate: keep what does not fit, instead of truncating
	LogMaxFiles      int           // --log-max-files: how many rotated files to keep
	LogAllowlistDirs []string      // --log-allowlist-dir: the log may be nowhere else, if any are given
	NoSyncLog        bool          // --no-sync-log: no fsync when the container has ended
	NoPartialMessage bool          // --no-container-partial-message: the journal does not say that a line goes on
	SeccompSocket    string        // --seccomp-notify-socket: accepted and not used, see Complete
	SeccompPlugins   string        // --seccomp-notify-plugins: likewise
	Level            Level         // --log-level: of gracemon's own messages
	Syslog           bool          // --syslog: they go there too
	logPaths         []string
	logLevel         string
	version          bool

	// The end.
	Timeout     int      // --timeout: seconds until the container is killed; never if below 1
	ExitDir     string   // --exit-dir: the status goes into ExitDir/ID
	PersistDir  string   // --persist-dir: and into PersistDir/exit
	ExitCommand string   // --exit-command
	ExitArgs    []string // --exit-command-arg
	ExitDelay   int      // --exit-delay: seconds before the exit command

	// Gracemon's own.
	Recover string // --recover: go on for the supervisors that died, of the container with this state directory or of all below it
	Upgrade string // --upgrade: have supervisors become the gracemon that is installed now; likewise
	Keeper  bool   // --keeper: hold on to what a supervisor that dies cannot give to its successor
}

// Level says which of gracemon's own messages are written: those of the level
// and all above it.
type Level uint8

// The levels of --log-level. Errors are what ends gracemon; they are always written.
const (
	Errors Level = iota
	Warnings
	Info
	Debug
	Trace
)

// DefaultSocketDir is where links to attach sockets are without --socket-dir-path.
const DefaultSocketDir = "/var/run/crio"

// option is one line of the table: exactly one of the pointers says what type
// it has and where its value goes.
type option struct {
	name  string
	short byte
	flag  *bool
	text  *string
	list  *[]string
	num   *int
	num64 *int64
	value string // placeholder of its value in --help, "" for a flag
	help  string // "" hides it
}

func (o *option) takesValue() bool { return o.flag == nil }

// table is in the order of --help.
func (o *Options) table(apiVersion *bool) []option {
	return []option{
		{name: "api-version", flag: apiVersion, help: "Speak version 1 of the protocol with the caller"},
		{name: "bundle", value: "DIR", short: 'b', text: &o.Bundle, help: "Directory of the OCI bundle (default: the working directory)"},
		{name: "cid", value: "ID", short: 'c', text: &o.ID, help: "ID of the container"},
		{name: "conmon-pidfile", value: "FILE", short: 'P', text: &o.MonitorPIDFile, help: "Write the process number of the supervisor here"},
		{name: "container-pidfile", value: "FILE", short: 'p', text: &o.ContainerPIDFile, help: "Have the runtime write the container's process number here"},
		{name: "cuuid", value: "UUID", short: 'u', text: &o.UUID, help: "UUID of the container"},
		{name: "exec", short: 'e', flag: &o.Exec, help: "Run a process in a container that runs"},
		{name: "exec-attach", flag: &o.ExecAttach, help: "Start that process when a client has attached"},
		{name: "exec-process-spec", value: "FILE", text: &o.ExecProcessSpec, help: "File that describes that process"},
		{name: "exit-command", value: "PROGRAM", text: &o.ExitCommand, help: "Program to run when the container has ended"},
		{name: "exit-command-arg", value: "ARGUMENT", list: &o.ExitArgs, help: "Argument for that program (repeatable)"},
		{name: "exit-delay", value: "SECONDS", num: &o.ExitDelay, help: "Seconds to wait before that program is run (default: 0)"},
		{name: "exit-dir", value: "DIR", text: &o.ExitDir, help: "Write the exit status into a file in this directory"},
		{name: "leave-stdin-open", flag: &o.LeaveStdinOpen, help: "A client that leaves does not end the container's stdin"},
		{name: "log-level", value: "LEVEL", text: &o.logLevel, help: "Which messages to write: error, warn, info, debug, trace (default: warn)"},
		{name: "log-path", value: "[DRIVER:]PATH", short: 'l', list: &o.logPaths, help: "Log to DRIVER:PATH, PATH (k8s-file) or DRIVER (repeatable); drivers: " + logs.DriverNames()},
		{name: "log-size-max", value: "BYTES", num64: &o.LogSizeMax, help: "Largest size of the log file in bytes (default: no limit)"},
		{name: "log-global-size-max", value: "BYTES", num64: &o.LogGlobalSizeMax, help: "Most bytes to log at all (default: no limit)"},
		{name: "log-tag", value: "TAG", text: &o.LogTag, help: "Tag for the entries in the journal, and the lines of a json-file"},
		{name: "log-label", value: "NAME=VALUE", list: &o.LogLabels, help: "NAME=VALUE for them (repeatable)"},
		{name: "no-container-partial-message", flag: &o.NoPartialMessage, help: "Do not mark entries in journald whose line goes on"},
		{name: "name", value: "NAME", short: 'n', text: &o.Name, help: "Name of the container"},
		{name: "no-new-keyring", flag: &o.NoNewKeyring, help: "Have the runtime make no session keyring"},
		{name: "no-pivot", flag: &o.NoPivot, help: "Have the runtime not use pivot_root"},
		{name: "no-sync-log", flag: &o.NoSyncLog, help: "Do not force the log to disk at the end"},
		{name: "persist-dir", value: "DIR", short: '0', text: &o.PersistDir, help: "Directory for what outlives the container"},
		{name: "pidfile", value: "FILE", text: &o.ContainerPIDFile},
		{name: "replace-listen-pid", flag: &o.ReplaceListenPID, help: "Give the runtime's process number as LISTEN_PID"},
		{name: "restore", value: "PATH", text: &o.Restore, help: "Restore the container from this checkpoint"},
		{name: "restore-arg", value: "OPTION", list: &o.RuntimeOpts},
		{name: "runtime", value: "PATH", short: 'r', text: &o.Runtime, help: "OCI runtime to use"},
		{name: "runtime-arg", value: "ARGUMENT", list: &o.RuntimeArgs, help: "Argument for the runtime, before its command (repeatable)"},
		{name: "runtime-opt", value: "OPTION", list: &o.RuntimeOpts, help: "Option for the runtime's command (repeatable)"},
		{name: "sdnotify-socket", value: "SOCKET", text: &o.NotifySocket, help: "Forward the container's notifications to this socket of systemd"},
		{name: "socket-dir-path", value: "DIR", text: &o.SocketDir, help: "Directory for links to attach sockets (default: /var/run/crio)"},
		{name: "stdin", short: 'i', flag: &o.Stdin, help: "Give the container a stdin"},
		{name: "sync", flag: &o.Sync, help: "Stay a child of the caller"},
		{name: "syslog", flag: &o.Syslog, help: "Write messages to syslog too"},
		{name: "systemd-cgroup", short: 's', flag: &o.SystemdCgroup, help: "Have the runtime make cgroups by systemd"},
		{name: "terminal", short: 't', flag: &o.Terminal, help: "Give the container a terminal"},
		{name: "timeout", value: "SECONDS", short: 'T', num: &o.Timeout, help: "Kill the container after this many seconds (default: never)"},
		{name: "version", flag: &o.version, help: "Show the version"},
		{name: "full-attach", flag: &o.FullAttach, help: "Make no link to the attach socket, --socket-dir-path or not"},
		{name: "log-rotate", flag: &o.LogRotate, help: "Keep a full log file aside instead of starting it anew"},
		{name: "log-max-files", value: "N", num: &o.LogMaxFiles, help: "How many of those to keep (default: 1)"},
		{name: "log-allowlist-dir", value: "DIR", list: &o.LogAllowlistDirs, help: "Directory the log file may be in (repeatable; default: any)"},
		{name: "seccomp-notify-socket", text: &o.SeccompSocket},
		{name: "seccomp-notify-plugins", text: &o.SeccompPlugins},
		{name: "recover", value: "DIR", text: &o.Recover, help: "Go on where supervisors died: state directory of a container, or one above many"},
		{name: "upgrade", value: "DIR", text: &o.Upgrade, help: "Have running supervisors become the program that is installed now: likewise"},
		{name: "keeper", flag: &o.Keeper, help: "Hold the descriptors of a supervisor for its successor (started by gracemon)"},
	}
}
