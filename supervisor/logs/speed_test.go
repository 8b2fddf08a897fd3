package logs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/loop"
)

// The shapes of output that are measured. A container writes pieces of `write`
// bytes; 0 is as much as the pipe takes.
var shapes = []struct {
	name        string
	line, write int
}{
	{"100B", 100, 0},
	{"1KiB", 1 << 10, 0},
	{"16KiB", 16 << 10, 0},
	{"one-line", 1 << 30, 0},
	{"4KiB-writes", 100, 4096},
	{"line-writes", 100, 100},
	{"tiny-writes", 16, 16},
}

const shm = "/dev/shm"

// TestMain lets the test binary be the container of a benchmark, or a victim of
// the crash test, so that its own use of the processor is measured apart.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("LOGS_TEST_WRITER") != "":
		writeShape()
	case os.Getenv("LOGS_TEST_VICTIM") != "":
		victim()
	case os.Getenv("LOGS_TEST_STEPPER") != "":
		stepVictim()
	default:
		os.Exit(m.Run())
	}
}

func writeShape() {
	size, _ := strconv.Atoi(os.Getenv("LOGS_TEST_SIZE"))
	line, _ := strconv.Atoi(os.Getenv("LOGS_TEST_LINE"))
	piece, _ := strconv.Atoi(os.Getenv("LOGS_TEST_WRITER"))
	text := bytes.Repeat([]byte("x"), 1<<20)
	for at := line - 1; at < len(text); at += line {
		text[at] = '\n'
	}
	if piece < 0 {
		piece = len(text) / line * line
		if piece == 0 {
			piece = len(text)
		}
	}
	for size > 0 {
		n, err := unix.Write(1, text[:min(piece, size)])
		if err != nil {
			os.Exit(1)
		}
		size -= n
	}
	os.Exit(0)
}

// from starts a container that writes size bytes in that shape, and gives the
// pipe.
func from(b *testing.B, size, line, piece int) int {
	b.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	if piece == 0 {
		piece = -1
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LOGS_TEST_WRITER="+strconv.Itoa(piece),
		"LOGS_TEST_SIZE="+strconv.Itoa(size), "LOGS_TEST_LINE="+strconv.Itoa(line))
	cmd.Stdout, cmd.Stderr = write, os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	write.Close()
	b.Cleanup(func() { read.Close(); cmd.Wait() })
	return int(read.Fd())
}

// processor is the time that this process has had, in seconds.
func processor() float64 {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func tmpfs(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp(shm, "logs-")
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// BenchmarkK8sFile moves output from a pipe to a k8s-file on tmpfs. Beside the
// rate it gives the time of the processor for each GiB of output.
func BenchmarkK8sFile(b *testing.B) {
	for _, shape := range shapes {
		b.Run(shape.name, func(b *testing.B) {
			dir := tmpfs(b)
			lp := must(loop.New())
			l, err := Open(Options{Loop: lp, Targets: toFile(filepath.Join(dir, "log")), Dir: int(must(os.Open(dir)).Fd()), SizeMax: 512 << 20})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			measure(b, shape.line, shape.write, func(fd int) {
				s := l.Stream(Stdout, fd, false)
				s.pipe = 0
				if err := s.Watch(lp.Stop); err != nil {
					b.Fatal(err)
				}
				if err := lp.Run(); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// BenchmarkCopy is the limit: the same pipe, read and written to a file as it is.
func BenchmarkCopy(b *testing.B) {
	for _, shape := range shapes {
		b.Run(shape.name, func(b *testing.B) {
			file := must(os.Create(filepath.Join(tmpfs(b), "copy")))
			buf := make([]byte, batch)
			var size int
			measure(b, shape.line, shape.write, func(fd int) {
				unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, bigPipe)
				for {
					n, err := unix.Read(fd, buf)
					if err == unix.EAGAIN {
						wait(fd)
						continue
					}
					if n <= 0 {
						return
					}
					unix.Write(int(file.Fd()), buf[:n])
					if size += n; size > 512<<20 {
						size = 0
						file.Truncate(0)
						file.Seek(0, 0)
					}
				}
			})
		})
	}
}

// measure runs move on b.N MiB.
func measure(b *testing.B, line, piece int, move func(fd int)) {
	fd := from(b, b.N<<20, line, piece)
	unix.SetNonblock(fd, true)
	wait(fd)
	b.SetBytes(1 << 20)
	b.ResetTimer()
	start := processor()
	move(fd)
	b.StopTimer()
	b.ReportMetric((processor()-start)/float64(b.N)*1024, "cpu-s/GiB")
	b.ReportMetric(0, "ns/op")
}

func wait(fd int) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			return
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
