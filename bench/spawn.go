package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// cost is what a process has cost, with the processes that it waited for.
type cost struct {
	wall, cpu int64 // ns
	peak      int64 // of the largest, KiB
}

// spawner starts programs from a small process: see workload/spawner.go. That is
// replaced before it has grown, since its size is the least that anything seems to
// have needed.
type spawner struct {
	workload string
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      io.ReadCloser
	errors   *os.File // what the programs say
	served   int
}

const servedByOne = 20

func newSpawner(workload, errorFile string) (*spawner, error) {
	errors, err := os.OpenFile(errorFile, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	s := &spawner{workload: workload, errors: errors}
	return s, s.start()
}

func (s *spawner) start() (err error) {
	s.served = 0
	s.cmd = exec.Command(s.workload, "spawn")
	s.cmd.Stderr = s.errors
	s.cmd.Env = []string{"GOMAXPROCS=1"}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	if s.out, err = s.cmd.StdoutPipe(); err != nil {
		return err
	}
	return s.cmd.Start()
}

func (s *spawner) stop() {
	s.in.Close()
	s.cmd.Wait()
}

func (s *spawner) close() {
	s.stop()
	s.errors.Close()
}

// run runs a program to its end. It is an error if it fails.
func (s *spawner) run(env, argv []string) (cost, error) {
	if s.served++; s.served > servedByOne {
		s.stop()
		if err := s.start(); err != nil {
			return cost{}, err
		}
	}
	if err := s.errors.Truncate(0); err != nil {
		return cost{}, err
	}
	words := slices.Concat([]string{strconv.Itoa(len(argv))}, argv, env)
	text := strings.Join(words, "\x00") + "\x00"
	request := binary.LittleEndian.AppendUint32(nil, uint32(len(text)))
	if _, err := s.in.Write(append(request, text...)); err != nil {
		return cost{}, fmt.Errorf("spawner: %w", err)
	}
	var reply [5]int64
	if err := binary.Read(s.out, binary.LittleEndian, &reply); err != nil {
		return cost{}, fmt.Errorf("spawner: %w: %s", err, s.said())
	}
	if status := syscall.WaitStatus(reply[4]); status != 0 {
		return cost{}, fmt.Errorf("%s: status %d: %s", strings.Join(argv, " "), status, s.said())
	}
	return cost{wall: reply[0], cpu: reply[1] + reply[2], peak: reply[3]}, nil
}

func (s *spawner) said() string {
	text, _ := os.ReadFile(s.errors.Name())
	return strings.TrimSpace(string(text))
}
