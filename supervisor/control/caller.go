package control

import (
	"bytes"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
)

// CallerOf tells who the process with that number is; nil if that cannot be told,
// as of one in another pid namespace, whose number is 0 here.
//
// It is for telling managers apart, not for keeping anybody out: who may ask a
// supervisor may also kill its container.
func CallerOf(pid int) *lifecycle.Caller {
	start, ok := startOf(pid)
	if !ok {
		return nil
	}
	path := "/proc/" + strconv.Itoa(pid)
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return nil
	}
	var program [unix.PathMax]byte
	n, err := unix.Readlink(path+"/exe", program[:])
	if err != nil {
		n = 0 // a kernel thread, or not for us to know
	}
	cgroups, _ := readProc(path + "/cgroup")
	name := strings.TrimSuffix(string(program[:n]), " (deleted)") // a program that was upgraded is the same
	return lifecycle.NewCaller(name, pid, start, st.Uid, unitOf(cgroups))
}

// CallerOf is the function CallerOf, and knows the last caller: who asks over and over
// leaves no garbage.
func (p *Parser) CallerOf(pid int) *lifecycle.Caller {
	if start, ok := startOf(pid); p.last == nil || !ok || p.last.Pid != pid || p.last.Start != start {
		p.last = CallerOf(pid)
	}
	return p.last
}

// startOf reads when a process was started, in clock ticks since boot: field 22 of
// /proc/PID/stat, of which the second ends at the last parenthesis (proc_pid_stat(5)).
func startOf(pid int) (ticks uint64, ok bool) {
	if pid <= 0 {
		return 0, false
	}
	var room [1024]byte
	path := strconv.AppendInt(append(room[:0], "/proc/"...), int64(pid), 10)
	path = append(path, "/stat\x00"...)
	fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(atCwd), uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return 0, false
	}
	n, err := unix.Read(int(fd), room[:])
	unix.Close(int(fd))
	if err != nil {
		return 0, false
	}
	text := room[:max(n, 0)]
	text = text[bytes.LastIndexByte(text, ')')+1:]
	for field := 3; field < 22; field++ {
		space := bytes.IndexByte(text[min(1, len(text)):], ' ') // one stands before each
		if space < 0 {
			return 0, false
		}
		text = text[space+1:]
	}
	for _, c := range text[min(1, len(text)):] {
		if c < '0' || c > '9' {
			return ticks, c == ' '
		}
		ticks = ticks*10 + uint64(c-'0')
	}
	return 0, false
}

var atCwd = unix.AT_FDCWD

// readProc reads a small file of /proc.
func readProc(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var buf [4096]byte
	n, err := unix.Read(fd, buf[:])
	return string(buf[:max(n, 0)]), err
}

// unitOf gives the innermost service or scope of systemd in the contents of
// /proc/PID/cgroup (cgroups(7)): of the second version's hierarchy, or systemd's own.
func unitOf(cgroups string) string {
	unit := ""
	for line := range strings.Lines(cgroups) {
		hierarchy, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		if hierarchy != "0" && controllers != "name=systemd" {
			continue
		}
		for name := range strings.SplitSeq(path, "/") {
			if strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope") {
				unit = name
			}
		}
		if unit != "" {
			break
		}
	}
	return unit
}
