package recorder

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The kernel's buffer of a recording, in KiB for each processor. It overwrites the
// oldest records when it is full, and cannot grow meanwhile: the kernel records
// nothing while it resizes one, and says nothing of what it missed.
const (
	sizeForAll  = 8 << 10 // of everything that happens on the machine, for some seconds
	sizeForPids = 4 << 10 // and for each process that is recorded alone:
	sizeForEach = 16
)

// mostFilter is how long a filter of events can be (the kernel takes a page).
const mostFilter = 4000

// filterOf selects events by the number in a field. Of too many numbers it takes
// what lies between them as well.
func filterOf(field string, pids []int) string {
	if len(pids) == 0 {
		return ""
	}
	var b strings.Builder
	for i, pid := range pids {
		if i > 0 {
			b.WriteString(" || ")
		}
		fmt.Fprintf(&b, "%s == %d", field, pid)
	}
	if b.Len() > mostFilter {
		return fmt.Sprintf("%s >= %d && %s <= %d", field, slices.Min(pids), field, slices.Max(pids))
	}
	return b.String()
}

// Incomplete is a recording of which the kernel has lost a part: what it does not
// show may have happened all the same.
type Incomplete struct {
	Lost int // records that were overwritten or dropped
}

func (e *Incomplete) Error() string {
	return fmt.Sprintf("the recording is incomplete and no evidence: the kernel has lost %d of its trace records, since its buffer was full", e.Lost)
}

// lost is how many records the kernel has lost, of all processors
// (Documentation/trace/ftrace.rst, "per_cpu").
func (r *Recorder) lost() (lost int, err error) {
	files, err := filepath.Glob(filepath.Join(r.dir, "per_cpu/cpu*/stats"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no per_cpu/cpu*/stats in %s: %w", r.dir, os.ErrNotExist)
	}
	for _, file := range files {
		text, readErr := os.ReadFile(file)
		if readErr != nil {
			return 0, readErr
		}
		lost += lostOf(string(text))
	}
	return lost, err
}

// lostOf reads the statistics of one buffer, a "name: value" a line.
func lostOf(text string) (lost int) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "overrun", "commit overrun", "dropped events":
			lost += number(value)
		}
	}
	return lost
}

// overwritten reads the head of a trace, as in
//
//	# entries-in-buffer/entries-written: 1024/4096   #P:2
func overwritten(line string) int {
	_, counts, found := strings.Cut(line, "entries-in-buffer/entries-written: ")
	if !found {
		return 0
	}
	counts, _, _ = strings.Cut(counts, " ")
	left, written, _ := strings.Cut(counts, "/")
	return max(number(written)-number(left), 0)
}
