package cgroup

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
)

// ErrNoCgroup: the container has no cgroup of its own, so that nobody can say
// which processes are its.
var ErrNoCgroup = errors.New("the container has no cgroup of its own")

// Pids gives the processes in the cgroup and those below it. The numbers are those
// of this moment: see Signal for how to make use of them.
func (c Cgroup) Pids() ([]int, error) {
	if c.Dir == "" {
		return nil, ErrNoCgroup
	}
	return c.pids(nil)
}

func (c Cgroup) pids(pids []int) ([]int, error) {
	text, err := c.read("cgroup.procs")
	if err != nil {
		return nil, err
	}
	for line := range strings.FieldsSeq(text) {
		// 0 is a process that has no number in this pid namespace.
		if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	below, err := subdirectories(c.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range below {
		if pids, err = (Cgroup{c.Dir + "/" + name, c.V1}).pids(pids); err != nil {
			return nil, err
		}
	}
	return pids, nil
}

// rounds bounds how often Signal looks for processes that were born meanwhile.
const rounds = 64

// Signal sends a signal to every process of the cgroup but the one with number
// except (0: to every one), once. Processes that are born while it goes on get it
// too. Each is signalled by pidfd, after a look that it still is in the cgroup:
// a number that was reused is not hit. It reports how many got it, and the first
// error.
func (c Cgroup) Signal(sig signals.Signal, except int) (sent int, err error) {
	tried := map[int]bool{except: true}
	for range rounds {
		pids, e := c.Pids()
		if e != nil {
			return sent, e
		}
		fresh := 0
		for _, pid := range pids {
			if tried[pid] {
				continue
			}
			hit, e := c.signalOne(pid, sig)
			tried[pid] = hit || e != nil // else it is gone, and the number free for another
			if hit {
				fresh++
			}
			if e != nil && err == nil {
				err = e // the others get it all the same
			}
		}
		if fresh == 0 {
			break
		}
		sent += fresh
	}
	return sent, err
}

func (c Cgroup) signalOne(pid int, sig signals.Signal) (bool, error) {
	p, err := process.Open(pid)
	if errors.Is(err, process.ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer p.Close()
	// What is said of the number now is said of the process behind the pidfd if
	// that still has it, which Send finds out.
	if !c.holds(pid) {
		return false, nil
	}
	err = p.Send(sig)
	if errors.Is(err, process.ErrGone) {
		return false, nil
	}
	return err == nil, err
}

// holds reports whether the process is in the cgroup or below it, now.
func (c Cgroup) holds(pid int) bool {
	text, err := readFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return false
	}
	dir := c.below()
	for line := range bytes.Lines(text) {
		// "4:freezer:/path", "0::/path"
		number, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		ours := number == "0"
		if c.V1 {
			ours = hasController(controllers, "freezer")
		}
		if ours {
			return path == dir || strings.HasPrefix(path, dir+"/")
		}
	}
	return false
}

func hasController(list, name string) bool {
	for controller := range strings.SplitSeq(list, ",") {
		if controller == name {
			return true
		}
	}
	return false
}

// below gives the path from the root of the hierarchy.
func (c Cgroup) below() string {
	dir := strings.TrimPrefix(c.Dir, Mount)
	if c.V1 {
		return strings.TrimPrefix(dir, "/freezer")
	}
	return strings.TrimPrefix(dir, "/unified")
}

// Of gives the cgroup that a process is in. Whether it is the container's own,
// or one that it shares with whoever made it, is for the caller to know.
func Of(pid int) (Cgroup, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/cgroup"
	text, err := readFile(path)
	if err != nil {
		return Cgroup{}, &Error{"read", path, err}
	}
	unified := Unified()
	for line := range bytes.Lines(text) {
		number, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
		controllers, dir, _ := strings.Cut(rest, ":")
		if unified && number == "0" || !unified && hasController(controllers, "freezer") {
			return At(dir), nil
		}
	}
	return Cgroup{}, nil
}

// Empty reports whether no process is left in the cgroup and below it. Nobody
// is left in one that is gone.
func (c Cgroup) Empty() (bool, error) {
	census := c.OpenCensus()
	defer census.Close()
	if census.Empty() {
		return true, nil
	}
	pids, err := c.Pids()
	return len(pids) == 0, err
}

// Census is the file of a cgroup that tells whether anybody is in it or below it
// (cgroups(7), "populated"), kept open by who will ask when time matters. The
// zero value stands for none: version 1 has no such file.
type Census struct{ fd int }

// OpenCensus opens it, if there is one. The cgroup may be removed all the same.
func (c Cgroup) OpenCensus() Census {
	if c.Dir == "" || c.V1 {
		return Census{}
	}
	fd, err := open(c.Dir+"/cgroup.events", unix.O_RDONLY)
	if err != nil {
		return Census{}
	}
	return Census{fd}
}

// Empty reports that nobody is in the cgroup or below it, or that it is gone. If
// it does not, Cgroup.Empty may know more: who is counted may just be ending.
func (s Census) Empty() bool {
	if s.fd == 0 {
		return false
	}
	var buf [64]byte
	n, err := unix.Pread(s.fd, buf[:], 0)
	for err == unix.EINTR {
		n, err = unix.Pread(s.fd, buf[:], 0)
	}
	return err == unix.ENODEV || err == nil && bytes.HasPrefix(buf[:n], []byte("populated 0"))
}

// Close gives the descriptor back.
func (s *Census) Close() {
	if s.fd != 0 {
		unix.Close(s.fd)
		s.fd = 0
	}
}

// Kill kills every process of the cgroup: in one go where the kernel can
// (cgroup v2 from Linux 5.14), else one after the other.
func (c Cgroup) Kill() error {
	if c.Dir == "" {
		return ErrNoCgroup
	}
	if !c.V1 {
		err := c.write("cgroup.kill", "1")
		var failed *Error
		if err == nil || errors.As(err, &failed) && isGone(failed.Err) && !exists(c.Dir) {
			return nil
		}
	}
	_, err := c.Signal(signals.KILL, 0)
	return err
}

// KillContainer sends KILL to the init of the container that has the cgroup, and to
// the other processes of the cgroup where they would outlive it: in a container
// without a pid namespace of its own, whose init is not the first process of one. So
// do runc (from 1.2 on) and gracerun-native. The error is that of the first call that
// failed.
func (c Cgroup) KillContainer(init process.Pidfd, pid int) error {
	first, err := process.IsInit(pid)
	shared := err == nil && !first && c.isOthers()
	err = init.Send(signals.KILL)
	if shared {
		if e := c.Kill(); err == nil {
			err = e
		}
	}
	return err
}

// KillLeft kills what has outlived the container's init, and reports how many
// processes that were.
func (c Cgroup) KillLeft() (killed int, err error) {
	if !c.isOthers() {
		return 0, nil
	}
	return c.Signal(signals.KILL, 0)
}

// isOthers reports whether it is a cgroup, not the root of all and not one that the
// caller is in as well.
func (c Cgroup) isOthers() bool {
	return c.Dir != "" && strings.Trim(c.below(), "/") != "" && !c.holds(unix.Getpid())
}

func exists(path string) bool { return unix.Faccessat(unix.AT_FDCWD, path, unix.F_OK, 0) == nil }

func subdirectories(dir string) (names []string, err error) {
	fd, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{"open", dir, err}
	}
	defer unix.Close(fd)
	var buf [8192]byte
	for {
		n, err := unix.ReadDirent(fd, buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case isGone(err), err == nil && n == 0:
			return names, nil
		case err != nil:
			return nil, &Error{"read", dir, err}
		}
		names = appendDirectories(names, buf[:n])
	}
}

// appendDirectories reads linux_dirent64 records (getdents64(2)): 19 bytes with
// the length of the record at 16 and the type at 18, then the name and a zero.
func appendDirectories(names []string, records []byte) []string {
	const lengthAt, typeAt, nameAt = 16, 18, 19
	for len(records) > nameAt {
		length := int(records[lengthAt]) | int(records[lengthAt+1])<<8
		if length <= nameAt || length > len(records) {
			break
		}
		name := records[nameAt:length]
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		if records[typeAt] == unix.DT_DIR && string(name) != "." && string(name) != ".." {
			names = append(names, string(name))
		}
		records = records[length:]
	}
	return names
}
