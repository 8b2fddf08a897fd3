package races

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"gracerun.io/internal/testbed"
	"gracerun.io/timeline"
)

// stranger is a process of somebody else that got init's number.
type stranger struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// reusePid waits until init is reaped, and makes a process that gets its number:
// the kernel is told which number it gave last (ns_last_pid, proc(5)).
func (p *play) reusePid(Step) error {
	if _, err := p.c.Init.Wait(testbed.Patience); err != nil {
		return err
	}
	if _, err := p.status(); err != nil {
		return err
	}
	for range 200 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(p.c.Pid-1)), 0); err != nil {
			return err
		}
		cmd := exec.Command("sleep", "3600")
		if err := cmd.Start(); err != nil {
			return err
		}
		s := &stranger{cmd, make(chan struct{})}
		go func() { _ = cmd.Wait(); close(s.done) }()
		if cmd.Process.Pid == p.c.Pid {
			p.mu.Lock()
			p.stranger = s
			p.mu.Unlock()
			p.c.Note(timeline.Kernel, timeline.Note, "pid %d is given to another process, a sleep", p.c.Pid)
			return nil
		}
		s.end()
	}
	return errors.New("others were always faster: init's number could not be had again")
}

func (s *stranger) end() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

// fate says what became of it so far; the signal is on its way if it was sent.
func (s *stranger) fate() string {
	select {
	case <-s.done:
	case <-time.After(300 * time.Millisecond):
		return "unharmed"
	}
	if status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return fmt.Sprintf("killed by %s", bytes.ToUpper([]byte(status.Signal().String())))
	}
	return "gone"
}
