package crash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/history"
)

// check looks whether everything is there that was promised.
func (r *round) check() {
	ended := r.endedAt()
	n := r.counts()
	r.readJournal()

	// The exit status, where everybody looks for it.
	want, said := strconv.Itoa(r.plan.code), fmt.Sprintf("code=%d", r.plan.code)
	if r.deaf {
		want, said = "137", "signal=9"
	}
	text, _ := os.ReadFile(r.exit())
	persisted, _ := os.ReadFile(r.dir + "/persist/exit")
	switch {
	case r.gap && string(text) == "-1":
		r.checkReason()
	case string(text) != want || string(persisted) != want:
		r.fail("the exit file says %q, the other %q, want %s", text, persisted, want)
	case r.answer != said:
		r.fail("gracerun stop says %q, want %q", r.answer, said)
	}

	// The output.
	r.checkLines("stdout", n.Lines[0])
	r.checkLines("stderr", n.Lines[1])

	// The stop signal, and what comes after the grace.
	switch {
	case n.Terms == 2 && r.killed > 0: // at random; at a boundary there is evidence
		r.doubled = true
	case n.Terms != 1:
		r.fail("the stop signal was heard %d times", n.Terms)
	}
	if r.deaf {
		if r.deadline == 0 {
			r.fail("the journal knows of no deadline")
		} else if early := r.deadline - ended; early > time.Millisecond {
			r.fail("it was killed %s before its deadline", early)
		} else if early < -5*time.Second {
			r.fail("it was killed %s after its deadline", -early)
		}
	}

	// The exit command.
	if n := r.commands(); n != 1 {
		r.fail("the exit command was run %d times", n)
	}
}

func (r *round) endedAt() time.Duration {
	select {
	case at := <-r.ended:
		return at
	case <-time.After(limit):
		r.fail("init does not end")
		return 0
	}
}

// checkReason: what is unknown is said to be, and why.
func (r *round) checkReason() {
	dir, err := statedir.OpenPath(r.stateDir())
	if err != nil {
		r.fail("%v", err)
		return
	}
	defer dir.Close()
	record, err := dir.ReadRecord()
	if err != nil || record.Exit.Status != "unknown" || !strings.Contains(record.Exit.Reason, "supervisor had died") {
		r.fail("the exit is unknown, and the record says %+v, %v", record, err)
	}
}

// checkLines reads a stream from the log: every line that was written, once, in
// order, whole.
func (r *round) checkLines(stream string, written uint64) {
	text, err := r.readLog()
	if err != nil {
		r.fail("%v", err)
		return
	}
	var content strings.Builder
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) != 4 {
			r.fail("the log has a line that is none: %.80q", line)
			return
		}
		if fields[1] != stream {
			continue
		}
		whole := fields[3]
		if fields[2] == "P" {
			whole = strings.TrimSuffix(whole, "\n")
		}
		content.WriteString(whole)
	}
	next := uint64(1)
	for line := range strings.Lines(content.String()) {
		if line == lineOf(next) {
			next++
			continue
		}
		// The last one may have been cut off by SIGKILL, or by the end of the pipe
		// where nobody kept that, and be ended by the log.
		if (r.deaf && next > written || r.gap) && strings.HasPrefix(lineOf(next), strings.TrimSuffix(line, "\n")) {
			break
		}
		r.fail("%s: line %d of %d is %.60q", stream, next, written, line)
		return
	}
	if next-1 < written && !r.gap {
		r.fail("%s: %d lines were written, %d are in the log", stream, written, next-1)
	}
}

// readLog reads the log, from its first file on where it was rotated.
func (r *round) readLog() (text []byte, err error) {
	files := []string{r.log()}
	for exists(r.log() + "." + strconv.Itoa(len(files))) {
		files = append(files, r.log()+"."+strconv.Itoa(len(files)))
	}
	slices.Reverse(files)
	for _, name := range files {
		part, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		text = append(text, part...)
	}
	return text, nil
}

// lineOf is what the writer writes.
func lineOf(n uint64) string {
	var b strings.Builder
	b.WriteString(strconv.FormatUint(n, 10))
	b.WriteByte(' ')
	for i := uint64(0); i < 20+n*7919%97; i++ {
		b.WriteByte('a' + byte(i%26))
	}
	if n%61 == 0 {
		b.WriteString(strings.Repeat("x", 9000))
	}
	b.WriteByte('\n')
	return b.String()
}

// readJournal finds the deadline of the stop, and keeps the text for a report.
func (r *round) readJournal() {
	j, err := history.ReadDir(r.stateDir())
	if errors.Is(err, fs.ErrNotExist) && r.deleted {
		return
	}
	if err != nil {
		r.fail("%v", err)
		return
	}
	for _, record := range j.Records {
		at := time.Duration(record.At)
		r.journal += fmt.Sprintf("    %s  %s | %s | %s\n", at, record.Event, record.State, strings.Join(record.Effects, "; "))
		if record.Event == "delivered stop SIGTERM ok" {
			r.deadline = at + r.plan.grace
		}
	}
}

// checkAborted: of a create that was cut off nothing is left, and its exit command
// was run, as after a create that failed.
func (r *round) checkAborted() {
	if !strings.HasPrefix(r.faults, "runtime.create") && !strings.HasPrefix(r.faults, "write.journal") {
		r.fail("the create was cut off by %q", r.faults)
	}
	if err := until("the exit command of a create that was cut off was run", func() bool { return r.commands() > 0 }); err != nil {
		r.fail("%v", err)
	}
	if err := until("its state directory is removed", func() bool { return !exists(r.stateDir()) }); err != nil {
		r.fail("%v", err)
	}
	if exists(r.exit()) {
		r.fail("there is an exit file of a container that never was")
	}
	if n := r.commands(); n != 1 {
		r.fail("the exit command was run %d times", n)
	}
	if out, err := r.gracerun("state", r.id); err == nil {
		r.fail("the runtime still knows it: %s", out)
	}
}
