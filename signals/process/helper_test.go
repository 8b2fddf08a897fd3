package process

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The tests run the test binary again as the processes they look at; this
// variable says which.
const helperVar = "GRACERUN_PROCESS_TEST_HELPER"

// limit is how long a test waits for what must happen. It is never waited out.
const limit = 60 * time.Second

func init() {
	// In init, the locked thread is the first one of the process, whose number
	// and signal mask the kernel takes for the process's.
	runtime.LockOSThread()
	if name := os.Getenv(helperVar); name != "" {
		os.Unsetenv(helperVar)
		helpers[name]()
		os.Exit(0)
	}
	runtime.UnlockOSThread()
}

var helpers = map[string]func(){
	"parent":   helperParent,
	"renamed":  helperRenamed,
	"handler":  helperHandler,
	"waiter":   helperWaiter,
	"blocker":  helperBlocker,
	"signalfd": helperSignalfd,
}

// helperParent starts a child, says its number, hands it an exit code when told
// to, and reaps it only when told to.
func helperParent() {
	child := exec.Command("sh", "-c", `read -r code; exit "$code"`)
	toChild, err := child.StdinPipe()
	must(err)
	must(child.Start())
	say(strconv.Itoa(child.Process.Pid))
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		switch command := commands.Text(); command {
		case "reap":
			child.Wait()
			say("reaped")
		default:
			io.WriteString(toChild, command+"\n")
		}
	}
}

const evilComm = ") Z 1\n(x) D"

func helperRenamed() {
	must(os.WriteFile("/proc/self/comm", []byte(evilComm), 0))
	say("ready")
	io.Copy(io.Discard, os.Stdin)
}

func helperHandler() {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, unix.SIGTERM)
	say("ready")
	<-heard
	os.Exit(7)
}

// helperWaiter has no handler for TERM but takes it with sigtimedwait, as small
// init programs do.
func helperWaiter() {
	var action struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGTERM), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	mustErrno(errno)
	term := maskOf(unix.SIGTERM)
	must(unix.PthreadSigmask(unix.SIG_BLOCK, &term, nil))
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&term)), 0, 0, 8, 0, 0)
		if errno == 0 && n == uintptr(unix.SIGTERM) {
			os.Exit(7)
		}
	}
}

// helperBlocker becomes a program with one thread that blocks TERM.
func helperBlocker() {
	term := maskOf(unix.SIGTERM)
	must(unix.PthreadSigmask(unix.SIG_BLOCK, &term, nil))
	execve("sleep", "1000")
}

// helperSignalfd becomes a program that blocks TERM and reads it from a
// signalfd: cat, which prints what it reads.
func helperSignalfd() {
	term := maskOf(unix.SIGTERM)
	must(unix.PthreadSigmask(unix.SIG_BLOCK, &term, nil))
	fd, err := unix.Signalfd(-1, &term, 0)
	must(err)
	must(unix.Dup3(fd, 0, 0))
	execve("cat")
}

func execve(name string, args ...string) {
	path, err := exec.LookPath(name)
	must(err)
	must(unix.Exec(path, append([]string{name}, args...), os.Environ()))
}

func maskOf(sig unix.Signal) (set unix.Sigset_t) {
	set.Val[0] = 1 << (sig - 1)
	return set
}

func say(line string) { os.Stdout.WriteString(line + "\n") }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func mustErrno(errno unix.Errno) {
	if errno != 0 {
		panic(errno)
	}
}

// child is a process that a test started, with both ends of its stdio.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

type option func(*exec.Cmd)

// asInit makes the process PID 1 of a pid namespace of its own.
func asInit(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a pid namespace")
	}
}

// start runs a program; if it was not reaped by the test, it is killed and
// reaped when the test ends.
func start(t *testing.T, cmd *exec.Cmd, options ...option) *child {
	t.Helper()
	c := &child{t: t, cmd: cmd}
	for _, o := range options {
		o(cmd)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %v: %v", cmd.Args, err)
	}
	c.in, c.out = in, bufio.NewReader(out)
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return c
}

func startHelper(t *testing.T, name string, options ...option) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVar+"="+name)
	return start(t, cmd, options...)
}

func startSleep(t *testing.T, options ...option) *child {
	t.Helper()
	return start(t, exec.Command("sleep", "1000"), options...)
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) line() string {
	c.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%v ended before it spoke: %v", c.cmd.Args, err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (c *child) tell(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// eventually waits for a state that nothing announces.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func openPidfd(t *testing.T, pid int) Pidfd {
	t.Helper()
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// kernelHas skips the test on kernels older than major.minor, and only there: a
// call that a newer kernel refuses is a failure.
func kernelHas(t *testing.T, major, minor int) {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	release := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	have1, _ := strconv.Atoi(release[0])
	have2, _ := strconv.Atoi(release[1])
	if have1 < major || have1 == major && have2 < minor {
		t.Skipf("needs Linux %d.%d", major, minor)
	}
}
