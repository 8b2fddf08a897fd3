// Workload is what gracebench runs: inside containers, where it says when it
// hears a signal, writes a log, or exits; and outside, where it starts and times
// the programs that are measured, and copies a pipe as fast as Go and the kernel
// can.
//
// It stays small. A program that it starts is measured from a small parent, since
// the kernel counts the parent's memory until exec as the child's peak.
package main

import (
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The FIFOs that a container shares with gracebench.
const (
	events = "/io/events" // what the workload tells
	gate   = "/io/gate"   // opens when it may begin
)

func main() {
	mode, args := os.Args[1], os.Args[2:]
	switch mode {
	case "serve":
		serve(args)
	case "write":
		write(number(args[0]), number(args[1]), number(args[2]))
	case "exit":
		waitForGate()
		say("exit")
	case "nothing": // for exec
	case "wait":
		hear()
		<-heard
	case "spawn":
		spawner()
	case "splice":
		copyBySplice(number(args[0]))
	case "copy":
		copyByRead()
	default:
		fail("unknown mode " + mode)
	}
}

// serve tells each signal the moment it is heard. With an argument it does what
// a program does that has something to save: on TERM it works for that time, and
// ends.
func serve(args []string) {
	hear()
	say("ready")
	for {
		sig := <-heard
		say("signal " + strconv.Itoa(int(sig.(unix.Signal))))
		if sig == unix.SIGTERM && len(args) > 0 {
			time.Sleep(time.Duration(number(args[0])) * time.Millisecond)
			say("saved")
			return
		}
	}
}

// heard gets the signals. Go's way from the handler to a channel takes some ten
// microseconds, the same for all that is compared here.
var heard = make(chan os.Signal, 16)

func hear() { signal.Notify(heard, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2) }

// write writes that many bytes to its standard output, in lines of one length
// (0: one line), by writes of another, and tells when the last write returned.
// The last line says that it is the last.
func write(total, line, chunk int) {
	text := make([]byte, chunk)
	if line > 0 && chunk > line {
		text = text[:chunk/line*line]
	}
	for i := range text {
		text[i] = 'a' + byte(i%26)
		if line > 0 && i%line == line-1 {
			text[i] = '\n'
		}
	}
	hear()
	say("ready")
	waitForGate()
	for written := 0; written < total; written += len(text) {
		writeAll(1, text)
	}
	if line == 0 {
		writeAll(1, []byte{'\n'})
	}
	writeAll(1, []byte("end of load\n"))
	say("written")
	<-heard
}

func writeAll(fd int, text []byte) {
	for len(text) > 0 {
		n, err := unix.Write(fd, text)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			fail("write: " + err.Error())
		}
		text = text[n:]
	}
}

// say tells what happened, and when (CLOCK_MONOTONIC, ns). A write of a line to a
// FIFO is atomic.
func say(what string) {
	at := now()
	fd, err := unix.Open(events, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fail(events + ": " + err.Error())
	}
	writeAll(fd, []byte(what+" "+strconv.FormatInt(at, 10)+"\n"))
	unix.Close(fd)
}

func waitForGate() {
	fd, err := unix.Open(gate, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fail(gate + ": " + err.Error())
	}
	unix.Close(fd)
}

func now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		fail("clock: " + err.Error())
	}
	return ts.Nano()
}

func number(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		fail(err.Error())
	}
	return n
}

func fail(why string) {
	os.Stderr.WriteString("workload: " + why + "\n")
	os.Exit(1)
}
