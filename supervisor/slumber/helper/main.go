// Command helper is what the tests of package slumber have fall asleep, until there
// is something to read from its descriptor 3. Then it says how it was woken. With the
// argument "hear" it says which signals it hears, and sleeps whenever there is none; with
// "fork" what it is, and its parent what to end with.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/slumber"
)

const caught = 4

func main() {
	if len(os.Args) == 2 && os.Args[1] == "hear" {
		closeBed()
		if err := hear(); err != nil {
			fmt.Println(err)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "fork" {
		forked()
	}
	if os.Getenv("STAGE") != "awake" && len(os.Args) == 1 {
		runtime.LockOSThread()
		fmt.Println("sleeps:", fallAsleep())
		os.Exit(1)
	}
	var signals uint64
	poll := []unix.PollFd{{Fd: caught, Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, 0); err == nil && poll[0].Revents == unix.POLLIN {
		_, _ = unix.Read(caught, (*[8]byte)(unsafe.Pointer(&signals))[:])
	}
	fmt.Printf("awake %d %s %s %x\n", os.Getpid(), strings.Join(os.Args[1:], "|"), strings.Join(os.Environ(), "|"), signals)
	os.Exit(7)
}

func fallAsleep() error {
	epoll, err := unix.EpollCreate1(0)
	if err != nil {
		return err
	}
	const several = 123 // digits
	if err := unix.Dup3(epoll, several, 0); err != nil {
		return err
	}
	unix.Close(epoll)
	mask := unix.Sigset_t{}
	mask.Val[0] = 1<<(unix.SIGTERM-1) | 1<<(unix.SIGINT-1) | 1<<(unix.SIGQUIT-1) | 1<<(unix.SIGCHLD-1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &mask, nil); err != nil {
		return err
	}
	signals, err := unix.Signalfd(-1, &mask, unix.SFD_NONBLOCK)
	if err != nil {
		return err
	}
	if err := unix.EpollCtl(several, unix.EPOLL_CTL_ADD, 3, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return err
	}
	bed := slumber.Bed{Epoll: several, Signals: signals, Caught: caught}
	return bed.Sleep([]string{"/some/where/a-name-of-its-own", "an argument", "another"}, []string{"STAGE=awake", "GREETING=hello"})
}

// forked tells the foreground, if there is one, to end with the status of the arguments.
func forked() {
	mask := unix.Sigset_t{}
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &mask, &mask)
	fmt.Printf("%d %d %x %s|%s\n", os.Getpid(), runtime.GOMAXPROCS(0), mask.Val[0], strings.Join(os.Args[1:], "|"), strings.Join(os.Environ(), "|"))
	if len(os.Args) > 3 && os.Args[3] == "dies" {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	status, _ := strconv.Atoi(os.Args[2])
	fd, err := strconv.Atoi(os.Getenv(slumber.ForkedVariable))
	if err == nil && len(os.Args) == 3 {
		_, _ = unix.Write(fd, []byte{byte(status)})
		status = 0
	}
	os.Exit(status)
}
