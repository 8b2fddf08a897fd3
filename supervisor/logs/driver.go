package logs

import (
	"slices"
	"strings"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs/spool"
)

// drivers are all log drivers. A new one goes to the end of those that keep
// anything: their order is that of their places in the cursor, which may have been
// written by a supervisor of another version.
var drivers = [...]*driver{&k8sFileDriver, &journaldDriver, &jsonFileDriver, &passthroughDriver, &noneDriver}

// driver is one kind of log.
type driver struct {
	names []string // in --log-path; the first is that of messages
	file  bool     // it writes to a file, whose path is in --log-path
	tags  bool     // --log-tag and --log-label are in its log

	passthrough bool // the container has the caller's own stdin, stdout and stderr

	// check finds an option that does not go together with the driver, and says so in
	// conmon's words; nil if all do.
	check func(o *Options) (problem string)

	// make makes a log; nil: the driver keeps nothing of the output. The place is that
	// of the log in the cursor.
	make func(l *Logs, place int, path string) log
}

func (d *driver) name() string { return d.names[0] }

// DriverNames are the names of all drivers, with commas between them.
func DriverNames() string {
	names := make([]string, len(drivers))
	for i, d := range drivers {
		names[i] = d.name()
	}
	return strings.Join(names, ", ")
}

// log is one log of a container.
type log interface {
	// open opens the log of a new container. An error keeps the container from being
	// made; it has conmon's words.
	open() error

	// resume opens a log that a predecessor had open, and settles a write that it had
	// begun. A log that cannot be opened now is in trouble.
	resume()

	// advance writes what the log has not had of the stream, if it is not in trouble.
	// flush says that no more is there at present, finish that none will ever come.
	advance(s *Stream, flush, finish bool)

	// retry ends a trouble, if one is due to be tried again, and reports whether it has
	// tried. What is left of the output is written by advance.
	retry(now lifecycle.Instant) (tried bool)

	// isSlow reports whether the log takes the output, but less than there is: the
	// container waits when the spool is full.
	isSlow() bool

	// isLate reports whether the exit is to wait for the log. left says whether there
	// is output that it has not had.
	isLate(left bool) bool

	// hangs is since when a call of the kernel has not come back; 0: none is under way.
	hangs() lifecycle.Instant

	// isKept reports whether a successor can go on with the log at any time.
	isKept() bool

	// keep opens the log once more, so that its reader does not see its end when this
	// process ends; -1 if that makes no difference.
	keep() int

	// reopen is the reopen of the ctl FIFO.
	reopen()

	// sync has the content written to its disk.
	sync()

	// idle gives memory back that a quiet container does not need.
	idle()

	// close gives all back.
	close()
}

// noFile is what a log has to do with files that is none.
type noFile struct{}

func (noFile) open() error              { return nil }
func (noFile) resume()                  {}
func (noFile) hangs() lifecycle.Instant { return 0 }
func (noFile) isKept() bool             { return true }
func (noFile) keep() int                { return -1 }
func (noFile) reopen()                  {}
func (noFile) sync()                    {}
func (noFile) idle()                    {}

// Target is one log that is asked for.
type Target struct {
	Driver string // the name of its driver
	Path   string // of its file
}

// ParsePaths reads all --log-path: DRIVER, DRIVER:PATH, PATH or :PATH. Of several of
// one driver the last one counts. The problem has conmon's words; "" is none.
//
// conmon cuts a path at a colon in it; here the path is all that follows the first
// one.
func ParsePaths(texts []string) (targets []Target, problem string) {
	var asked [len(drivers)]*Target
	for _, text := range texts {
		i, path, problem := parsePath(text)
		if problem != "" {
			return nil, problem
		}
		asked[i] = &Target{drivers[i].name(), path}
	}
	for _, target := range asked {
		if target == nil {
			continue
		}
		for _, other := range targets {
			if target.Path != "" && target.Path == other.Path {
				return nil, other.Driver + " and " + target.Driver + " cannot both log to " + target.Path
			}
		}
		targets = append(targets, *target)
	}
	return targets, ""
}

func parsePath(text string) (i int, path, problem string) {
	name, path, hasColon := strings.Cut(text, ":")
	for hasColon && strings.HasPrefix(path, ":") {
		path = path[1:]
	}
	if name == "" { // ":none" is a file
		if path == "" {
			return 0, "", "log-path must not be empty"
		}
		return defaultDriver, path, ""
	}
	i = findDriver(name)
	switch {
	case i < 0 && hasColon:
		return 0, "", "No such log driver " + name
	case i < 0:
		return defaultDriver, name, ""
	case !drivers[i].file:
		return i, "", ""
	case path == "":
		return 0, "", drivers[i].name() + " requires a filename"
	}
	return i, path, ""
}

// defaultDriver is the one of a path alone, as conmon has it.
const defaultDriver = 0

// findDriver gives -1 if there is none of that name.
func findDriver(name string) int {
	return slices.IndexFunc(drivers[:], func(d *driver) bool { return slices.Contains(d.names, name) })
}

// Check finds what does not go together in the options, and says so in conmon's
// words; "" if all does. It looks at nothing but the options.
func (o *Options) Check() (problem string) {
	for _, target := range o.Targets {
		d := drivers[findDriver(target.Driver)]
		switch tagged := d.tags || !d.file || o.takesTags(); {
		case !tagged && o.Tag != "":
			return d.name() + " doesn't support --log-tag"
		case !tagged && o.Labels != nil:
			return d.name() + " doesn't support --log-label"
		}
		if d.check != nil {
			if problem := d.check(o); problem != "" {
				return problem
			}
		}
	}
	return ""
}

// MarksParts reports whether a log marks what is a part of a line, so that
// NoPartialMessage has an effect.
func (o *Options) MarksParts() bool { return o.has(&journaldDriver) }

func (o *Options) has(d *driver) bool {
	return slices.ContainsFunc(o.Targets, func(t Target) bool { return t.Driver == d.name() })
}

// takesTags reports whether there is a log for --log-tag and --log-label.
func (o *Options) takesTags() bool {
	return slices.ContainsFunc(o.Targets, func(t Target) bool { return drivers[findDriver(t.Driver)].tags })
}

// checkLabels is conmon's check of all --log-label, but for the letters of a name.
func checkLabels(o *Options) (problem string) {
	for _, label := range o.Labels {
		switch {
		case strings.HasPrefix(label, "="):
			return "Container labels must be in format LABEL=VALUE (no LABEL present in '" + label + "')"
		case strings.Count(label, "=") != 1:
			return "Container labels must be in format LABEL=VALUE (none or more than one '=' present in '" + label + "')"
		}
	}
	return ""
}

// placed is a log and its place in the cursor.
type placed struct {
	log
	place int
}

// makeLogs makes what the options ask for.
func (l *Logs) makeLogs() {
	place := 0
	for _, d := range drivers {
		if d.make == nil {
			l.passthrough = l.passthrough || d.passthrough && l.options.has(d)
			continue
		}
		for _, target := range l.options.Targets {
			if target.Driver == d.name() {
				l.logs = append(l.logs, placed{d.make(l, place, target.Path), place})
			}
		}
		place++
	}
}

// at gives the log that has the place; nil if none has.
func (l *Logs) at(place int) log {
	for _, p := range l.logs {
		if p.place == place {
			return p.log
		}
	}
	return nil
}

// abortUnused forgets writes of logs that there are no more.
func (l *Logs) abortUnused() {
	for place := range spool.Logs {
		if l.at(place) == nil {
			l.cursor.Abort(place)
		}
	}
}
