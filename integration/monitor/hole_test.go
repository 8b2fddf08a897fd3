package monitor

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

// From the execve by which a supervisor wakes up, or is upgraded, to the moment at
// which the new program can catch signals passes a millisecond. What comes in it
// waits, and is heard once: TERM stops the container, INT and QUIT are passed on.
func TestSignalWhileItCannotBeCaught(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		for _, way := range []struct {
			name string
			env  []string
			exec func(c *container)
		}{
			{"upgrade", []string{"GRACEMON_SLEEP=off"}, func(c *container) {
				cmd := exec.Command(c.stack.monitor, "--upgrade", c.state().Path())
				go func() { _ = cmd.Run() }()
			}},
			{"wake", []string{soon}, func(c *container) { c.dial() }},
		} {
			t.Run(way.name, func(t *testing.T) {
				c := s.container(t, `trap 'echo INT' INT; trap 'echo QUIT' QUIT; `+deaf)
				c.env = way.env
				c.annotate("io.gracerun.grace", "700ms")
				c.up()
				for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
					if way.name == "wake" {
						c.asleep()
					}
					var begin time.Time
					atExec(t, c.monitor, func() { way.exec(c) }, func() {
						begin = time.Now()
						c.must(unix.Kill(c.monitor, sig))
					})
					if sig != unix.SIGTERM {
						c.says("stdout F " + signals.Signal(sig).Name())
						continue
					}
					c.expect("exit file", c.exitFile(), "137")
					if took := time.Since(begin); took < 700*time.Millisecond {
						t.Errorf("its grace period of 700ms took %v", took)
					}
				}
				c.gone() // by its number of the beginning
				c.expect("the log", fmt.Sprint(c.lines()), "[stdout F up stdout F INT stdout F QUIT stdout F TERM 1]")
			})
		}
	})
}

// atExec has a process stopped when it has executed its next program, upon what
// provoke does, and calls at before the first instruction of that.
func atExec(t *testing.T, pid int, provoke, at func()) {
	t.Helper()
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	traced := map[int]bool{}
	// PTRACE_O_TRACEEXEC, and PTRACE_O_TRACECLONE: a thread that is made later may be the
	// one that executes.
	const options = 0x10 | 0x8
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
			if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, options, 0, 0); errno != 0 {
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
				if event := status >> 16; event != 0 {
					sig = 0 // not for the process
					if event == unix.PTRACE_EVENT_CLONE {
						if made, err := unix.PtraceGetEventMsg(tid); err == nil {
							traced[int(made)] = true
						}
					}
				}
				_ = unix.PtraceCont(tid, sig)
			}
		}
	}
}

// What a supervisor starts has none of its signals blocked, whichever program of its
// process has started it.
func TestStartedWithoutBlockedSignals(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, `echo $(grep SigBlk /proc/self/status); trap 'exit 5' TERM; while :; do sleep 0.05; done`)
		c.env = []string{soon}
		script := "#!/bin/sh\ngrep SigBlk /proc/self/status > " + c.dir + "/saw.new && mv " + c.dir + "/saw.new " + c.dir + "/saw\n"
		c.must(os.WriteFile(c.dir+"/exit-command", []byte(script), 0o755))
		c.started("--exit-command", c.dir+"/exit-command")
		c.says("stdout F SigBlk: 0000000000000000")
		c.asleep()
		c.must(unix.Kill(c.monitor, unix.SIGTERM))
		c.expect("exit file", c.exitFile(), "5")
		c.gone()
		c.expect("of the exit command", c.exitCommandSaw(), "SigBlk:\t0000000000000000")
	})
}
