package oci

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"

	"gracerun.io/runtime"
	"gracerun.io/runtime/cgroup"
	"gracerun.io/runtime/internal/jsontext"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals/process"
)

// Container is what gracerun keeps of a container of the wrapped runtime, so that
// `state` and `kill` need neither the runtime nor its files.
type Container struct {
	Program string // the runtime's path
	Dir     string // ROOT/ID of the runtime
	Style   Style
	Cgroup  cgroup.Cgroup
	Init    process.Identity

	// state is what the runtime's `state` prints, with a zero byte where the
	// pid stands, and one for the status.
	state []byte
}

// containerFile is its name in the state directory.
const containerFile = "runtime"

const containerVersion = "version=1"

// NewContainer makes it from the runtime's own files. id is the container's; dir
// must be absolute.
func NewContainer(program, dir, id string, s *Status) (*Container, error) {
	c := &Container{Program: program, Dir: dir, Style: s.Style, Cgroup: s.Cgroup}
	c.Init = process.Identity{Pid: s.Pid, StartTime: s.StartTime}
	// The number may be another process's by now: the start time decides, and
	// from here on the inode of the pidfd can.
	p, init, err := process.Complete(c.Init)
	switch {
	case err == nil:
		c.Init = init
		p.Close()
	case errors.Is(err, process.ErrGone), errors.Is(err, process.ErrReused):
		// It has ended already; this identity fits nobody.
	default:
		return nil, err
	}
	if s.Style == Crun {
		c.state = crunState(id, s)
	} else {
		c.state = runcStateText(id, s)
	}
	return c, nil
}

// hole stands for a value that changes. JSON has no zero bytes.
const hole = "\x00"

// crunState is what libcrun_container_state prints.
func crunState(id string, s *Status) []byte {
	w := writer{indent: "    "}
	w.text("ociVersion", s.OCIVersion)
	w.text("id", id)
	w.raw("pid", hole)
	w.raw("status", `"`+hole+`"`)
	w.text("bundle", s.Bundle)
	w.text("rootfs", s.Rootfs)
	w.text("created", s.Created)
	w.text("systemd-scope", s.Scope)
	if s.Owner != "" {
		w.text("owner", s.Owner)
	}
	if len(s.Annotations) > 0 {
		w.annotations(s.Annotations)
	}
	return append(w.end(), "\n\n"...)
}

// runcStateText is what runc's state.go prints: containerState of list.go by way
// of json.MarshalIndent.
func runcStateText(id string, s *Status) []byte {
	w := writer{indent: "  ", html: true}
	w.text("ociVersion", s.OCIVersion)
	w.text("id", id)
	w.raw("pid", hole)
	w.raw("status", `"`+hole+`"`)
	w.text("bundle", s.Bundle)
	w.text("rootfs", s.Rootfs)
	w.text("created", s.Created)
	if len(s.Annotations) > 0 {
		// A Go map: the last of equal keys counts, and they are sorted.
		sorted := slices.Clone(s.Annotations)
		slices.Reverse(sorted)
		slices.SortStableFunc(sorted, func(a, b runtime.Annotation) int { return strings.Compare(a.Key, b.Key) })
		w.annotations(slices.CompactFunc(sorted, func(a, b runtime.Annotation) bool { return a.Key == b.Key }))
	}
	w.text("owner", "")
	return w.end()
}

type writer struct {
	indent string
	html   bool
	b      []byte
	depth  int
}

func (w *writer) key(name string) {
	if len(w.b) == 0 {
		w.b, w.depth = append(w.b, '{'), 1
	} else if w.b[len(w.b)-1] != '{' {
		w.b = append(w.b, ',')
	}
	w.line()
	w.b = jsontext.AppendString(w.b, name, w.html)
	w.b = append(w.b, ": "...)
}

func (w *writer) line() {
	w.b = append(w.b, '\n')
	for range w.depth {
		w.b = append(w.b, w.indent...)
	}
}

func (w *writer) raw(name, value string) {
	w.key(name)
	w.b = append(w.b, value...)
}

func (w *writer) text(name, value string) {
	w.key(name)
	w.b = jsontext.AppendString(w.b, value, w.html)
}

func (w *writer) annotations(list runtime.Annotations) {
	w.key("annotations")
	w.b = append(w.b, '{')
	w.depth++
	for _, a := range list {
		w.text(a.Key, a.Value)
	}
	w.depth--
	w.line()
	w.b = append(w.b, '}')
}

func (w *writer) end() []byte { return append(w.b, "\n}"...) }

// State gives what the runtime's `state` would print of the container in that
// status: one of created, running, paused and stopped. A stopped container has no
// pid.
func (c *Container) State(status string, pid int) []byte {
	if status == "stopped" {
		pid = 0
	}
	before, rest, _ := bytes.Cut(c.state, []byte(hole))
	between, after, _ := bytes.Cut(rest, []byte(hole))
	text := make([]byte, 0, len(c.state)+24)
	text = strconv.AppendInt(append(text, before...), int64(pid), 10)
	return append(append(append(text, between...), status...), after...)
}

// Look finds out the status of the container whose init has that pidfd, or is
// gone (alive is false), as the runtime does: by whether init lives, the cgroup
// is frozen and the exec FIFO is there.
func (c *Container) Look(alive bool) (status string, err error) {
	if !alive {
		return "stopped", nil
	}
	created := c.Created()
	if c.Style == Crun && created {
		return "created", nil // crun does not ask whether it is frozen as well
	}
	frozen, err := c.Cgroup.Frozen()
	switch {
	case err != nil:
		return "", err
	case frozen:
		return "paused", nil
	case created:
		return "created", nil
	}
	return "running", nil
}

// Created tells whether the container waits to be started, if it lives.
func (c *Container) Created() bool { return exists(c.FIFO()) }

// FIFO is what its init waits at for the start.
func (c *Container) FIFO() string { return c.Dir + "/" + execFifo }

// Known tells whether the runtime still knows the container.
func (c *Container) Known() bool { return exists(c.Dir) }

// WriteContainer keeps it in the state directory.
func WriteContainer(d *statedir.Dir, c *Container) error {
	b := []byte(containerVersion + "\n")
	line := func(key, value string) { b = append(append(append(append(b, key...), '='), value...), '\n') }
	line("program", c.Program)
	line("directory", c.Dir)
	line("style", styleNames[c.Style])
	line("init", c.Init.String())
	if c.Cgroup.V1 {
		line("freezer", c.Cgroup.Dir)
	} else {
		line("cgroup", c.Cgroup.Dir)
	}
	if bytes.Count(b, []byte("\n")) != 6 {
		return errors.New("a path of the runtime has a newline in it")
	}
	return d.WriteFile(containerFile, append(append(b, '\n'), c.state...))
}

var styleNames = [...]string{Runc: "runc", Crun: "crun"}

// ReadContainer reads what WriteContainer has written. The error wraps
// unix.ENOENT if nothing was: nobody has needed it yet.
func ReadContainer(d *statedir.Dir) (*Container, error) {
	data, err := d.ReadFile(containerFile)
	if err != nil {
		return nil, err
	}
	head, state, ok := bytes.Cut(data, []byte("\n\n"))
	version, lines, _ := strings.Cut(string(head), "\n")
	c := &Container{state: state}
	ok = ok && version == containerVersion && bytes.Count(state, []byte(hole)) == 2
	for line := range strings.SplitSeq(lines, "\n") {
		ok = ok && c.set(line)
	}
	if !ok || c.Init.Pid == 0 || c.Dir == "" || c.Program == "" {
		return nil, &statedir.Error{Op: "read", Path: d.Path() + "/" + containerFile, Err: errors.New("is not what this version writes")}
	}
	return c, nil
}

func (c *Container) set(line string) bool {
	key, value, _ := strings.Cut(line, "=")
	switch key {
	case "program":
		c.Program = value
	case "directory":
		c.Dir = value
	case "style":
		i := slices.Index(styleNames[:], value)
		c.Style = Style(i)
		return i >= 0
	case "init":
		var err error
		c.Init, err = process.ParseIdentity(value)
		return err == nil
	case "cgroup":
		c.Cgroup = cgroup.Cgroup{Dir: value}
	case "freezer":
		c.Cgroup = cgroup.Cgroup{Dir: value, V1: true}
	default:
		return false
	}
	return true
}
