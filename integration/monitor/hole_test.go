package monitor

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

// From the execve by which a supervisor wakes up, or is upgraded, to the moment at
// which the new program can catch signals passes a millisecond, in which a TERM
// ends it. The container has its TERM all the same, once, and its grace.
func TestTermWhileItCannotBeCaught(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		if _, err := process.Pidfd(selfPidfd(t)).ExitInfo(); err != nil {
			var watch *process.KillWatch
			if watch, err = process.WatchKills(signals.TERM); err != nil {
				t.Skip("nobody tells here how a supervisor has ended: ", err)
			}
			watch.Close()
		}
		for _, way := range []struct {
			name string
			env  []string
			exec func(c *container)
		}{
			{"upgrade", []string{"GRACEMON_SLEEP=off"}, func(c *container) {
				cmd := exec.Command(c.stack.monitor, "--upgrade", c.state().Path())
				go func() { _ = cmd.Run() }() // it fails when its supervisor dies
			}},
			{"wake", []string{soon}, func(c *container) { c.dial() }},
		} {
			t.Run(way.name, func(t *testing.T) {
				c := s.container(t, deaf)
				c.env = way.env
				c.annotate("io.gracerun.grace", "700ms")
				c.up()
				if way.name == "wake" {
					c.asleep()
				}
				dead := c.monitor
				var begin time.Time
				atExec(t, dead, func() { way.exec(c) }, func() {
					begin = time.Now()
					c.must(unix.Kill(dead, unix.SIGTERM))
				})
				c.until("there is a successor", func() bool {
					text, _ := os.ReadFile(c.dir + "/conmon-pidfile")
					c.monitor, _ = strconv.Atoi(string(text))
					return c.monitor != dead && c.monitor != 0
				})
				c.expect("exit file", c.exitFile(), "137")
				if took := time.Since(begin); took < 700*time.Millisecond {
					t.Errorf("its grace period of 700ms took %v", took)
				}
				c.gone()
				c.expect("the log", fmt.Sprint(c.lines()), "[stdout F up stdout F TERM 1]")
			})
		}
	})
}

func selfPidfd(t *testing.T) int {
	t.Helper()
	p, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Skip("no pidfds: ", err)
	}
	t.Cleanup(func() { unix.Close(p) })
	return p
}

// atExec has a process stopped when it has executed its next program, upon what
// provoke does, and calls at before the first instruction of that.
func atExec(t *testing.T, pid int, provoke, at func()) {
	t.Helper()
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	traced := map[int]bool{}
	const optionExec = 0x10 // PTRACE_O_TRACEEXEC
	for grown := true; grown; {
		grown = false
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			if traced[tid] {
				continue
			}
			if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, optionExec, 0, 0); errno != 0 {
				t.Skipf("ptrace is not allowed: %v", errno)
			}
			traced[tid], grown = true, true
		}
	}
	provoke()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatal("it executes nothing")
		}
		for tid := range traced {
			var status unix.WaitStatus
			if n, err := unix.Wait4(tid, &status, unix.WNOHANG|unix.WALL, nil); n != tid || err != nil {
				continue
			}
			switch {
			case status.Exited() || status.Signaled():
				delete(traced, tid) // the thread that has executed it has the number of the process now
			case tid == pid && int(status)>>8 == int(unix.SIGTRAP)|unix.PTRACE_EVENT_EXEC<<8:
				at()
				if err := unix.PtraceDetach(pid); err != nil {
					t.Fatal(err)
				}
				return
			default:
				sig := int(status.StopSignal())
				if status>>16 != 0 {
					sig = 0 // not for the process
				}
				_ = unix.PtraceCont(tid, sig)
			}
		}
	}
}
