package process

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

func TestOpenRefuses(t *testing.T) {
	for _, pid := range []int{0, -1, -unix.Getpid()} {
		if _, err := Open(pid); !errors.Is(err, unix.EINVAL) {
			t.Errorf("Open(%d): %v, want EINVAL", pid, err)
		}
	}
	// One above the largest number that pid_max allows.
	if _, err := Open(maxPid + 1); !errors.Is(err, ErrGone) {
		t.Errorf("Open of a free number: %v, want ErrGone", err)
	}
}

// A recorded number may have become that of a thread: the process is gone, too.
func TestOpenOfAThreadsNumber(t *testing.T) {
	tids, done := make(chan int), make(chan struct{})
	defer close(done)
	for range 2 {
		go func() {
			runtime.LockOSThread()
			tids <- unix.Gettid()
			<-done
		}()
	}
	for range 2 { // at most one of them is the process's first thread
		if tid := <-tids; tid != unix.Getpid() {
			if _, err := Open(tid); !errors.Is(err, ErrGone) {
				t.Errorf("Open of a thread's number: %v, want ErrGone", err)
			}
		}
	}
}

func TestSendWaitReap(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*child, Pidfd) error
		want Status
	}{
		{"exit 0", func(c *child, _ Pidfd) error { c.tell("0"); return nil }, Status{Known: true}},
		{"exit 7", func(c *child, _ Pidfd) error { c.tell("7"); return nil }, Status{Known: true, Code: 7}},
		{"exit 255", func(c *child, _ Pidfd) error { c.tell("255"); return nil }, Status{Known: true, Code: 255}},
		{"TERM", func(_ *child, p Pidfd) error { return p.Send(signals.TERM) }, Status{Known: true, Signal: signals.TERM}},
		{"KILL", func(_ *child, p Pidfd) error { return p.Send(signals.KILL) }, Status{Known: true, Signal: signals.KILL}},
		{"RTMIN+3", func(_ *child, p Pidfd) error { return p.Send(signals.RTMIN + 3) }, Status{Known: true, Signal: signals.RTMIN + 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := start(t, exec.Command("sh", "-c", `read -r code; exit "$code"`))
			p := openPidfd(t, c.pid())

			if exited, err := p.Exited(); exited || err != nil {
				t.Fatalf("before: Exited is %v, %v", exited, err)
			}
			if exited, err := p.Wait(time.Millisecond); exited || err != nil {
				t.Fatalf("before: Wait is %v, %v", exited, err)
			}
			if _, err := p.ZombieStatus(c.pid()); !errors.Is(err, ErrRunning) {
				t.Fatalf("before: ZombieStatus says %v, want ErrRunning", err)
			}
			if _, err := p.Reap(); !errors.Is(err, ErrRunning) {
				t.Fatalf("before: Reap says %v, want ErrRunning", err)
			}
			if err := p.Send(signals.Probe); err != nil {
				t.Fatalf("before: the probe says %v", err)
			}

			if err := test.end(c, p); err != nil {
				t.Fatal(err)
			}
			if exited, err := p.Wait(limit); !exited || err != nil {
				t.Fatalf("Wait is %v, %v", exited, err)
			}
			if err := p.Send(signals.KILL); err != nil {
				t.Errorf("a signal to a zombie: %v, want none", err)
			}
			if status, err := p.ZombieStatus(c.pid()); status != test.want || err != nil {
				t.Errorf("ZombieStatus is %+v, %v; want %+v", status, err, test.want)
			}
			if p.AwaitReaped(0) {
				t.Error("AwaitReaped: reaped before it was")
			}
			if status, err := p.Reap(); status != test.want || err != nil {
				t.Errorf("Reap is %+v, %v; want %+v", status, err, test.want)
			}

			if exited, err := p.Exited(); !exited || err != nil {
				t.Errorf("after: Exited is %v, %v", exited, err)
			}
			if !p.AwaitReaped(limit) {
				t.Error("AwaitReaped: not reaped after it was")
			}
			if _, err := p.ZombieStatus(c.pid()); !errors.Is(err, ErrGone) {
				t.Errorf("after: ZombieStatus says %v, want ErrGone", err)
			}
			if _, err := p.Reap(); !errors.Is(err, ErrNotChild) {
				t.Errorf("after: Reap says %v, want ErrNotChild", err)
			}
			if err := p.Send(signals.TERM); !errors.Is(err, ErrGone) {
				t.Errorf("after: Send says %v, want ErrGone", err)
			}
		})
	}
}

func TestWaitForEver(t *testing.T) {
	c := startSleep(t)
	p := openPidfd(t, c.pid())
	done := make(chan error, 1)
	go func() {
		exited, err := p.Wait(-1)
		if err == nil && !exited {
			err = errors.New("Wait came back before the exit")
		}
		done <- err
	}()
	if err := p.Send(signals.KILL); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A signal handler of the waiting program must not shorten or lengthen the wait.
func TestWaitIsInterruptedBySignals(t *testing.T) {
	p := openPidfd(t, os.Getpid())
	tid, stop, stopped := make(chan int), make(chan struct{}), make(chan struct{})
	result := make(chan error, 1)
	const timeout = 50 * time.Millisecond
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		began := time.Now()
		exited, err := p.Wait(timeout)
		if waited := time.Since(began); err == nil && (exited || waited < timeout) {
			err = errors.New("came back after " + waited.String())
		}
		result <- err
	}()
	go func() {
		defer close(stopped)
		for waiter := <-tid; ; {
			select {
			case <-stop:
				return
			default:
				// The Go runtime has a handler for URG, which it uses itself.
				unix.Tgkill(os.Getpid(), waiter, unix.SIGURG)
				runtime.Gosched()
			}
		}
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
	close(stop)
	<-stopped
}

func TestClosedPidfd(t *testing.T) {
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	const closed = Pidfd(1 << 20) // a number that no test opens
	for name, call := range map[string]func() error{
		"Send":     func() error { return closed.Send(signals.Probe) },
		"Exited":   func() error { _, err := closed.Exited(); return err },
		"Reap":     func() error { _, err := closed.Reap(); return err },
		"ExitInfo": func() error { _, err := closed.ExitInfo(); return err },
		"Identity": func() error { _, err := closed.Identity(1); return err },
		"Stat":     func() error { _, err := closed.Stat(1); return err },
		"Close":    func() error { return closed.Close() },
	} {
		if err := call(); !errors.Is(err, unix.EBADF) {
			t.Errorf("%s of a closed pidfd: %v, want EBADF", name, err)
		}
	}
}

func TestExitInfoOfAnothersChild(t *testing.T) {
	kernelHas(t, 6, 15)
	for _, test := range []struct {
		name string
		code string
		sig  signals.Signal
		want Status
	}{
		{name: "exit 0", code: "0", want: Status{Known: true}},
		{name: "exit 7", code: "7", want: Status{Known: true, Code: 7}},
		{name: "TERM", sig: signals.TERM, want: Status{Known: true, Signal: signals.TERM}},
		{name: "KILL", sig: signals.KILL, want: Status{Known: true, Signal: signals.KILL}},
	} {
		t.Run(test.name, func(t *testing.T) {
			parent := startHelper(t, "parent")
			pid, err := strconv.Atoi(parent.line())
			if err != nil {
				t.Fatal(err)
			}
			p := openPidfd(t, pid)
			if _, err := p.ExitInfo(); !errors.Is(err, ErrRunning) {
				t.Errorf("before the exit: %v, want ErrRunning", err)
			}
			if _, err := p.Reap(); !errors.Is(err, ErrNotChild) {
				t.Errorf("Reap of another's child: %v, want ErrNotChild", err)
			}

			if test.sig != 0 {
				err = p.Send(test.sig)
			} else {
				parent.tell(test.code)
			}
			if err != nil {
				t.Fatal(err)
			}
			if exited, err := p.Wait(limit); !exited || err != nil {
				t.Fatalf("Wait is %v, %v", exited, err)
			}
			if _, err := p.ExitInfo(); !errors.Is(err, ErrNotReaped) {
				t.Errorf("before it was reaped: %v, want ErrNotReaped", err)
			}

			parent.tell("reap")
			parent.line()
			if status, err := p.ExitInfo(); status != test.want || err != nil {
				t.Errorf("ExitInfo is %+v, %v; want %+v", status, err, test.want)
			}
			if _, err := Open(pid); !errors.Is(err, ErrGone) {
				t.Errorf("Open after it was reaped: %v, want ErrGone", err)
			}
		})
	}
}

// A core dump depends on the machine's settings, so only the decoding is tested.
func TestStatusOfACoreDump(t *testing.T) {
	want := Status{Known: true, Signal: signals.ABRT, CoreDumped: true}
	if got := waitStatus(unix.WaitStatus(0x80 | 6)); got != want {
		t.Errorf("wait status: %+v, want %+v", got, want)
	}
	if got := (&childInfo{code: cldDumped, status: 6}).exitStatus(); got != want {
		t.Errorf("child info: %+v, want %+v", got, want)
	}
}
