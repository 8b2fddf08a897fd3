package shim

import (
	"errors"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// become turns this process into the wrapped runtime: the same process, files,
// signals and environment, and an exit status that needs no passing on. argv[0]
// is the runtime's own name, which some go by.
func (c *call) become(argv []string) int {
	program, err := c.program()
	if err != nil {
		return c.fail(err)
	}
	err = syscall.Exec(program, append([]string{program}, argv[1:]...), syscall.Environ())
	return c.fail(errors.New("run " + program + ": " + err.Error()))
}

// spawn starts the wrapped runtime with these arguments and waits for it. It has
// all files that this process has inherited, under the same numbers.
//
// The status is that of the runtime, or 128+N if signal N has killed it.
func (c *call) spawn(args []string) (status int, err error) { return c.spawnWhile(args, nil) }

// spawnWhile is spawn with something to do while the runtime runs, which may take
// as long as that does; nil for nothing.
func (c *call) spawnWhile(args []string, do func()) (status int, err error) {
	pid, err := c.launch(args, []uintptr{0, 1, 2})
	if err != nil {
		return 0, err
	}
	if do != nil {
		do()
	}
	return wait(pid), nil
}

// launch starts the wrapped runtime with these standard files.
func (c *call) launch(args []string, files []uintptr) (pid int, err error) {
	program, err := c.program()
	if err != nil {
		return 0, err
	}
	argv, env := append([]string{program}, args...), syscall.Environ()
	if path, changed := c.forNewPid(env); changed {
		// Only the new process knows the number that must stand in LISTEN_PID.
		program, argv = path, append([]string{path, trampoline, program}, argv...)
	}
	// The kernel ties a parent-death signal to the thread that has started the
	// child. It must not end before this process does: the first one does not.
	// That of a goroutine which is locked to it does not either, but that costs
	// another thread.
	if unix.Gettid() != unix.Getpid() {
		runtime.LockOSThread()
	}
	pid, err = syscall.ForkExec(program, argv, &syscall.ProcAttr{
		Env:   env,
		Files: files,
		// Who kills gracerun means the runtime that it would have killed.
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, errors.New("run " + program + ": " + err.Error())
	}
	// From here on there is little to do but to wait. With one processor to give
	// away the Go runtime soon sees that all are idle, and its own monitor thread
	// sleeps; else it looks after this one every 20 microseconds, in the way of
	// the child. That is half a millisecond of each call.
	runtime.GOMAXPROCS(1)
	return pid, nil
}

// wait gives the exit status of a child.
func wait(pid int) int {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 1
		}
		break
	}
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// trampoline is the first argument of a call that is to become the wrapped
// runtime with LISTEN_PID set to its own number (sd_listen_fds(3)): a runtime
// that finds another number there takes none of the sockets it was given.
const trampoline = "--gracerun-set-listen-pid"

func (c *call) forNewPid(env []string) (self string, needed bool) {
	for _, entry := range env {
		if number, ok := strings.CutPrefix(entry, "LISTEN_PID="); ok {
			return "/proc/self/exe", number == strconv.Itoa(unix.Getpid())
		}
	}
	return "", false
}

// becomeListener is what a trampoline call does: argv is program, then its argv.
func becomeListener(argv []string) int {
	env := syscall.Environ()
	for i, entry := range env {
		if strings.HasPrefix(entry, "LISTEN_PID=") {
			env[i] = "LISTEN_PID=" + strconv.Itoa(unix.Getpid())
		}
	}
	err := syscall.Exec(argv[0], argv[1:], env)
	write(2, []byte("run "+argv[0]+": "+err.Error()+"\n"))
	return 1
}
