package monitor

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/cgroup"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// oom hears when the kernel's OOM killer strikes in the memory cgroup of the
// container. The descriptors stay open after the cgroup is gone, so that its
// removal is not taken for anything else.
type oom struct {
	fd     int    // v2: memory.events; v1: an eventfd; 0 for none
	events string // v1: path of cgroup.event_control, which tells whether the cgroup is there
	seen   [2]int64
}

// Counters of memory.events (Documentation/admin-guide/cgroup-v2.rst): how often
// memory ran out, and how many processes were killed for it.
var oomCounters = [2]string{"oom", "oom_kill"}

// watchOOM begins to listen. Where there is no memory controller, nothing is heard.
func (c *Container) watchOOM() {
	if c.oom.events != "" { // of a former program of this process
		c.awaitControl()
		return
	}
	text, err := readFile("/proc/" + strconv.Itoa(c.init.pid) + "/cgroup")
	if err != nil {
		c.notes.warn("Failed to get cgroup path. Container may have exited")
		return
	}
	if cgroup.Unified() {
		if path, ok := hierarchy(string(text), ""); ok {
			c.watchEvents(cgroup.Mount + path + "/memory.events")
		}
		return
	}
	if path, ok := hierarchy(string(text), "memory"); ok {
		c.watchControl(cgroup.Mount + "/memory" + path)
	} else {
		c.notes.warn("Failed to get memory cgroup path. Container may have exited")
	}
}

// hierarchy finds the path in the version 1 hierarchy of a controller, or in
// that of version 2 (""), in the text of /proc/PID/cgroup.
func hierarchy(text, controller string) (path string, ok bool) {
	for line := range strings.Lines(text) {
		number, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		if controller == "" {
			if number == "0" && controllers == "" {
				return path, true
			}
			continue
		}
		for name := range strings.SplitSeq(controllers, ",") {
			if name == controller {
				return path, true
			}
		}
	}
	return "", false
}

func (c *Container) watchEvents(path string) {
	fd, err := c.oom.fd, error(nil) // a former program of this process has it open
	if fd == 0 {
		fd, err = open(path, unix.O_RDONLY, 0)
	}
	if err != nil {
		if err == unix.ENOENT {
			c.notes.debug("memory.events file does not exist at " + path + ", skipping OOM monitoring")
		} else {
			c.notes.warn("Failed to open cgroups file: " + path + ": " + cmdline.Text(err))
		}
		return
	}
	c.oom.fd = fd
	if c.o.Exec { // what has happened to the container before is not this one's
		c.oom.seen, _ = c.readEvents()
	}
	if err := c.s.loop.Add(fd, unix.EPOLLPRI, loop.HandlerFunc(func(uint32) { c.checkOOM() })); err != nil {
		c.notes.warn("Failed to watch " + path + ": " + err.Error())
	}
}

// readEvents reads the counters, which also makes the file quiet until they change.
func (c *Container) readEvents() (counters [2]int64, err error) {
	var buf [512]byte
	n, err := unix.Pread(c.oom.fd, buf[:], 0)
	if err != nil {
		return counters, err
	}
	for line := range strings.Lines(string(buf[:n])) {
		name, digits, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		for i := range oomCounters {
			if name == oomCounters[i] {
				counters[i], _ = strconv.ParseInt(digits, 10, 64)
			}
		}
	}
	return counters, nil
}

func (c *Container) watchControl(dir string) {
	c.oom.events = dir + "/cgroup.event_control"
	if c.oom.fd != 0 { // of a former program of this process
		c.awaitControl()
		return
	}
	control, err := open(c.oom.events, unix.O_WRONLY, 0)
	if err != nil {
		c.notes.warn("Failed to open " + c.oom.events)
		return
	}
	defer unix.Close(control)
	source, err := open(dir+"/memory.oom_control", unix.O_RDONLY, 0)
	if err != nil {
		c.notes.warn("Failed to open " + dir + "/memory.oom_control")
		return
	}
	defer unix.Close(source) // the kernel has its own reference now
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		c.notes.warn("Failed to create eventfd")
		return
	}
	if _, err := unix.Write(control, []byte(strconv.Itoa(fd)+" "+strconv.Itoa(source))); err != nil {
		c.notes.warn("Failed to write to cgroup.event_control") // a kernel with PREEMPT_RT has none
		unix.Close(fd)
		return
	}
	c.oom.fd = fd
	c.awaitControl()
}

func (c *Container) awaitControl() {
	if err := c.s.loop.Add(c.oom.fd, loop.Readable, loop.HandlerFunc(func(uint32) { c.checkOOM() })); err != nil {
		c.notes.warn("Failed to wait for OOM events: " + err.Error())
	}
}

// checkOOM looks whether the OOM killer has struck since the last look. It is
// done at init's exit too, before anybody removes the cgroup.
func (c *Container) checkOOM() {
	switch {
	case c.oom.fd == 0:
	case c.oom.events != "":
		c.checkControl()
	default:
		c.checkEvents()
	}
}

func (c *Container) checkEvents() {
	counters, err := c.readEvents()
	if err != nil {
		if err == unix.ENODEV {
			c.notes.debug("Cgroup appears to have been removed, stopping OOM monitoring")
		} else {
			c.notes.warn("Failed to read memory.events: " + cmdline.Text(err))
		}
		c.closeOOM()
		return
	}
	if counters == c.oom.seen {
		return
	}
	killed := counters[1] != c.oom.seen[1]
	c.oom.seen = counters
	c.struck(killed)
}

func (c *Container) checkControl() {
	// A removal of the cgroup counts once. It must be asked for before the count.
	removed := unix.Access(c.oom.events, unix.F_OK) != nil
	var count [8]byte
	if n, err := unix.Read(c.oom.fd, count[:]); err != nil || n != len(count) {
		return
	}
	events := uint64(0)
	for i, b := range count { // little-endian, as all machines are that we build for
		events |= uint64(b) << (8 * i)
	}
	c.notes.debug("Memory cgroup event count: " + strconv.FormatUint(events, 10))
	if removed {
		c.notes.debug("Memory cgroup removal event received")
		events--
	}
	if events > 0 {
		c.struck(true)
	}
}

func (c *Container) closeOOM() {
	if c.oom.fd != 0 {
		c.s.loop.Remove(c.oom.fd)
		unix.Close(c.oom.fd)
		c.oom.fd = 0
	}
}

// struck writes the files by which engines know, and tells the machine if
// somebody was killed.
func (c *Container) struck(killed bool) {
	c.notes.info("OOM received")
	for _, dir := range []string{c.o.PersistDir, c.o.Bundle} {
		if dir == "" {
			continue
		}
		fd, err := open(dir+"/oom", unix.O_RDONLY|unix.O_CREAT, 0o666)
		if err != nil {
			c.notes.warn("Failed to write oom file to the " + dir + " path")
			continue
		}
		unix.Close(fd)
	}
	if killed {
		c.tell(lifecycle.Event{Kind: lifecycle.OOM})
	}
}
