//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity tells a process from every other that ever had or will have its
// number, since this boot and within one time namespace.
type Identity struct {
	Pid int

	// StartTime is field 22 of /proc/PID/stat, in clock ticks of 10 ms since boot.
	// It is not enough by itself: within one tick a number can be given to another
	// process. It decides only where there is no inode.
	StartTime uint64

	// PidfdInode is the inode number of the process's pidfds, unique since boot;
	// 0 where the kernel does not give them their own (before Linux 6.9).
	PidfdInode uint64
}

// Identify gives the identity of the process that has the number pid now. The
// caller must know that it is the one it means, as it does of a child it has not
// reaped. The error is ErrGone if there is none.
func Identify(pid int) (Identity, error) {
	p, err := Open(pid)
	if err != nil {
		return Identity{}, err
	}
	defer p.Close()
	return p.Identity(pid)
}

// Identity gives the identity of the process. pid must be the number the pidfd
// was opened with. The error is ErrGone if the process was reaped.
func (p Pidfd) Identity(pid int) (Identity, error) {
	inode, err := p.inode()
	if err != nil {
		return Identity{}, err
	}
	stat, err := p.Stat(pid)
	if err != nil {
		return Identity{}, err
	}
	return Identity{Pid: pid, StartTime: stat.StartTime, PidfdInode: inode}, nil
}

// OpenVerified opens a pidfd for the process of that identity and no other. The
// error is ErrGone if it was reaped and its number is free, ErrReused if another
// process has the number. A process that has exited but was not reaped is
// opened: Exited tells.
func OpenVerified(id Identity) (Pidfd, error) {
	p, err := Open(id.Pid)
	if err != nil {
		return -1, err
	}
	if err := p.verify(id); err != nil {
		p.Close()
		return -1, err
	}
	return p, nil
}

// Complete is OpenVerified, and gives all of the identity where id has only the
// start time. It is for who makes a record of a process of another one's.
func Complete(id Identity) (Pidfd, Identity, error) {
	if id.StartTime == 0 {
		return -1, id, &Error{Op: "process " + strconv.Itoa(id.Pid), Err: errNoIdentity}
	}
	p, err := Open(id.Pid)
	if err != nil {
		return -1, id, err
	}
	full, err := p.Identity(id.Pid)
	if err == nil && full.StartTime != id.StartTime {
		err = &Error{Op: "process " + strconv.Itoa(id.Pid), Err: ErrReused}
	}
	if err != nil {
		p.Close()
		return -1, id, err
	}
	return p, full, nil
}

var errNoIdentity = errors.New("neither start time nor pidfd inode is recorded: a number alone proves nothing")

func (p Pidfd) verify(id Identity) error {
	op := "process " + strconv.Itoa(id.Pid)
	if id.PidfdInode == 0 && id.StartTime == 0 {
		return &Error{Op: op, Err: errNoIdentity}
	}
	inode, err := p.inode()
	if err != nil {
		return err
	}
	same := inode == id.PidfdInode
	if id.PidfdInode == 0 || inode == 0 {
		stat, err := p.Stat(id.Pid)
		if err != nil {
			return err
		}
		same = stat.StartTime == id.StartTime
	}
	if !same {
		return &Error{Op: op, Err: ErrReused}
	}
	return nil
}

// inode gives the inode number of the pidfd, or 0 where all pidfds share one.
func (p Pidfd) inode() (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(p), &fs); err != nil {
		return 0, failed("fstatfs pidfd", err)
	}
	if fs.Type != unix.PID_FS_MAGIC {
		return 0, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(p), &st); err != nil {
		return 0, failed("fstat pidfd", err)
	}
	return st.Ino, nil
}

// String gives the identity as ParseIdentity reads it:
// "pid=12 start=3456 pidfd-inode=789".
func (id Identity) String() string {
	return "pid=" + strconv.Itoa(id.Pid) +
		" start=" + strconv.FormatUint(id.StartTime, 10) +
		" pidfd-inode=" + strconv.FormatUint(id.PidfdInode, 10)
}

// ParseIdentity reads the text of String. The words may come in any order and on
// lines of their own; each must be there once.
func ParseIdentity(text string) (Identity, error) {
	var pid, start, inode *uint64
	for _, word := range strings.Fields(text) {
		key, digits, _ := strings.Cut(word, "=")
		var slot **uint64
		switch key {
		case "pid":
			slot = &pid
		case "start":
			slot = &start
		case "pidfd-inode":
			slot = &inode
		}
		value, err := strconv.ParseUint(digits, 10, 64)
		if slot == nil || *slot != nil || err != nil {
			return Identity{}, badIdentity("bad word " + strconv.Quote(word))
		}
		*slot = &value
	}
	if pid == nil || start == nil || inode == nil {
		return Identity{}, badIdentity("pid, start and pidfd-inode are not all there")
	}
	if *pid == 0 || *pid > maxPid {
		return Identity{}, badIdentity("no process has the number " + strconv.FormatUint(*pid, 10))
	}
	return Identity{Pid: int(*pid), StartTime: *start, PidfdInode: *inode}, nil
}

// maxPid is the kernel's PID_MAX_LIMIT of 64-bit systems.
const maxPid = 1 << 22

func badIdentity(why string) error { return errors.New("process identity: " + why) }
