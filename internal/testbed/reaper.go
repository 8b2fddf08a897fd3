package testbed

import (
	"os"
	"os/exec"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

// reaperVariable of the environment says that somebody reaps at once.
const reaperVariable = "GRACERUN_TEST_REAPER"

// UnderReaper runs a test binary as the child of a process that reaps at once whatever
// becomes an orphan in it, as the init of a host does; the one of a virtual machine or a
// container may take a second, or may not do it at all. main is called in the child.
// What it gives is the exit status of the binary.
func UnderReaper(main func() int) int {
	if os.Getenv(reaperVariable) != "" {
		return main()
	}
	if unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != nil {
		return main()
	}
	self, err := os.Executable()
	if err != nil {
		return main()
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), reaperVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	ends := make(chan os.Signal, 8)
	signal.Notify(ends, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT)
	runtime.LockOSThread() // the death signal is that of the thread
	if err := cmd.Start(); err != nil {
		return main()
	}
	go func() {
		for sig := range ends {
			_ = unix.Kill(cmd.Process.Pid, sig.(unix.Signal))
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 1
		case pid != cmd.Process.Pid:
		case status.Exited():
			return status.ExitStatus()
		default:
			return 128 + int(status.Signal())
		}
	}
}
