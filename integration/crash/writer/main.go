// Writer is what runs in the containers of the crash test: it numbers its lines,
// and keeps count in a file of what nobody may lose. Outside of them it is the
// exit command, and notes that it was run.
package main

import (
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// counts is a page of a file that the test reads: what the container knows of
// itself, true to the last store whenever it is killed.
type counts struct {
	Lines   [2]uint64 // lines that were written to stdout, stderr
	Terms   uint64    // how often SIGTERM was heard
	HeardAt uint64    // when first, in nanoseconds of CLOCK_MONOTONIC
}

func main() {
	switch mode, args := os.Args[1], os.Args[2:]; mode {
	case "write":
		write(args)
	case "copy":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "note":
		note(args[0])
	}
}

// write writes numbered lines until SIGTERM, and for some milliseconds more
// (negative: for ever), and exits with a code. Arguments: code, milliseconds,
// lines in a burst, milliseconds between bursts, and how many lines it writes at
// most before SIGTERM (0: no limit).
func write(args []string) {
	code, after, burst, pause, most := number(args[0]), number(args[1]), number(args[2]), number(args[3]), uint64(number(args[4]))
	c := open()
	heard := make(chan os.Signal, 8)
	signal.Notify(heard, unix.SIGTERM)
	var end <-chan time.Time
	tick := time.NewTicker(time.Duration(pause) * time.Millisecond)
	for {
		if most == 0 || c.Lines[0] < most {
			for range burst {
				say(c, 0)
			}
			say(c, 1)
		}
		select {
		case <-heard:
			if atomic.AddUint64(&c.Terms, 1) == 1 {
				atomic.StoreUint64(&c.HeardAt, now())
				if after >= 0 {
					end = time.After(time.Duration(after) * time.Millisecond)
				}
			}
		case <-end:
			say(c, 0)
			say(c, 1)
			os.Exit(code)
		case <-tick.C:
		}
	}
}

// say writes the next line of a stream, some of them longer than a pipe is atomic
// for. It is counted when the write has returned.
func say(c *counts, stream int) {
	n := c.Lines[stream] + 1
	line := strconv.AppendUint(nil, n, 10)
	line = append(line, ' ')
	for i := uint64(0); i < 20+n*7919%97; i++ {
		line = append(line, 'a'+byte(i%26))
	}
	if n%61 == 0 {
		for range 9000 {
			line = append(line, 'x')
		}
	}
	line = append(line, '\n')
	for len(line) > 0 {
		k, err := unix.Write(1+stream, line)
		if err != nil && err != unix.EINTR {
			os.Exit(99) // nobody reads: what the test is about
		}
		line = line[max(k, 0):]
	}
	atomic.StoreUint64(&c.Lines[stream], n)
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
