// Command box is the program in the containers of a node under test. It notes
// each signal that reaches it, with the instant on CLOCK_MONOTONIC, on its
// standard output and, where it has a directory /data, in /data/heard.
//
//	pause                                   stays until TERM or INT
//	box serve [-save D] [-code N] [-deaf] [-line D] [-flood] [-memory] [-child]
//	box size                                says the terminal's size, and each new one
//	box serve-tcp ADDRESS                   answers each line with it
//	nginx [ADDRESS]                         serves a page on :80 until TERM, QUIT or INT
//	pgrep NAME, ipcs                        what Debian's static busybox has not
//	nnp                                     says its effective user; is set-user-ID root
//	box eat                                 takes memory without end
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	command := filepath.Base(os.Args[0])
	args := os.Args[1:]
	if command == "box" && len(args) > 0 {
		command, args = args[0], args[1:]
	}
	switch command {
	case "pause":
		pause()
	case "nginx":
		serveHTTP(args)
	case "pgrep":
		pgrep(args)
	case "ipcs":
		text, err := os.ReadFile("/proc/sysvipc/shm")
		if err != nil {
			fmt.Fprintln(os.Stderr, "ipcs:", err)
			os.Exit(1)
		}
		_, _ = os.Stdout.Write(text)
	case "nnp":
		fmt.Println("Effective uid:", os.Geteuid())
	case "serve":
		serve(args)
	case "size":
		size()
	case "serve-tcp":
		serveTCP(args[0])
	case "eat":
		// The kernel is to choose this one, whatever else is in the cgroup.
		_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
		eat()
	default:
		fmt.Fprintf(os.Stderr, "box: unknown command %q\n", command)
		os.Exit(2)
	}
}

func pause() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	<-ended
}

// monotonic is CLOCK_MONOTONIC, which is the same in every container.
func monotonic() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return time.Duration(t.Nano())
}

// A book is what the program tells of itself.
type book struct {
	data bool // there is a /data
}

// line writes a line to a file of /data.
func (b *book) line(name, format string, args ...any) {
	if !b.data {
		return
	}
	file, err := os.OpenFile("/data/"+name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		fmt.Fprintf(file, format+"\n", args...)
		file.Close()
	}
}

func serve(args []string) {
	set := flag.NewFlagSet("serve", flag.ExitOnError)
	save := set.Duration("save", 0, "from TERM to the end: a tenth for each of ten entries")
	code := set.Int("code", 0, "exit status")
	deaf := set.Bool("deaf", false, "note TERM, and go on")
	line := set.Duration("line", 0, "say a line so often")
	flood := set.Bool("flood", false, "say lines without a pause")
	memory := set.Bool("memory", false, "take memory after /data/go is there")
	child := set.Bool("child", false, "have a child take it")
	_ = set.Parse(args)

	b := &book{}
	if info, err := os.Stat("/data"); err == nil {
		b.data = info.IsDir()
	}
	heard := make(chan os.Signal, 64)
	signal.Notify(heard, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	told := make(chan struct{})
	go func() {
		terms := 0
		for s := range heard {
			name := unix.SignalName(s.(syscall.Signal))
			b.line("heard", "%s %d", name, monotonic())
			say("heard %s", name)
			if name != "SIGTERM" || *deaf {
				continue
			}
			if terms++; terms == 1 {
				close(told)
				continue
			}
			// As to many programs, a second one means: now.
			say("quit at once")
			os.Exit(1)
		}
	}()
	b.line("said", "ready")
	say("ready")
	if *memory {
		go func() {
			for _, err := os.Stat("/data/go"); err != nil; _, err = os.Stat("/data/go") {
				time.Sleep(10 * time.Millisecond)
			}
			if !*child {
				eat()
			}
			err := exec.Command("/bin/box", "eat").Run()
			b.line("said", "child: %v", err)
			say("child: %v", err)
		}()
	}
	talk(told, *line, *flood)
	for n := range 10 {
		if *save == 0 {
			break
		}
		time.Sleep(*save / 10)
		b.line("ledger", "entry %d", n+1)
	}
	b.line("said", "closed")
	say("closed")
	os.Exit(*code)
}

// out is standard output; a line is not torn by another.
var out sync.Mutex

func say(format string, args ...any) {
	out.Lock()
	defer out.Unlock()
	fmt.Printf(format+"\n", args...)
}

// talk says numbered lines, and how many there were, until it is told to end.
func talk(told chan struct{}, pause time.Duration, flood bool) {
	if pause == 0 && !flood {
		<-told
		return
	}
	var text strings.Builder
	for n := 1; ; {
		select {
		case <-told:
			say("lines: %d", n-1)
			return
		default:
		}
		text.Reset()
		for once := true; once || flood && text.Len() < 4000; once = false {
			fmt.Fprintf(&text, "line %d of an output that goes on and on, so that a log has something to rotate\n", n)
			n++
		}
		say("%s", strings.TrimSuffix(text.String(), "\n"))
		time.Sleep(max(pause, 100*time.Microsecond))
	}
}

// eat takes memory until somebody forbids it.
func eat() {
	const piece = 1 << 20
	for {
		memory, err := unix.Mmap(-1, 0, piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			os.Exit(1)
		}
		for i := 0; i < piece; i += os.Getpagesize() {
			memory[i] = 1
		}
	}
}

func size() {
	changed := make(chan os.Signal, 8)
	signal.Notify(changed, syscall.SIGWINCH)
	input := make(chan struct{})
	go func() { _, _ = bufio.NewReader(os.Stdin).ReadString('\n'); close(input) }()
	for {
		if w, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
			fmt.Println("size", w.Col, w.Row)
		} else {
			fmt.Println("no terminal:", err)
		}
		select {
		case <-changed:
		case <-input:
			os.Exit(5)
		}
	}
}

// pgrep prints the processes of that name, as far as it needs to be known.
func pgrep(args []string) {
	found := false
	paths, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range paths {
		name, err := os.ReadFile(path)
		if err == nil && len(args) > 0 && strings.Contains(string(name), args[len(args)-1]) {
			fmt.Println(filepath.Base(filepath.Dir(path)))
			found = true
		}
	}
	if !found {
		os.Exit(1)
	}
}

// serveHTTP is as much of a web server as tests of a network need.
func serveHTTP(args []string) {
	address := ":80"
	if len(args) > 0 {
		address = args[0]
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, "nginx:", err)
		os.Exit(1)
	}
	fmt.Println("a stand-in for nginx and httpd serves", address)
	_ = os.MkdirAll("/var/run", 0o755)
	_ = os.WriteFile("/var/run/nginx.pid", fmt.Appendln(nil, os.Getpid()), 0o644)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for line, err := in.ReadString('\n'); err == nil && strings.TrimSpace(line) != ""; line, err = in.ReadString('\n') {
				}
				const page = "Welcome to a web server for tests\n"
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(page), page)
			}()
		}
	}()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGINT)
	<-ended
}

func serveTCP(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, "box:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
	}
}
