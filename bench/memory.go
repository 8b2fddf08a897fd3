package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const memorySection = "An idle monitor"

// memory measures what each monitor holds while its container does nothing, and
// how that changes when there are many, who share what can be shared.
func (l *lab) memory() error {
	counts := []int{1, 30, 100}
	if l.Quick {
		counts = []int{1, 5}
	}
	runtime := l.underneath()
	for _, m := range append(l.monitors(), present(l.asleep)...) {
		l.progress("memory of up to %d × %s", counts[len(counts)-1], m)
		var all []*container
		for _, n := range counts {
			for len(all) < n {
				c, err := l.running(m, runtime, nil, "serve")
				if err != nil {
					l.note("memory of %d × %s: %v", n, m, err)
					break
				}
				all = append(all, c)
			}
			if len(all) < n || l.ctx.Err() != nil {
				break
			}
			time.Sleep(time.Second) // what they do after a start, they have done
			for _, c := range all {
				if err := l.addMemory(fmt.Sprintf("one of %d", n), m, c.monitorPid); err != nil {
					return err
				}
			}
		}
		for _, c := range all {
			c.end()
		}
	}
	return nil
}

func (l *lab) addMemory(work string, m *Program, pid int) error {
	rollup := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	text, err := os.ReadFile(rollup)
	if err != nil {
		return err
	}
	l.report.add(memorySection, work, m.Name, PSS, kibibytes(string(text), "Pss:"))
	l.report.add(memorySection, work, m.Name, USS, kibibytes(string(text), "Private_Clean:")+kibibytes(string(text), "Private_Dirty:"))
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	l.report.add(memorySection, work, m.Name, Threads, float64(len(tasks)))
	return nil
}

func kibibytes(text, key string) float64 {
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(line, key); found {
			n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return n
		}
	}
	return 0
}
