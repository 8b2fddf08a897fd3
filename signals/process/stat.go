//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// State is the letter by which the kernel shows the state of a process (proc(5)).
type State byte

// The states a supervisor asks for.
const (
	Zombie     State = 'Z' // its first thread has exited; see Pidfd.Exited for all of them
	Dead       State = 'X'
	DiskSleep  State = 'D' // uninterruptible: not even KILL acts before the kernel is done
	Stopped    State = 'T'
	TraceeStop State = 't'
)

// Stat is what /proc/PID/stat says of a process, as far as it matters here.
type Stat struct {
	Pid       int
	Comm      string // at most 15 bytes of anything, chosen by the process
	State     State
	StartTime uint64 // clock ticks (100 a second) since boot, in the reader's time namespace

	// Forked: it has executed no program since it was forked, and runs that of its
	// parent (PF_FORKNOEXEC of linux/sched.h; AFORK of acct(5)).
	Forked bool
}

// Stat reads /proc/PID/stat of the process. pid must be the number the pidfd was
// opened with; the answer is certain to be about that process, else the error
// is ErrGone.
func (p Pidfd) Stat(pid int) (Stat, error) {
	text, readErr := readFile(procPath(pid, "stat"))
	// Asked after the read: as long as the process was not reaped, nobody else
	// had its number. With hidepid= a live process has no file, too.
	if reaped, err := p.reaped(); err != nil {
		return Stat{}, err
	} else if reaped {
		return Stat{}, &Error{Op: procPath(pid, "stat"), Err: ErrGone}
	}
	if readErr != nil {
		return Stat{}, readErr
	}
	stat, err := ParseStat(text)
	if err != nil {
		return Stat{}, &Error{Op: procPath(pid, "stat"), Err: err}
	}
	return stat, nil
}

var errStat = errors.New("not in the format of /proc/PID/stat")

// ParseStat reads the contents of /proc/PID/stat. The second field is the name
// of the program in parentheses, unescaped: it may hold spaces, newlines and
// parentheses itself, so it ends at the last one.
func ParseStat(text []byte) (Stat, error) {
	open, closing := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 1 || closing < open {
		return Stat{}, errStat
	}
	pid, err := strconv.Atoi(string(bytes.TrimSuffix(text[:open], []byte(" "))))
	if err != nil || pid < 0 {
		return Stat{}, errStat
	}
	const first = 3 // of this list, as proc(5) counts
	const state, flags, startTime = 3 - first, 9 - first, 22 - first
	var stateText, flagsText, startText []byte
	n := 0
	for field := range bytes.FieldsSeq(text[closing+1:]) {
		switch n {
		case state:
			stateText = field
		case flags:
			flagsText = field
		case startTime:
			startText = field
		}
		n++
	}
	if n <= startTime || len(stateText) != 1 {
		return Stat{}, errStat
	}
	start, err := strconv.ParseUint(string(startText), 10, 64)
	if err != nil {
		return Stat{}, errStat
	}
	bits, err := strconv.ParseUint(string(flagsText), 10, 32)
	if err != nil {
		return Stat{}, errStat
	}
	const forkNoExec = 0x40
	return Stat{
		Pid: pid, Comm: string(text[open+1 : closing]), State: State(stateText[0]), StartTime: start,
		Forked: bits&forkNoExec != 0,
	}, nil
}

func procPath(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// readFile reads a file of /proc to its end: such a file has no size to be asked.
func readFile(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, failed(path, err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 512)
	for {
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, failed(path, err)
		case n == 0:
			return buf, nil
		}
		buf = buf[:len(buf)+n]
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
	}
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
