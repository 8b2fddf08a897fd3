// Inmate is what runs in the containers of the chaos test: it numbers its lines, and
// keeps count in a page of a file of what nobody may lose. Outside of them it is the
// exit command, and notes that it was run.
package main

import (
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// counts is what the test reads: true to the last store, whenever it is killed.
type counts struct {
	Lines [2]uint64 // written to stdout, stderr
	Terms uint64    // how often SIGTERM was heard
	Heard uint64    // when first, in nanoseconds of CLOCK_MONOTONIC
	Users uint64    // how often SIGUSR1 was heard
}

func main() {
	switch mode, args := os.Args[1], os.Args[2:]; mode {
	case "live":
		live(number(args[0]), number(args[1]), number(args[2]))
	case "say":
		say(1, args[0]+"\n")
	case "note":
		note(args[0])
	}
}

// live writes numbered lines every few milliseconds until SIGTERM, and for some
// milliseconds more (negative: for ever), and exits with a code. Arguments: code,
// milliseconds after SIGTERM, milliseconds between lines.
func live(code, after, pause int) {
	c := open()
	heard := make(chan os.Signal, 64)
	signal.Notify(heard, unix.SIGTERM, unix.SIGUSR1)
	var end <-chan time.Time
	tick := time.NewTicker(time.Duration(pause) * time.Millisecond)
	line(c, 0)
	line(c, 1)
	for {
		select {
		case sig := <-heard:
			if sig == unix.SIGUSR1 {
				atomic.AddUint64(&c.Users, 1)
			} else if atomic.AddUint64(&c.Terms, 1) == 1 {
				atomic.StoreUint64(&c.Heard, now())
				if after >= 0 {
					end = time.After(time.Duration(after) * time.Millisecond)
				}
			}
		case <-end:
			line(c, 0)
			line(c, 1)
			os.Exit(code)
		case <-tick.C:
			line(c, 0)
			if c.Lines[0]%7 == 0 {
				line(c, 1)
			}
		}
	}
}

// line writes the next line of a stream, and counts it when that has returned. Some
// are longer than a pipe, or a record, is whole for.
func line(c *counts, stream int) {
	n := c.Lines[stream] + 1
	say(1+stream, Line(n))
	atomic.StoreUint64(&c.Lines[stream], n)
}

// Line is the n-th line. The test has the same.
func Line(n uint64) string {
	b := strconv.AppendUint(nil, n, 10)
	b = append(b, ' ')
	length := 20 + n*7919%97
	if n%53 == 0 {
		length = 9000
	}
	for i := range length {
		b = append(b, 'a'+byte(i%26))
	}
	return string(append(b, '\n'))
}

func say(fd int, text string) {
	for rest := []byte(text); len(rest) > 0; {
		n, err := unix.Write(fd, rest)
		if err != nil && err != unix.EINTR {
			os.Exit(99) // nobody reads
		}
		rest = rest[max(n, 0):]
	}
}

func open() *counts {
	fd, err := unix.Open("/io/counts", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err == nil {
		err = unix.Ftruncate(fd, 4096)
	}
	if err != nil {
		os.Exit(98)
	}
	mem, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		os.Exit(98)
	}
	return (*counts)(unsafe.Pointer(&mem[0]))
}

// note adds a line to a file.
func note(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = f.WriteString("run\n")
	}
	if err != nil {
		os.Exit(97)
	}
}

func now() uint64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return uint64(t.Nano())
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		os.Exit(96)
	}
	return n
}
