package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A node that is full: what its monitors do while their containers do nothing, and what
// the one process of ours holds that is there for all of them.

const (
	fullSection = "A full node"
	fullIdle    = 3 * time.Second
)

func fullWork(n int) string { return fmt.Sprintf("%d containers, idle for %s", n, fullIdle) }

// addFull measures a stack whose containers all run.
func (l *lab) addFull(s stack, all []*container) error {
	time.Sleep(time.Second) // what they do after a start, they have done
	pids := make([]int, 0, len(all)+1)
	for _, c := range all {
		pids = append(pids, c.monitorPid)
	}
	keeper := l.keeper()
	if s.monitor.ours && keeper != 0 {
		pids = append(pids, keeper)
	}
	before, err := cpuOfAll(pids)
	if err != nil {
		return err
	}
	time.Sleep(fullIdle)
	after, err := cpuOfAll(pids)
	if err != nil {
		return err
	}
	var pss, open float64
	for _, pid := range pids {
		one, fds, err := held(pid)
		if err != nil {
			return err
		}
		pss, open = pss+one, open+fds
	}
	work := fullWork(len(all))
	l.report.add(fullSection, work, s.name, CPU, milliseconds(after-before))
	l.report.add(fullSection, work, s.name, PSS, pss)
	l.report.add(fullSection, work, s.name, Descriptors, open)
	if !s.monitor.ours || keeper == 0 {
		return nil
	}
	one, fds, err := held(keeper)
	if err != nil {
		return err
	}
	work = fmt.Sprintf("the keeper of %d containers", len(all))
	l.report.add(fullSection, work, "gracemon --keeper", PSS, one)
	l.report.add(fullSection, work, "gracemon --keeper", Descriptors, fds)
	return nil
}

func cpuOfAll(pids []int) (sum int64, err error) {
	for _, pid := range pids {
		used, cpuErr := cpuOf(pid)
		sum, err = sum+used, errors.Join(err, cpuErr)
	}
	return sum, err
}

// held gives the PSS of a process in KiB, and how many descriptors it has.
func held(pid int) (pss, descriptors float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, err
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return kibibytes(string(text), "Pss:"), float64(len(fds)), err
}

// keeper gives the process that keeps descriptors for the supervisors of this run, 0 if
// there is none.
func (l *lab) keeper() int {
	mine := "GRACERUN_STATE_DIR=" + filepath.Join(l.tmp, "state")
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		text, _ := os.ReadFile(file)
		if !strings.HasSuffix(string(text), "\x00--keeper\x00") {
			continue
		}
		env, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "environ"))
		for variable := range strings.SplitSeq(string(env), "\x00") {
			if variable == mine {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
				return pid
			}
		}
	}
	return 0
}
