package monitor

import (
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/faults"
	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/oci"
	"gracerun.io/supervisor/settings"
)

// wrapped is the runtime behind a --runtime that is the gracerun beside this gracemon.
// What that would do for a create, an exec or a restore is little enough to do it here,
// and to start the wrapped runtime at once saves a process. Where anything is out of the
// ordinary gracerun is started as any runtime is, and has its say: this is a short way,
// and not another one.
type wrapped struct {
	node     *settings.Settings // nil: it is as if there were no short way
	spec     *bundle.Config
	program  string // that makes the container; "" unless the short way was taken
	warnings bool   // gracerun would have some
}

// shorten gives the command line that gracerun would come to in the end, or argv.
func (c *Container) shorten(argv []string) []string {
	if _, planned := unix.Getenv(faults.Variable); planned || !c.isGracerun() {
		return argv
	}
	g, n, whole := oci.ParseGlobals(c.o.RuntimeArgs)
	if !whole || n != len(c.o.RuntimeArgs) || g.Other != "" || !g.KnownFormat() {
		return argv
	}
	program := ""
	if c.o.Exec {
		if dir, err := oci.OpenState(g.Root, c.o.ID); err == nil {
			kept, _ := oci.ReadContainer(dir)
			program = kept.Maker()
			dir.Close()
		}
	}
	if program == "" {
		var err error
		if program, err = oci.Chosen(c.configured); err != nil {
			return argv
		}
	}
	if !c.o.Exec && c.o.Restore == "" {
		w := &c.wrapped
		if c.dir == nil || w.spec == nil || w.warnings || len(c.o.RuntimeOpts) > 0 ||
			g.Systemd || c.o.SystemdCgroup || !oci.IsPlain(program) {
			return argv
		}
		w.program = program
		c.keepState(true)
	}
	return append([]string{program}, argv[1:]...)
}

// isGracerun tells whether the runtime is the gracerun that is installed beside this
// program.
func (c *Container) isGracerun() bool {
	var beside, runtime unix.Stat_t
	dir := c.s.program[:strings.LastIndexByte(c.s.program, '/')+1]
	return dir != "" && unix.Stat(dir+"gracerun", &beside) == nil && unix.Stat(c.o.Runtime, &runtime) == nil &&
		beside.Dev == runtime.Dev && beside.Ino == runtime.Ino
}

// configured is the runtime of the configuration file.
func (c *Container) configured() string {
	if c.wrapped.node == nil {
		c.wrapped.node, _ = settings.Load()
	}
	return c.wrapped.node.Runtime
}

// adopt keeps what gracerun needs to know of the container that the wrapped runtime has
// made. Should that fail the first gracerun that needs it tries again.
func (c *Container) adopt() {
	w := &c.wrapped
	if w.program == "" {
		return
	}
	where, err := oci.Directory(w.program, c.o.RuntimeRoot(), c.o.ID)
	if err == nil {
		var status *oci.Status
		if status, err = oci.ReadStatus(where); err == nil {
			var kept *oci.Container
			if kept, err = oci.NewContainer(w.program, where, c.o.ID, status); err == nil {
				oci.AllowDirectStart(c.dir, kept, w.spec)
				err = oci.WriteContainer(c.dir, kept)
			}
		}
	}
	if err != nil {
		c.notes.warn("container " + c.o.ID + ": keep what is known of it: " + err.Error())
	}
	c.wrapped = wrapped{}
}
