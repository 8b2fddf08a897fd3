//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity tells a process from every other that ever had or will have its number.
// What is written down may outlive the boot: numbers, start times and inodes begin
// anew then, and come again.
type Identity struct {
	Pid int

	// StartTime is field 22 of /proc/PID/stat, in clock ticks of 10 ms since boot.
	// It is not enough by itself: within one tick a number can be given to another
	// process, and it is told in the reader's time namespace. It decides only where
	// there is no inode, or where the boot is not known.
	StartTime uint64

	// PidfdInode is the inode number of the process's pidfds, unique since boot;
	// 0 where the kernel does not give them their own (before Linux 6.9).
	PidfdInode uint64

	// Boot is that in which the process was made; zero in what an older version has
	// written down.
	Boot BootID
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
	return Identity{Pid: pid, StartTime: stat.StartTime, PidfdInode: inode, Boot: ThisBoot()}, nil
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
	if id.IsOfAnotherBoot() {
		return &Error{Op: op, Err: ErrReused}
	}
	inode, err := p.inode()
	if err != nil {
		return err
	}
	inodes := id.PidfdInode != 0 && inode != 0
	same := !inodes || inode == id.PidfdInode
	if !inodes || same && id.Boot == (BootID{}) && id.StartTime != 0 {
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

// IsOfAnotherBoot reports whether the process is known to have ended with the machine.
func (id Identity) IsOfAnotherBoot() bool {
	boot := ThisBoot()
	return id.Boot != BootID{} && boot != BootID{} && id.Boot != boot
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
// "pid=12 start=3456 pidfd-inode=789 boot=5f2a5d5e-5d1c-4bb4-8a43-1d4fb2a8b1c4", the
// last only if it is known.
func (id Identity) String() string {
	text := "pid=" + strconv.Itoa(id.Pid) +
		" start=" + strconv.FormatUint(id.StartTime, 10) +
		" pidfd-inode=" + strconv.FormatUint(id.PidfdInode, 10)
	if id.Boot != (BootID{}) {
		text += " boot=" + id.Boot.String()
	}
	return text
}

// ParseIdentity reads the text of String. The words may come in any order and on
// lines of their own; each must be there once, but for the boot, which older versions
// do not write.
func ParseIdentity(text string) (Identity, error) {
	var pid, start, inode *uint64
	var boot BootID
	for _, word := range strings.Fields(text) {
		key, digits, _ := strings.Cut(word, "=")
		if key == "boot" && boot == (BootID{}) {
			var err error
			if boot, err = ParseBootID(digits); err != nil || boot == (BootID{}) {
				return Identity{}, badIdentity("bad word " + strconv.Quote(word))
			}
			continue
		}
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
	return Identity{Pid: int(*pid), StartTime: *start, PidfdInode: *inode, Boot: boot}, nil
}

// maxPid is the kernel's PID_MAX_LIMIT of 64-bit systems.
const maxPid = 1 << 22

func badIdentity(why string) error { return errors.New("process identity: " + why) }
