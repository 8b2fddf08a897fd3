//go:build linux && (amd64 || arm64)

// Package monitor is the edge of gracemon: it has a runtime create a container
// (or run a process in one), looks after it until it has ended, and tells its
// caller what conmon would have told. What happens to the container goes
// through its lifecycle machine, and what the machine asks for is done here.
//
// It runs in two stages. The foreground, which is what Podman or CRI-O starts,
// checks the command line and waits for leave to begin; then it starts the
// daemon by executing itself, since a Go program cannot fork, and ends. Where a
// manager has started it, it has forked before it was a Go program, and the daemon does
// the foreground's part. The daemon is one thread in one loop.
//
//	monitor.go     the foreground; forked.go how the daemon tells it to end
//	supervisor.go  the daemon: its process, signals, children
//	container.go   one container: what is known of it, and the machine's steps
//	create.go      the runtime's create, exec or restore
//	wrapped.go     the same without gracerun between, where that is the runtime
//	effects.go     what the machine asks for; faults.go goes between
//	exit.go        exit status, exit files, exit command
//	server.go      the control socket
//	oom.go         the kernel's OOM killer
//	recover.go     a dead supervisor's successor, and this one's own
//	number.go      the process number that a successor is to have
//	deposit.go     what the keeper holds for it
//	upgrade.go     another program in this process; sleep.go: one that only waits
//	open.go        what one that sleeps has open of its state directory
//	parent.go      what the caller is told; notes.go what is logged
//
// One process can supervise several containers: everything of one hangs on its
// Container.
//
// Source of truth for order, formats and messages: containers/conmon, 2.2.1.
package monitor

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/keeper"
	"gracerun.io/supervisor/logs"
	"gracerun.io/supervisor/ownsignal"
	"gracerun.io/supervisor/program"
	"gracerun.io/supervisor/slumber"
)

// The environment says to the daemon that it is one. It is not passed on.
const (
	stageVariable = "_GRACEMON_STAGE"
	daemonStage   = "daemon"
	listenStage   = "listen"    // see listenPID
	commandStage  = "command"   // see becomeCommand
	recoverStage  = "successor" // see succeed
)

// Main is the program: it gives the exit status of the process.
func Main() int {
	args, err := arguments()
	if err != nil {
		write(2, "gracemon: read /proc/self/cmdline: "+cmdline.Text(err)+"\n")
		return 1
	}
	switch stage, _ := syscall.Getenv(stageVariable); stage {
	case listenStage:
		return execListening(args)
	case commandStage:
		return becomeCommand(args)
	case daemonStage:
		return supervise(args)
	case recoverStage:
		return succeed(args)
	}
	f := ofForeground()
	status := foreground(args, &f)
	_ = f.tell(status)
	return status
}

// arguments reads the command line from /proc: package os, which would have it,
// costs memory that stays for the life of each container.
func arguments() ([]string, error) {
	text, err := readFile("/proc/self/cmdline")
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"), nil
}

// foreground does what the caller waits for, in conmon's order: check
// everything, wait for the start pipe, start the daemon, write its number. With f it is
// the daemon already, and the start pipe was read.
func foreground(args []string, f *forked) int {
	unix.Umask(0o022)
	o, notes, code := readOptions(args)
	switch {
	case o == nil:
		return code
	case o.Keeper:
		return keeper.Main(program.Path(args[0]), func(text string) { syslog(infoPriority, text) })
	case o.Recover != "":
		return startSuccessors(o.Recover)
	case o.Upgrade != "":
		return upgradeAll(o.Upgrade)
	}
	// The log file is made now: the caller hears if it cannot be.
	if err := logs.Check(o.LogOptions()); err != nil {
		return notes.fail(err.Error())
	}

	start, err := pipeFromEnv("_OCI_STARTPIPE")
	if err != nil {
		return notes.fail(err.Error())
	}
	if start > 0 {
		// The caller puts this process into a cgroup before it writes here.
		if *f < 0 {
			if _, err := readOnce(start); err != nil {
				return notes.failErr("start-pipe read failed", err)
			}
		}
		if !o.ExecAttach {
			unix.Close(start)
		}
	}
	if o.Sync && o.Exec {
		return supervise(args) // not for long: how it uses memory does not matter
	}
	if o.Sync {
		err := ownsignal.Held(func() error { return syscall.Exec(selfPath, args, daemonEnvironment()) }, caughtSignals[:]...)
		return notes.failErr("Failed to execute "+selfPath, err)
	}
	// All descriptors that the caller has left open stay so.
	pid := unix.Getpid()
	if *f < 0 {
		if pid, err = startHeld(args, &syscall.ProcAttr{Env: daemonEnvironment(), Files: []uintptr{0, 1, 2}}); err != nil {
			return notes.failErr("Failed to fork the create command", err)
		}
	}
	if o.MonitorPIDFile != "" {
		if err := writeAtomically(o.MonitorPIDFile, strconv.Itoa(pid)); err != nil {
			return notes.failErr("Failed to write conmon pidfile: "+err.Error(), err)
		}
	}
	if *f < 0 {
		return 0
	}
	if f.tell(0) != nil {
		return 1
	}
	return supervise(args)
}

// readOptions reads the command line. Without options the program is to end.
func readOptions(args []string) (o *cmdline.Options, n *notes, code int) {
	o, err := cmdline.Parse(args[1:])
	if err == nil {
		if o.Recover != "" || o.Upgrade != "" || o.Keeper {
			return o, nil, 0
		}
		var warnings []string
		if warnings, err = o.Complete(); err == nil {
			n = newNotes(o)
			for _, w := range warnings {
				n.warn(w)
			}
			return o, n, 0
		}
	}
	exit := err.(*cmdline.Exit)
	write(1, exit.Stdout)
	write(2, exit.Stderr)
	if exit.Syslog != "" {
		syslog(errorPriority, exit.Syslog)
	}
	return nil, nil, exit.Status
}

const selfPath = "/proc/self/exe"

// startHeld starts this program as a supervisor: signals wait until it can catch them.
func startHeld(args []string, attr *syscall.ProcAttr) (pid int, err error) {
	err = ownsignal.Held(func() (err error) {
		pid, err = syscall.ForkExec(selfPath, args, attr)
		return err
	}, caughtSignals[:]...)
	return pid, err
}

// tuning is what the Go runtime of the daemon is told, which stays as long as its
// container: there is one thread that is ever busy, and more processors would
// each have their own caches.
//
// GODEBUG=sbrk=1 would save 200 KiB more and must not come back: since Go 1.24
// the runtime's mutexes name a waiting thread by its aligned address
// (runtime/lock_spinbit.go), and that allocator does not align. About one
// process in a thousand died of it, or hung, before it had said a word.
var tuning = [...]string{"GOMAXPROCS=1"}

// savedPrefix keeps what the caller had set for whom the daemon starts.
const savedPrefix = "_GRACEMON_"

// daemonEnvironment is the caller's, with what the daemon is told.
func daemonEnvironment() []string { return tuned(syscall.Environ(), daemonStage) }

func tuned(env []string, stage string) []string {
	env = append(without(env, stageVariable), stageVariable+"="+stage)
	for _, setting := range tuning {
		name, _, _ := strings.Cut(setting, "=")
		for _, entry := range env {
			if key, _, _ := strings.Cut(entry, "="); key == name {
				env = append(without(env, name), savedPrefix+entry)
				break
			}
		}
		env = append(env, setting)
	}
	return env
}

// childEnvironment is what the daemon's children get: the caller's.
func childEnvironment() []string {
	env := syscall.Environ()
	stage, _ := syscall.Getenv(stageVariable)
	if _, forked := syscall.Getenv(slumber.ForkedVariable); !forked && stage != daemonStage && stage != recoverStage {
		return env
	}
	kept := env[:0] // a copy already
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		switch own, saved := strings.CutPrefix(entry, savedPrefix); {
		case name == stageVariable || name == slumber.ForkedVariable || isTuned(name):
		case saved && isTuned(name[len(savedPrefix):]):
			kept = append(kept, own)
		default:
			kept = append(kept, entry)
		}
	}
	return kept
}

func isTuned(name string) bool {
	for _, setting := range tuning {
		if tuned, _, _ := strings.Cut(setting, "="); tuned == name {
			return true
		}
	}
	return false
}

func without(env []string, name string) []string {
	kept := env[:0:0]
	for _, entry := range env {
		if key, _, _ := strings.Cut(entry, "="); key != name {
			kept = append(kept, entry)
		}
	}
	return kept
}
