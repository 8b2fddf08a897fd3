// Gracerun is an OCI runtime around another one: crun, runc or gracerun-native.
// Signals, stops and states go through the container's supervisor; everything
// else is the wrapped runtime's.
package main

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gracerun.io/shim"
)

func main() {
	args, err := arguments()
	if err != nil {
		_, _ = unix.Write(2, []byte("gracerun: read /proc/self/cmdline: "+err.Error()+"\n"))
		syscall.Exit(1)
	}
	syscall.Exit(shim.Main(args))
}

// arguments does without package os, whose initialization would be a tenth of
// what a kill costs.
func arguments() ([]string, error) {
	fd, err := unix.Open("/proc/self/cmdline", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	text := make([]byte, 0, 4096)
	for {
		n, err := unix.Read(fd, text[len(text):cap(text)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"), nil
		}
		if text = text[:len(text)+n]; len(text) == cap(text) {
			text = append(make([]byte, 0, 2*cap(text)), text...)
		}
	}
}
