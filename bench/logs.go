package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	logSection = "A container's log"
	lastLine   = "end of load\n"
	stdoutTag  = " stdout "
	copyLimit  = "limit: read(2) and write(2)"
)

// A load is what a container writes: that many bytes in all, in lines of one
// length (0: in one line), by writes of another.
type load struct {
	name                string
	bytes, line, atOnce int
}

func (d load) args() []string {
	return []string{"write", strconv.Itoa(d.bytes), strconv.Itoa(d.line), strconv.Itoa(d.atOnce)}
}

// loadNames in the order of loads.
var loadNames = []string{"lines of 100 bytes", "lines of 1 KiB", "lines of 16 KiB", "one line without end", "lines of 100 bytes, one write each", "lines of 16 bytes, one write each"}

// loads writes 64 KiB at once, as much as a pipe takes, but for the tiny writes.
func (l *lab) loads() []load {
	size := 64 << 20
	if l.Quick {
		size = 4 << 20
	}
	return []load{
		{loadNames[0], size, 100, 64 << 10},
		{loadNames[1], size, 1 << 10, 64 << 10},
		{loadNames[2], size, 16 << 10, 64 << 10},
		{loadNames[3], size, 0, 64 << 10},
		{loadNames[4], size / 2, 100, 100},
		{loadNames[5], size / 8, 16, 16},
	}
}

// logger is a monitor or, without one, a limit.
type logger struct {
	monitor *Program
	limit   []string // the workload's arguments
	name    string
}

func (g logger) String() string { return g.name }

// logs measures how fast a monitor takes a container's output into a k8s-file
// log, and what that costs it.
func (l *lab) logs() error {
	loggers := []logger{
		{limit: []string{"splice", "65536"}, name: "limit: splice(2)"},
		{limit: []string{"splice", "1048576"}, name: "limit: splice(2), pipe of 1 MiB"},
		{limit: []string{"copy"}, name: copyLimit},
	}
	for _, m := range l.monitors() {
		loggers = append(loggers, logger{monitor: m, name: m.Name})
	}
	disk, err := os.MkdirTemp(l.Disk, "gracebench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(disk)
	for _, medium := range []struct{ name, dir string }{{"tmpfs", l.tmp}, {"disk", disk}} {
		for _, d := range l.loads() {
			if d.name == loadNames[0] && medium.dir == l.tmp && !l.Quick {
				d.bytes = 512 << 20
			}
			work := d.name + ", to " + medium.name
			l.progress("log: %s", work)
			checked := map[string]bool{}
			interleave(l, "log of "+work, l.rounds(5), loggers, func(g logger) error {
				log := filepath.Join(medium.dir, "log")
				defer os.Remove(log)
				wall, cpu, err := l.take(g, d, log)
				if err == nil && g.monitor != nil && !checked[g.name] {
					checked[g.name] = true
					err = verify(log, d)
				}
				if err != nil {
					return err
				}
				l.addRate(logSection, work, g.name, d.bytes, wall, cpu)
				return nil
			})
		}
	}
	return nil
}

func (l *lab) addRate(section, work, subject string, bytes int, wall, cpu int64) {
	l.report.add(section, work, subject, Rate, float64(bytes)/(1<<20)/(float64(wall)/1e9))
	l.report.add(section, work, subject, CPUPerGiB, float64(cpu)/1e9/float64(bytes)*(1<<30))
}

// take measures from the moment at which the container may write until the last
// line is in the log, and the CPU time that the logger has used meanwhile.
func (l *lab) take(g logger, d load, log string) (wall, cpu int64, err error) {
	var c *container
	var pid int
	if g.monitor == nil {
		c, pid, err = l.copying(g.limit, d, log)
	} else {
		c, err = l.writing(g.monitor, d, log)
	}
	if err != nil {
		return 0, 0, err
	}
	defer c.end()
	if g.monitor != nil {
		pid = c.monitorPid
	}
	before, err := cpuOf(pid)
	if err != nil {
		return 0, 0, err
	}
	begin, err := c.open()
	if err != nil {
		return 0, 0, err
	}
	if _, err := c.await("written"); err != nil {
		return 0, 0, err
	}
	if err := awaitLastLine(log); err != nil {
		return 0, 0, err
	}
	wall = now() - begin
	after, err := cpuOf(pid)
	return wall, after - before, err
}

// writing makes a container that is about to write.
func (l *lab) writing(monitor *Program, d load, log string) (*container, error) {
	c, err := l.prepare(l.underneath(), nil, d.args()...)
	if err != nil {
		return nil, err
	}
	if _, err = c.createUnder(monitor, log); err == nil {
		_, err = c.start()
	}
	if err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// copying does the same with a copy in the monitor's place.
func (l *lab) copying(mode []string, d load, log string) (c *container, pid int, err error) {
	if c, err = l.prepare(l.underneath(), nil, d.args()...); err != nil {
		return nil, 0, err
	}
	file, err := os.Create(log)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	from, to, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	defer from.Close()
	defer to.Close()
	copier := exec.Command(l.workload, mode...)
	copier.Stdin, copier.Stdout, copier.Stderr = from, file, os.Stderr
	if err := copier.Start(); err != nil {
		return nil, 0, err
	}
	c.copier = copier
	cmd := exec.Command(c.runtime.path, c.argv("create", "--bundle", c.bundle, "--pid-file", c.pidFile(), c.id)[1:]...)
	cmd.Stdout, cmd.Env = to, l.environ(c.runtime)
	if err = cmd.Run(); err == nil {
		if err = c.learnPid(); err == nil {
			_, err = c.start()
		}
	}
	if err != nil {
		c.end()
		return nil, 0, err
	}
	return c, copier.Process.Pid, nil
}

// awaitLastLine waits until the log ends with the workload's last line.
func awaitLastLine(log string) error {
	file, err := os.Open(log)
	if err != nil {
		return err
	}
	defer file.Close()
	tail := make([]byte, len(lastLine))
	for give := time.Now().Add(patience); ; {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if at := info.Size() - int64(len(tail)); at >= 0 {
			if _, err := file.ReadAt(tail, at); err == nil && string(tail) == lastLine {
				return nil
			}
		}
		if time.Now().After(give) {
			return fmt.Errorf("the last line is not in the log after %v: %d bytes, which end with %q", patience, info.Size(), tail)
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 50_000}, nil)
	}
}

// verify takes the log apart, and checks that it holds as much as was written, no byte
// and no line more or less.
func verify(log string, d load) error {
	file, err := os.Open(log)
	if err != nil {
		return err
	}
	defer file.Close()
	var size, lines, at int
	for in := bufio.NewReaderSize(file, 1<<20); ; {
		line, err := in.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			break
		}
		if err != nil {
			return fmt.Errorf("log at byte %d: %w", at, err)
		}
		// "TIME stdout F text", or P for a part of a line that does not end here.
		_, tagged, found := bytes.Cut(line[:min(len(line), 64)], []byte(stdoutTag))
		if !found || len(tagged) < 2 || tagged[0] != 'F' && tagged[0] != 'P' {
			return fmt.Errorf("log at byte %d: %q is no line of a log", at, line[:min(len(line), 64)])
		}
		size += len(line) - (min(len(line), 64) - len(tagged)) - 2
		if tagged[0] == 'F' {
			lines++
		} else {
			size--
		}
		at += len(line)
	}
	want, wantLines := d.written()
	if size != want || lines != wantLines {
		return fmt.Errorf("the log holds %d bytes in %d lines, the container wrote %d in %d", size, lines, want, wantLines)
	}
	return nil
}

// written gives what the workload writes for a load: whole writes.
func (d load) written() (size, lines int) {
	atOnce := d.atOnce
	if d.line > 0 && atOnce > d.line {
		atOnce = atOnce / d.line * d.line
	}
	size = (d.bytes + atOnce - 1) / atOnce * atOnce
	if d.line > 0 {
		lines = size / d.line
	} else {
		size, lines = size+1, 1
	}
	return size + len(lastLine), lines + 1
}
