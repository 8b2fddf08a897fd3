package pipes

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrGone: nobody has the pipe open any more, so that nothing is in it.
var ErrGone = errors.New("nobody has the pipe open any more")

var errTooMany = errors.New("its processes have too many files open to look through")

// A process that moves its descriptors about, as a shell does for each redirection,
// can have the pipe all the time and never where one looks. So one looks again: so
// often, or until so many descriptors were looked at, which take about a microsecond
// each, but at least twice.
const (
	roundsOfContainer = 32
	roundsOfAll       = 6
	mostDescriptors   = 200000

	// A container must not keep its supervisor busy for ever.
	mostInRound = 500000 // or so: half a second
)

// Find opens the pipe with that inode anew: flags is unix.O_RDONLY or unix.O_WRONLY,
// and it does not block. It looks at what the container's processes have open, which
// are asked for before each look, and then at that of all others: those that are the
// container's and nobody knows it, and a keeper's.
//
// A descriptor of a container is anything that the container likes. It is looked at
// without being opened (O_PATH), and opened only if it is that pipe.
//
// The error is ErrGone, or says which process of the container may not be looked at:
// that one may have it.
func Find(inode uint64, flags int, container func() []int) (fd int, err error) {
	s := search{name: "pipe:[" + strconv.FormatUint(inode, 10) + "]", inode: inode, flags: flags}
	fd = -1
	s.again(roundsOfContainer, func(round int) bool {
		pids := container()
		for _, pid := range pids {
			if fd = s.process(pid, round == 1); fd >= 0 || s.tooMany() {
				return false
			}
		}
		return len(pids) > 0
	})
	if fd >= 0 {
		return fd, nil
	}
	err = s.denied // those of strangers say nothing
	if err == nil && s.tooMany() {
		err = errTooMany
	}
	s.again(roundsOfAll, func(int) bool {
		_ = s.numbers("/proc", func(pid int) bool {
			fd = s.process(pid, false)
			return fd < 0 && !s.tooMany()
		})
		return fd < 0 && !s.tooMany()
	})
	switch {
	case fd >= 0:
		return fd, nil
	case err != nil:
		return -1, err
	}
	return -1, ErrGone
}

type search struct {
	name   string // of its link in /proc/PID/fd
	inode  uint64
	flags  int
	looked int   // at so many descriptors in this round and those before
	denied error // that a process could not be looked at
}

func (s *search) tooMany() bool { return s.looked >= mostInRound }

// again calls look until it gives false, or has looked often enough.
func (s *search) again(rounds int, look func(round int) bool) {
	s.looked = 0
	for round := 0; round < rounds && (round < 2 || s.looked < mostDescriptors); round++ {
		if !look(round) {
			return
		}
	}
}

func (s *search) deny(path string, err error) {
	if s.denied == nil {
		s.denied = errors.New("open " + path + ", which may be it: " + err.Error())
	}
}

// process looks at what a process has open: at each of its threads if that may
// differ, or if its first thread has ended, with which its descriptors are not seen.
func (s *search) process(pid int, eachThread bool) int {
	path := "/proc/" + strconv.Itoa(pid)
	fd, any := s.descriptors(path + "/fd")
	if fd >= 0 || any && !eachThread {
		return fd
	}
	_ = s.numbers(path+"/task", func(thread int) bool {
		if thread != pid {
			fd, _ = s.descriptors(path + "/task/" + strconv.Itoa(thread) + "/fd")
		}
		return fd < 0 && !s.tooMany()
	})
	return fd
}

// descriptors looks through one table. any reports whether there is something in it,
// or it is not to be seen.
func (s *search) descriptors(path string) (found int, any bool) {
	found = -1
	err := s.numbers(path, func(n int) bool {
		any = true
		found = s.candidate(path + "/" + strconv.Itoa(n))
		return found < 0 && !s.tooMany()
	})
	if err != nil && !isGone(err) {
		s.deny(path, err)
		any = true
	}
	return found, any
}

// isGone: the process has ended, or closed the descriptor.
func isGone(err error) bool { return err == unix.ENOENT || err == unix.ESRCH }

// candidate opens the pipe anew if this is a descriptor of it. Its name alone is not
// believed: it may be another's by the time that it is opened.
func (s *search) candidate(path string) int {
	s.looked++
	var name [64]byte
	n, err := unix.Readlink(path, name[:])
	if err != nil && !isGone(err) {
		s.deny(path, err)
	}
	if err != nil || string(name[:n]) != s.name {
		return -1
	}
	handle, err := open(path, unix.O_PATH)
	if err != nil {
		return -1
	}
	defer unix.Close(handle)
	var fs unix.Statfs_t
	if inode, err := Inode(handle); err != nil || inode != s.inode {
		return -1
	}
	if err := unix.Fstatfs(handle, &fs); err != nil || fs.Type != unix.PIPEFS_MAGIC {
		return -1
	}
	fd, err := reopen(handle, s.flags|unix.O_NONBLOCK)
	if err != nil {
		if err != unix.ENXIO { // to be written, and nobody reads any more
			s.deny(path, err)
		}
		return -1
	}
	return fd
}

// numbers calls yield for the entries of a directory that are numbers, until it
// gives false.
func (s *search) numbers(path string, yield func(n int) bool) error {
	dir, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	var buf [4096]byte
	for {
		n, err := unix.ReadDirent(dir, buf[:])
		if err != nil || n <= 0 {
			return err
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if number, err := strconv.Atoi(name); err == nil && !yield(number) {
				return nil
			}
		}
	}
}
