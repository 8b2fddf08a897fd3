//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

// Set is a set of signals, as the masks of /proc show it: signal n is bit n-1.
type Set uint64

// Has reports whether the signal is in the set.
func (s Set) Has(sig signals.Signal) bool { return sig.Valid() && s>>(sig-1)&1 != 0 }

// Dispositions is what a process does with signals: who of it blocks, ignores,
// catches or waits for which.
type Dispositions struct {
	State   State
	NSPids  []int // its numbers, from the reader's pid namespace inwards to its own
	Threads int

	Caught        Set // SigCgt: a handler is installed
	Ignored       Set // SigIgn: set to SIG_IGN
	Blocked       Set // SigBlk: blocked by every thread
	Pending       Set // SigPnd: waits for the first thread
	SharedPending Set // ShdPnd: waits for any thread

	// Awaited: a thread is inside sigtimedwait(2) or sigwait(3) and may take it.
	// The kernel does not show which signals that call is for; they are among
	// these. 0 also if the reader may not trace the process.
	Awaited Set

	// Signalfd: the process reads it from a signalfd(2). 0 also if the reader may
	// not look at the process's descriptors, and not looked for unless a signal
	// is blocked: what is not blocked does not reach a signalfd.
	Signalfd Set
}

// ReadDispositions reads the dispositions of the process that has the number pid.
// A caller that must be sure which process that is holds a pidfd and asks Send
// with signals.Probe afterwards. The error is ErrGone if there is none.
func ReadDispositions(pid int) (Dispositions, error) {
	d, err := readStatus(procPath(pid, "status"))
	if err != nil {
		return Dispositions{}, err
	}
	if d.State.ended() && d.Threads <= 1 {
		return d, nil
	}
	if err := d.readThreads(pid); err != nil {
		return Dispositions{}, err
	}
	if d.Blocked != 0 {
		d.Signalfd = signalfds(pid)
	}
	return d, nil
}

func readStatus(path string) (Dispositions, error) {
	text, err := readFile(path)
	if errors.Is(err, unix.ENOENT) {
		err = &Error{Op: path, Err: ErrGone}
	}
	if err != nil {
		return Dispositions{}, err
	}
	d, err := ParseStatus(text)
	if err != nil {
		return Dispositions{}, &Error{Op: path, Err: err}
	}
	return d, nil
}

// readThreads looks at each thread: a signal for the process goes to any thread
// that does not block it.
func (d *Dispositions) readThreads(pid int) error {
	tasks := procPath(pid, "task")
	names, err := readDir(tasks)
	if errors.Is(err, unix.ENOENT) {
		err = &Error{Op: tasks, Err: ErrGone}
	}
	if err != nil {
		return err
	}
	d.Blocked = ^Set(0)
	for _, name := range names {
		waiting := inSigtimedwait(tasks + "/" + name + "/syscall")
		thread, err := readStatus(tasks + "/" + name + "/status")
		if errors.Is(err, ErrGone) || thread.State.ended() {
			continue // a thread may end while we look
		}
		if err != nil {
			return err
		}
		d.Blocked &= thread.Blocked
		if waiting {
			// While it waits, its mask is shown without what it waits for.
			d.Awaited |= ^thread.Blocked
		}
	}
	return nil
}

func (s State) ended() bool { return s == Zombie || s == Dead }

// inSigtimedwait reads which system call a thread is in; proc_pid_syscall(5).
func inSigtimedwait(path string) bool {
	text, err := readFile(path)
	if err != nil {
		return false
	}
	number, _, _ := bytes.Cut(text, []byte(" "))
	return string(number) == strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT)
}

// signalfds joins the masks of the process's signalfds.
func signalfds(pid int) Set {
	dir := procPath(pid, "fdinfo")
	names, err := readDir(dir)
	if err != nil {
		return 0
	}
	var all Set
	for _, name := range names {
		text, err := readFile(dir + "/" + name)
		if err != nil {
			continue
		}
		if mask, err := setField(text, "sigmask"); err == nil {
			all |= mask
		}
	}
	return all
}

func readDir(path string) ([]string, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, failed(path, err)
	}
	defer unix.Close(fd)
	var names []string
	buf := make([]byte, 4096)
	for {
		n, err := unix.ReadDirent(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, failed(path, err)
		case n == 0:
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// ParseStatus reads the contents of /proc/PID/status or of a thread's. Awaited
// and Signalfd are not in it.
func ParseStatus(text []byte) (Dispositions, error) {
	var d Dispositions
	state, err := statusField(text, "State")
	if err != nil {
		return Dispositions{}, err
	}
	if state == "" {
		return Dispositions{}, badField("State")
	}
	d.State = State(state[0])
	if d.Threads, err = numberField(text, "Threads"); err != nil {
		return Dispositions{}, err
	}
	if d.NSPids, err = numbersField(text, "NSpid"); err != nil {
		return Dispositions{}, err
	}
	for _, mask := range []struct {
		name string
		set  *Set
	}{
		{"SigCgt", &d.Caught}, {"SigIgn", &d.Ignored}, {"SigBlk", &d.Blocked},
		{"SigPnd", &d.Pending}, {"ShdPnd", &d.SharedPending},
	} {
		if *mask.set, err = setField(text, mask.name); err != nil {
			return Dispositions{}, err
		}
	}
	return d, nil
}

func badField(name string) error { return errors.New("field " + name + " is missing or malformed") }

// statusField finds "name:\tvalue" on a line of its own. The kernel escapes
// newlines in the name of the program here, so a line is what it seems.
func statusField(text []byte, name string) (string, error) {
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			return string(bytes.TrimSpace(value)), nil
		}
	}
	return "", badField(name)
}

func numberField(text []byte, name string) (int, error) {
	numbers, err := numbersField(text, name)
	if err != nil || len(numbers) != 1 {
		return 0, badField(name)
	}
	return numbers[0], nil
}

func numbersField(text []byte, name string) ([]int, error) {
	value, err := statusField(text, name)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for word := range bytes.FieldsSeq([]byte(value)) {
		n, err := strconv.Atoi(string(word))
		if err != nil || n < 0 {
			return nil, badField(name)
		}
		numbers = append(numbers, n)
	}
	if numbers == nil {
		return nil, badField(name)
	}
	return numbers, nil
}

func setField(text []byte, name string) (Set, error) {
	value, err := statusField(text, name)
	if err != nil {
		return 0, err
	}
	mask, err := strconv.ParseUint(value, 16, 64)
	if err != nil {
		return 0, badField(name)
	}
	return Set(mask), nil
}
