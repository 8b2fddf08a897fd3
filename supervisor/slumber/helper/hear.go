package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/supervisor/ownsignal"
	"gracerun.io/supervisor/slumber"
)

// hear says which signals it hears, one in a line, until its input ends. Whenever it
// has heard nothing for a while it falls asleep. Each program of the process counts
// for itself: what is written are whole lines.
func hear() error {
	own := [...]signals.Signal{signals.TERM, signals.INT, signals.QUIT, signals.CHLD}
	fd := -1
	if text, ok := os.LookupEnv("CAUGHT"); ok {
		fd, _ = strconv.Atoi(text)
	}
	caught, err := ownsignal.Resume(fd, own[:]...)
	if err == nil {
		err = ownsignal.Here()
	}
	if err != nil {
		return err
	}
	for range 4 { // other threads, which have a signal at times where it is not blocked
		go func() {
			for {
				time.Sleep(100 * time.Microsecond)
			}
		}()
	}
	_, _ = unix.Write(1, []byte("awake\n"))
	input := unix.PollFd{Fd: 0, Events: unix.POLLIN}
	for idle := 0; idle < 3; idle++ {
		fds := []unix.PollFd{{Fd: int32(caught.FD()), Events: unix.POLLIN}, input}
		if _, err := unix.Poll(fds, 1); err != nil && err != unix.EINTR {
			return err
		}
		if fds[1].Revents != 0 {
			return nil
		}
		for sig, rest := caught.Take().Next(); sig != 0; sig, rest = rest.Next() {
			_, _ = unix.Write(1, []byte(sig.String()+"\n"))
			idle = 0
		}
	}
	epoll, err := unix.EpollCreate1(0)
	if err != nil {
		return err
	}
	for _, fd := range []int{0, caught.FD()} {
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
			return err
		}
	}
	mask := ownsignal.Mask(own[:]...)
	signalfd, err := unix.Signalfd(-1, &mask, unix.SFD_NONBLOCK)
	if err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(caught.FD()), unix.F_SETFD, 0); err != nil {
		return err
	}
	env := []string{"CAUGHT=" + strconv.Itoa(caught.FD()), "CLOSE=" + fmt.Sprint(epoll, " ", signalfd)}
	bed := slumber.Bed{Epoll: epoll, Signals: signalfd, Caught: caught.FD()}
	return ownsignal.Held(func() error { return bed.Sleep(os.Args, env) }, own[:]...)
}

// closeBed closes what was there for the sleep.
func closeBed() {
	var epoll, signalfd int
	if n, _ := fmt.Sscan(os.Getenv("CLOSE"), &epoll, &signalfd); n == 2 {
		unix.Close(epoll)
		unix.Close(signalfd)
	}
}
