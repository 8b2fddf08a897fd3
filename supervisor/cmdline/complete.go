package cmdline

import (
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/logs"
)

// Complete checks that the options make sense together, in conmon's order, and
// fills in what is left to default. It looks at the file system, as conmon
// does: the runtime must be there. warnings are for the log.
//
// The error is an *Exit. The log file is not opened here; conmon does so at the
// end of its checks ("Failed to open log file").
func (o *Options) Complete() (warnings []string, err error) { return o.complete(true) }

// CompleteAgain is Complete for a supervisor that goes on. Its options were right when
// the container was created; the runtime and the working directory may be gone since,
// as when a package was removed, and the container lives.
func (o *Options) CompleteAgain() error {
	_, err := o.complete(false)
	return err
}

func (o *Options) complete(first bool) (warnings []string, err error) {
	if !o.setLevel() {
		return nil, o.failed("No such log level " + o.logLevel)
	}
	switch {
	case o.Restore != "" && o.Exec:
		return nil, o.failed("Cannot use 'exec' and 'restore' at the same time")
	case o.ExecAttach && !o.Exec:
		return nil, o.failed("Attach can only be specified with exec")
	case o.ExecAttach && o.APIVersion < 1:
		return nil, o.failed("Attach can only be specified for a non-legacy exec session")
	case o.UUID == "" && (!o.Exec || o.APIVersion >= 1):
		return nil, o.failed("Container UUID not provided. Use --cuuid")
	case o.Runtime == "":
		return nil, o.failed("Runtime path not provided. Use --runtime")
	}
	if err := unix.Access(o.Runtime, unix.X_OK); err != nil && first {
		return nil, o.failed("Runtime path " + o.Runtime + " is not valid " + Text(err))
	}
	if o.Exec && o.ExecProcessSpec == "" {
		return nil, o.failed("Exec process spec path not provided. Use --exec-process-spec")
	}
	cwd, err := unix.Getwd()
	if err != nil && (first || o.Bundle == "" || o.ContainerPIDFile == "") {
		return nil, o.failed("Failed to get working directory")
	}
	// The bundle of an exec says where its attach socket is to be; without one
	// there is none.
	if o.Bundle == "" && !o.Exec {
		o.Bundle = cwd
	}
	if o.ExitDelay < 0 {
		return nil, o.failed("Delay before invoking exit command must be greater than or equal to 0")
	}
	if o.ContainerPIDFile == "" {
		o.ContainerPIDFile = cwd + "/pidfile-" + o.ID
	}
	if o.logPaths == nil {
		return nil, o.failed("Log driver not provided. Use --log-path")
	}
	var problem string
	if o.Log, problem = logs.ParsePaths(o.logPaths); problem != "" {
		return nil, o.failed(problem)
	}
	logOptions := o.LogOptions()
	if problem = logOptions.Check(); problem != "" {
		return nil, o.failed(problem)
	}
	if o.NoPartialMessage && !logOptions.MarksParts() {
		warnings = append(warnings, "--no-container-partial-message has no effect without journald log driver")
	}
	if o.SeccompSocket != "" {
		warnings = append(warnings, "--seccomp-notify-socket has no effect: conmon 2.2 does not have it any more; "+
			"a runtime that is told to send a seccomp descriptor there will fail")
	}
	return warnings, nil
}

// LogOptions are the options of package logs that the command line asks for, without
// state directory.
func (o *Options) LogOptions() logs.Options {
	return logs.Options{
		Targets: o.Log,

		SizeMax:       o.LogSizeMax,
		GlobalSizeMax: o.LogGlobalSizeMax,
		Rotate:        o.LogRotate,
		MaxFiles:      o.LogMaxFiles,
		AllowDirs:     o.LogAllowlistDirs,

		ID:     o.ID,
		Name:   o.Name,
		Tag:    o.LogTag,
		Labels: o.LogLabels,

		NoPartialMessage: o.NoPartialMessage,
		Dir:              -1,
	}
}

// failed makes of a message what conmon says of it.
func (o *Options) failed(message string) *Exit {
	e := &Exit{Status: 1, Stderr: "[conmon:e]: " + message + "\n"}
	if o.Syslog {
		e.Syslog = "conmon " + o.LogID() + " <error>: " + message
	}
	return e
}

// LogID is how messages in syslog name the container: its ID and the log tag,
// cut to 20 bytes.
func (o *Options) LogID() string {
	id := o.ID
	if o.LogTag != "" {
		id += ": " + o.LogTag
	}
	return id[:min(len(id), 20)]
}

// Text is the text of an error of the kernel as C programs write it, which
// begin it with a capital letter.
func Text(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

func (o *Options) setLevel() (known bool) {
	switch strings.ToLower(o.logLevel) {
	case "error", "fatal", "panic":
		o.Level = Errors
	case "", "warn", "warning":
		o.Level = Warnings
	case "info":
		o.Level = Info
	case "debug":
		o.Level = Debug
	case "trace":
		o.Level = Trace
	default:
		return false
	}
	return true
}
