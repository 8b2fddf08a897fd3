// Package scope gives the systemd scope of a container the properties that the
// annotations "org.systemd.property.NAME" ask for, whichever runtime creates the
// scope, and orders it so that systemd stops it before the scope of its monitor.
//
// A runtime sends the properties to systemd in one StartTransientUnit call, its
// own among them. crun 1.8.1 to 1.16.1 sends its own DefaultDependencies=no after
// the annotation's, and systemd takes the last (cri-o issue 8609). No later call can
// change dependencies that systemd has read. So they must be right from the start,
// without access to the runtime's call: by a drop-in file. systemd reads the drop-ins
// of a transient unit after the properties of the call, so that they win. It caches
// which files exist and looks again when a directory has changed (except
// systemd/transient, which is its own), but not for a transient unit: this package
// makes it look (see look). After the runtime's create it asks the bus for the scope's
// actual properties.
package scope

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
)

const annotationPrefix = "org.systemd.property."

// Scope is the unit that a runtime makes for a container.
type Scope struct {
	Unit     string // its name
	managers []manager
	asked    []property
}

// property is one that an annotation asks for.
type property struct {
	name  string // as on the bus
	value value
}

// manager is the systemd that may be asked to make the unit: the system's, or
// the user's.
type manager struct {
	units string // where it reads drop-ins from
	bus   []address
}

// Of returns the scope that the runtime will make with --systemd-cgroup for
// container id, cgroupsPath being linux.cgroupsPath of its configuration and
// isCrun which of the two ways of naming it has. It is nil if there is none, or if
// nothing is asked of it: then there is nothing to see to. Annotations
// whose value is of a type that crun does not know either are left alone. monitor
// is the unit that has the container's monitor (see Monitor), "" for none: it is to
// be stopped after the container's. getenv is os.Getenv or does as it does.
func Of(id, cgroupsPath string, isCrun bool, annotations runtime.Annotations, monitor string, getenv func(string) string) *Scope {
	s := &Scope{Unit: unitName(id, cgroupsPath, isCrun)}
	if s.Unit == "" {
		return nil
	}
	for _, a := range annotations {
		name, ok := strings.CutPrefix(a.Key, annotationPrefix)
		if !ok || !isName(name) {
			continue
		}
		if p, ok := parseProperty(name, a.Value); ok {
			s.asked = append(s.asked, p)
		}
	}
	if monitor != "" {
		s.asked = append(s.asked, property{"After", value{kind: 'a', list: []string{monitor}}})
	}
	if s.asked == nil {
		return nil
	}
	s.managers = managers(getenv)
	return s
}

// Monitor gives the scope that an engine has made for the monitor of a container,
// if the process with these cgroups, the text of /proc/PID/cgroup, is in one: Podman
// calls it libpod-conmon-ID.scope, CRI-O crio-conmon-ID.scope. "" means that it is not.
//
// It is in the slice of the container's scope. When the slice is stopped, at a
// logout or a shutdown, systemd stops both scopes at once unless one is to be
// after the other: the monitor passes TERM on to a container that has heard it
// already, and is killed after systemd's default timeout whatever the container has.
func Monitor(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		if controllers != "" && controllers != "name=systemd" {
			continue
		}
		unit := path[strings.LastIndexByte(path, '/')+1:]
		if strings.HasSuffix(unit, ".scope") && strings.Contains(unit, "-conmon-") && isUnitName(unit) {
			return unit
		}
	}
	return ""
}

// Named returns a scope that Of has given in another process, for its Remove; nil
// if there can be none of that name.
func Named(unit string, getenv func(string) string) *Scope {
	if !isUnitName(unit) {
		return nil
	}
	return &Scope{Unit: unit, managers: managers(getenv)}
}

// unitName does as crun (libcrun/cgroup-systemd.c, get_systemd_scope_and_slice)
// and runc (libcontainer/specconv/spec_linux.go, cgroups/systemd/common.go,
// getUnitName) do. "" means that it is no scope, or none with a sane name.
func unitName(id, cgroupsPath string, isCrun bool) string {
	var unit string
	_, name, ok := strings.Cut(cgroupsPath, ":")
	switch {
	case cgroupsPath == "" && isCrun:
		unit = "crun-" + id + ".scope"
	case cgroupsPath == "":
		unit = "runc-" + id + ".scope"
	case !ok && isCrun:
		unit = cgroupsPath + ".scope"
	case isCrun:
		unit = strings.Replace(name, ":", "-", 1) + ".scope"
	case strings.Count(cgroupsPath, ":") == 2 && !strings.HasSuffix(name, ".slice"):
		unit = strings.Replace(name, ":", "-", 1) + ".scope"
	}
	if !isUnitName(unit) {
		return ""
	}
	return unit
}

// isUnitName tells whether the text is a unit's name (systemd.unit(5)). It is a
// file's name, too, and goes into a file of settings.
func isUnitName(text string) bool {
	if text == "" || len(text) > 255 || text[0] == '.' {
		return false
	}
	for _, c := range []byte(text) {
		if !isAlphanumeric(c) && strings.IndexByte(":-_.\\@", c) < 0 {
			return false
		}
	}
	return true
}

func isName(text string) bool {
	for _, c := range []byte(text) {
		if !isAlphanumeric(c) {
			return false
		}
	}
	return text != ""
}

func isAlphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// managers gives those that a runtime may turn to: runc and newer crun choose by
// whether they are rootless; crun before 1.9 takes the user's whenever it can.
func managers(getenv func(string) string) []manager {
	var all []manager
	runtimeDir := getenv("XDG_RUNTIME_DIR")
	if session := getenv("DBUS_SESSION_BUS_ADDRESS"); runtimeDir != "" && runtimeDir[0] == '/' {
		if session == "" {
			session = "unix:path=" + runtimeDir + "/bus"
		}
		if isOwn(runtimeDir) && unix.Access(runtimeDir+"/systemd", unix.F_OK) == nil {
			all = append(all, manager{runtimeDir + "/systemd/user", addresses(session)})
		}
	}
	if unix.Geteuid() == 0 && unix.Access("/run/systemd/system", unix.W_OK) == nil {
		system := getenv("DBUS_SYSTEM_BUS_ADDRESS")
		if system == "" {
			system = "unix:path=/run/dbus/system_bus_socket"
		}
		all = append(all, manager{"/run/systemd/system", addresses(system)})
	}
	return all
}

// isOwn tells whether nobody but the caller decides what is in the directory. Who
// became root by su(1) has $XDG_RUNTIME_DIR of the user before: links there would lead
// root's writing anywhere, and a bus there need not answer.
func isOwn(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && int(st.Uid) == unix.Geteuid() && st.Mode&0o022 == 0
}

// dropIn is sorted after systemd's own, which are called 50-NAME.conf.
const dropIn = "90-gracerun.conf"

// dependencies are the properties of which a unit can have more than was asked.
var dependencies = []string{"After", "Before", "Wants", "Requires", "Requisite", "BindsTo", "PartOf", "Conflicts"}

func isDependency(name string) bool { return contains(dependencies, name) }

// isOfLoading tells whether systemd acts on the property when it loads a unit, and
// never again. A file can ask for these.
func isOfLoading(name string) bool {
	switch name {
	case "DefaultDependencies", "CollectMode", "TimeoutStopUSec":
		return true
	}
	return isDependency(name)
}

// needsDropIn: a runtime gets only dependencies wrong. The drop-in costs systemd
// a look through its directories at each create.
func (s *Scope) needsDropIn() bool {
	for _, p := range s.asked {
		if p.name == "DefaultDependencies" || isDependency(p.name) {
			return true
		}
	}
	return false
}

// dropInText asks in a file's words for all that is of loading (systemd.unit(5),
// systemd.scope(5)).
func (s *Scope) dropInText() string {
	unit := "# What the container's annotations ask, written by gracerun; gone when it is deleted.\n[Unit]\n"
	scope := ""
	for _, p := range s.asked {
		v := p.value
		switch {
		case p.name == "DefaultDependencies" && v.kind == 'b':
			unit += "DefaultDependencies=" + yesNo(v.number != 0) + "\n"
		case p.name == "CollectMode" && v.kind == 's' && isUnitName(v.text):
			unit += "CollectMode=" + v.text + "\n"
		case p.name == "TimeoutStopUSec" && isInteger(v.kind):
			scope = "[Scope]\nTimeoutStopSec=" + strconv.FormatUint(v.number, 10) + "us\n"
			if v.number == math.MaxUint64 {
				scope = "[Scope]\nTimeoutStopSec=infinity\n"
			}
		case isDependency(p.name):
			for _, other := range v.list {
				if isUnitName(other) {
					unit += p.name + "=" + other + "\n"
				}
			}
		}
	}
	return unit + scope
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Prepare is to be called before the runtime creates the container. Whatever
// becomes of that, Remove is to be called in the end.
func (s *Scope) Prepare() error {
	if !s.needsDropIn() {
		return nil
	}
	if err := s.writeDropIns(); err != nil {
		return err
	}
	for _, m := range s.managers {
		m.look()
	}
	return nil
}

// look makes systemd look which files there are, by asking for a unit that is not
// there: it searches for it in every directory that has changed since the last time
// (src/core/unit.c of systemd 252, manager_unit_cache_should_retry_load). Else the
// drop-in is seen only if the scope happens to refer to some unit that is not there.
//
// What goes wrong here is for Verify to find.
func (m manager) look() {
	c, err := dial(m.bus)
	if err != nil {
		return
	}
	defer c.close()
	_, _ = c.property("gracerun-is-not-there.service", "LoadState")
}

// isPrefix tells whether a drop-in of the unit would be for others, too: for all
// whose names begin so, up to a dash, or for the instances of a template
// (systemd.unit(5)).
func isPrefix(unit string) bool {
	stem := strings.TrimSuffix(unit, ".scope")
	return strings.HasSuffix(stem, "-") || strings.HasSuffix(stem, "@")
}

func (s *Scope) writeDropIns() error {
	if isPrefix(s.Unit) {
		return errors.New("no drop-in is written for " + s.Unit + ": it would be for every unit whose name begins so")
	}
	text := s.dropInText()
	for _, m := range s.managers {
		if err := m.write(s.Unit, text); err != nil {
			return errors.New("write a drop-in for " + s.Unit + " in " + m.units + ": " + err.Error())
		}
	}
	return nil
}

func (m manager) write(unit, text string) error {
	if err := unix.Mkdir(m.units, 0o755); err != nil && err != unix.EEXIST {
		return err
	}
	units, err := unix.Open(m.units, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(units)
	dir := unit + ".d"
	if err := unix.Mkdirat(units, dir, 0o755); err != nil && err != unix.EEXIST {
		return err
	}
	d, err := unix.Openat(units, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	// A name that systemd does not read until the file is whole.
	const unfinished = "." + dropIn
	f, err := unix.Openat(d, unfinished, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	n, err := unix.Write(f, []byte(text))
	unix.Close(f)
	if err == nil && n != len(text) {
		err = unix.ENOSPC
	}
	if err == nil {
		err = unix.Renameat(d, unfinished, d, dropIn)
	}
	if err != nil {
		return err
	}
	// systemd looks again into a directory when its time has changed. The kernel's
	// own stamp is as coarse as its tick: of two containers created in one, the
	// second could go unseen.
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, m.units, []unix.Timespec{now, now}, 0)
}

// Remove takes the drop-ins away. It is to be called when the unit is gone:
// daemon-reload reads a transient unit anew, and its drop-ins with it.
func (s *Scope) Remove() error {
	var failed error
	for _, m := range s.managers {
		dir := m.units + "/" + s.Unit + ".d"
		for _, name := range []string{dropIn, "." + dropIn} {
			if err := unix.Unlink(dir + "/" + name); err != nil && err != unix.ENOENT {
				failed = errors.New("remove " + dir + "/" + name + ": " + err.Error())
			}
		}
		// Others may have put theirs beside ours.
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT && err != unix.ENOTEMPTY && err != unix.EEXIST {
			failed = errors.New("remove " + dir + ": " + err.Error())
		}
	}
	return failed
}

// Deviation is that a scope does not have what the annotations ask, and could not
// be made to.
type Deviation struct {
	Unit  string
	Wrong []string // "NAME is VALUE, not VALUE"
}

func (d *Deviation) Error() string {
	return "scope " + d.Unit + " is not as its annotations ask: " + strings.Join(d.Wrong, ", ")
}

// Verify is to be called when the runtime has created the container. It asks
// systemd what the scope has. What is not as asked it tries to set right: by
// SetUnitProperties, and where systemd takes it only when it loads a unit, by
// having it load all its units anew (as daemon-reload does), with the drop-in.
//
// The error is a *Deviation if that did not help, and another if systemd could
// not be asked. repaired tells what was set right, "" if nothing had to be.
func (s *Scope) Verify() (repaired string, err error) {
	err = errors.New("no systemd to ask: neither the system's bus nor the user's")
	for _, m := range s.managers {
		var c *conn
		if c, err = dial(m.bus); err != nil {
			continue
		}
		var found bool
		found, repaired, err = s.verify(c)
		c.close()
		if found {
			return repaired, err
		}
		if err == nil {
			err = errors.New("systemd knows no such unit")
		}
	}
	return "", errors.New("check the properties of " + s.Unit + ": " + err.Error())
}

func (s *Scope) verify(c *conn) (found bool, repaired string, err error) {
	wrong, found, err := s.deviations(c)
	if !found || err != nil || len(wrong) == 0 {
		return found, "", err
	}
	var reload bool
	for _, d := range wrong {
		if isOfLoading(d.property.name) {
			reload = true
		} else {
			// An error shows in what the unit then has.
			_ = c.setProperty(s.Unit, d.property)
		}
	}
	if reload {
		if err := s.writeDropIns(); err != nil {
			return true, "", err
		}
		if err := c.reload(); err != nil {
			return true, "", errors.New("reload systemd: " + err.Error())
		}
	}
	left, found, err := s.deviations(c)
	if err != nil || !found {
		return true, "", err
	}
	if len(left) > 0 {
		return true, "", &Deviation{s.Unit, describe(left)}
	}
	return true, strings.Join(describe(wrong), ", "), nil
}

// deviation is a property that is not as asked.
type deviation struct {
	property property
	has      value
}

func describe(deviations []deviation) []string {
	var all []string
	for _, d := range deviations {
		all = append(all, d.property.name+" was "+d.has.String()+", not "+d.property.value.String())
	}
	return all
}

func (s *Scope) deviations(c *conn) (wrong []deviation, found bool, err error) {
	state, err := c.property(s.Unit, "LoadState")
	if err != nil || state.text == "not-found" {
		return nil, false, err
	}
	for _, p := range s.asked {
		has, err := c.property(s.Unit, p.name)
		if err != nil {
			if _, ok := err.(*busError); ok {
				continue // it can be set, but not asked for; or systemd has no such property, and refused the create
			}
			return nil, true, err
		}
		if !p.value.isIn(has, isDependency(p.name)) {
			wrong = append(wrong, deviation{p, has})
		}
	}
	return wrong, true, nil
}
