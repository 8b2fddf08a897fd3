package main

import (
	"encoding/binary"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawner starts the programs it is told to on its standard input, one after the
// other, and tells what each has cost on its standard output.
//
// A request is the length of what follows (4 bytes), the number of arguments,
// the arguments, and the environment, each ended by a NUL. A reply is five
// numbers of 8 bytes: wall time and CPU time in user and in kernel mode in ns,
// peak memory in KiB, and the wait status. Numbers are little-endian.
func spawner() {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		fail(err.Error())
	}
	attr := syscall.ProcAttr{Files: []uintptr{uintptr(null), uintptr(null), 2}}
	for {
		var size [4]byte
		if _, err := io.ReadFull(os.Stdin, size[:]); err != nil {
			return // gracebench is done
		}
		request := make([]byte, binary.LittleEndian.Uint32(size[:]))
		if _, err := io.ReadFull(os.Stdin, request); err != nil {
			fail(err.Error())
		}
		words := strings.Split(strings.TrimSuffix(string(request), "\x00"), "\x00")
		args := 1 + number(words[0])
		attr.Env = words[args:]
		reply := run(words[1:args], &attr)
		writeAll(1, reply)
	}
}

func run(argv []string, attr *syscall.ProcAttr) (cost []byte) {
	begin := now()
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		fail(argv[0] + ": " + err.Error())
	}
	var status syscall.WaitStatus
	var used syscall.Rusage
	for {
		_, err = syscall.Wait4(pid, &status, 0, &used)
		if err != unix.EINTR {
			break
		}
	}
	end := now()
	if err != nil {
		fail("wait: " + err.Error())
	}
	for _, n := range []int64{end - begin, used.Utime.Nano(), used.Stime.Nano(), used.Maxrss, int64(status)} {
		cost = binary.LittleEndian.AppendUint64(cost, uint64(n))
	}
	return cost
}
