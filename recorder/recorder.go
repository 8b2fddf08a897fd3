// Package recorder watches signals and exits from outside, as the kernel sees them:
// every sender, by whatever system call, and the outcome. It works on any stack, and
// does not slow it down as ptrace would.
//
// It uses a tracing instance of its own (Documentation/trace/ftrace.rst,
// "Instances"), which it removes again. It does not touch the tracing of others.
package recorder

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/timeline"
)

// Recorder records from Start to Close: every signal but SIGCHLD and SIGURG.
type Recorder struct {
	tracefs *os.File
	dir     string
}

// Start begins to record what happens to the processes, or to all of the machine
// if none is given. It needs root, and Linux 5.2 with tracefs.
func Start(pids ...int) (*Recorder, error) {
	tracefs, err := openTracefs()
	if err != nil {
		return nil, fmt.Errorf("record signals by tracefs: %w", err)
	}
	dir, err := os.MkdirTemp(fmt.Sprintf("/proc/self/fd/%d/instances", tracefs.Fd()), "gracelab-")
	if err != nil {
		tracefs.Close()
		return nil, fmt.Errorf("record signals by tracefs: %w", err)
	}
	r := &Recorder{tracefs, dir}
	size := sizeForAll
	// What runtimes of languages and shells tell themselves all the time (CHLD,
	// URG) would only fill the buffer.
	sent := "sig != 17 && sig != 23"
	taken := sent
	if len(pids) > 0 {
		size = sizeForPids + sizeForEach*len(pids)
		sent += " && (" + filterOf("pid", pids) + ")"
		taken += " && (" + filterOf("common_pid", pids) + ")"
	}
	ended := filterOf("pid", pids)
	for _, setting := range [][2]string{
		{"trace_clock", "mono"},
		{"buffer_size_kb", strconv.Itoa(size)},
		{"events/signal/signal_generate/filter", sent},
		{"events/signal/signal_deliver/filter", taken},
		{"events/sched/sched_process_exit/filter", cmp.Or(ended, "0")},
		{"events/signal/signal_generate/enable", "1"},
		{"events/signal/signal_deliver/enable", "1"},
		{"events/sched/sched_process_exit/enable", "1"},
	} {
		if err := os.WriteFile(filepath.Join(dir, setting[0]), []byte(setting[1]), 0); err != nil {
			r.Close()
			return nil, fmt.Errorf("record signals by tracefs: %w", err)
		}
	}
	return r, nil
}

// openTracefs opens the file system without mounting it anywhere: not every
// machine has it in its place, and this is not the program to change that.
func openTracefs() (*os.File, error) {
	config, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(config)
	if err := unix.FsconfigCreate(config); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(fd), "tracefs"), nil
}

// Close ends the recording and forgets it.
func (r *Recorder) Close() error {
	return errors.Join(os.Remove(r.dir), r.tracefs.Close())
}

// Result is what became of a signal that was sent (include/trace/events/signal.h).
type Result uint8

// The results.
const (
	Sent           Result = iota // it will be delivered
	Ignored                      // the receiver ignores it: nothing happened
	AlreadyPending               // one of this number was pending: the two became one
	QueueFull                    // no room in the queue: a signal of lower worth was lost
	InfoLost                     // it will be delivered, but what came with it was lost
)

func (r Result) String() string {
	names := [...]string{"sent", "ignored", "already pending", "queue full", "sent, its info lost"}
	if int(r) < len(names) {
		return names[r]
	}
	return "result " + strconv.Itoa(int(r))
}

// Event is a signal sent to a process, taken by it, or its exit.
type Event struct {
	At     time.Duration // CLOCK_MONOTONIC, to the microsecond
	What   What
	Signal signals.Signal // 0 for an exit
	Pid    int            // whose event it is: the receiver's, by its number outside of all pid namespaces
	Comm   string         // its name

	Sender     int    // the process that sent it; the receiver's own for one that the kernel made
	SenderComm string // its name
	Result     Result // what became of it, when it was sent

	Text string // what a program wrote, if it is a Mark
}

// What tells events apart.
type What uint8

// The events.
const (
	Generate What = iota // a signal was sent
	Take                 // the receiver's kernel side took it up: a handler runs, or it dies
	End                  // the thread exited
	Mark                 // the process wrote a line to trace_marker
)

// Events ends the recording and gives what it has of the processes, in order of
// time. It has to end: on a machine where much goes on, whoever reads the trace
// while it grows never comes to its end. If the kernel has lost a part of it, which
// may be of these processes or of others, the error is [*Incomplete].
func (r *Recorder) Events(pids ...int) ([]Event, error) {
	if err := os.WriteFile(filepath.Join(r.dir, "tracing_on"), []byte("0"), 0); err != nil {
		return nil, err
	}
	lost, err := r.lost()
	if err != nil {
		return nil, err
	}
	if lost > 0 {
		return nil, &Incomplete{lost}
	}
	f, err := os.Open(filepath.Join(r.dir, "trace"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f, pids)
}

func read(from io.Reader, pids []int) ([]Event, error) {
	wanted := map[int]bool{}
	for _, pid := range pids {
		wanted[pid] = true
	}
	var events []Event
	var unknown error
	known := 0
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || line == "" {
			if lost := overwritten(line); lost > 0 {
				return nil, &Incomplete{lost}
			}
			continue
		}
		ev, err := Parse(line)
		if err != nil {
			// A process may have a line break in its name; the rest is read all the same.
			unknown = err
			continue
		}
		known++
		if wanted[ev.Pid] {
			events = append(events, ev)
		}
	}
	if unknown != nil && known == 0 {
		return nil, unknown // this kernel writes something else
	}
	return events, lines.Err()
}

// A line is "COMM-PID [CPU] FLAGS SECONDS: EVENT: FIELDS", as in
//
//	crun-8231 [001] d..2. 6250.120384: signal_generate: sig=15 errno=0 code=0 comm=ledger pid=8200 grp=1 res=0
var (
	lineShape     = regexp.MustCompile(`^\s*(.*)-(\d+)\s+\[\d+\]\s+\S+\s+(\d+)\.(\d{6}): (\w+): (.*)$`)
	generateShape = regexp.MustCompile(`^sig=(\d+) errno=-?\d+ code=-?\d+ comm=(.*) pid=(\d+) grp=\d+ res=(\d+)$`)
	deliverShape  = regexp.MustCompile(`^sig=(\d+) `)
)

// Parse reads one line of a trace. A line that a program wrote to trace_marker
// is a [Mark].
func Parse(line string) (Event, error) {
	m := lineShape.FindStringSubmatch(line)
	if m == nil {
		return Event{}, fmt.Errorf("trace line %q is not in the known shape", line)
	}
	pid, seconds, micros := number(m[2]), number(m[3]), number(m[4])
	ev := Event{
		At:  time.Duration(seconds)*time.Second + time.Duration(micros)*time.Microsecond,
		Pid: pid, Comm: m[1],
	}
	switch m[5] {
	case "signal_generate":
		f := generateShape.FindStringSubmatch(m[6])
		if f == nil {
			return Event{}, fmt.Errorf("trace line %q is not in the known shape", line)
		}
		ev.What, ev.Signal, ev.Result = Generate, signals.Signal(number(f[1])), Result(number(f[4]))
		ev.Sender, ev.SenderComm = ev.Pid, ev.Comm
		ev.Pid, ev.Comm = number(f[3]), f[2]
	case "signal_deliver":
		f := deliverShape.FindStringSubmatch(m[6])
		if f == nil {
			return Event{}, fmt.Errorf("trace line %q is not in the known shape", line)
		}
		ev.What, ev.Signal = Take, signals.Signal(number(f[1]))
	case "sched_process_exit":
		ev.What = End
	case "tracing_mark_write":
		ev.What, ev.Text = Mark, m[6]
	default:
		return Event{}, fmt.Errorf("trace line %q is of an event nobody asked for", line)
	}
	return ev, nil
}

// number reads digits that a pattern has found.
func number(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0 // too long for an int: the kernel writes no such number
	}
	return n
}

// Draw adds the events of one process to a timeline. stop is its stop signal.
func Draw(t *timeline.Timeline, events []Event, stop signals.Signal) {
	for _, ev := range events {
		if ev.Comm == "<...>" { // the kernel keeps the names of some processes only
			ev.Comm = "init"
		}
		kind := timeline.Note
		switch ev.Signal {
		case stop:
			kind = timeline.Stop
		case signals.KILL:
			kind = timeline.Kill
		}
		switch ev.What {
		case Generate:
			text := fmt.Sprintf("%s from %s (pid %d)", ev.Signal, ev.SenderComm, ev.Sender)
			if ev.Result != Sent {
				text += ": " + ev.Result.String()
			}
			t.Add(ev.At, timeline.Kernel, kind, text)
		case Take:
			t.Add(ev.At, timeline.Container, kind, fmt.Sprintf("%s takes %s", ev.Comm, ev.Signal))
		case End:
			t.Add(ev.At, timeline.Kernel, timeline.Exit, fmt.Sprintf("%s (pid %d) exits", ev.Comm, ev.Pid))
		}
	}
}
