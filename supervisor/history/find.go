package history

import (
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/wholefile"
	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/journal"
)

// NameFile is the file in a state directory with what the manager calls the
// container: conmon's --name. Podman writes the name into no annotation.
const NameFile = "name"

// CursorFile is the file in a state directory that has the log's totals
// (spool.ReadTotals): a page, which is kept as it is.
const CursorFile = "cursor"

// Container is a container that is there, or was.
type Container struct {
	ID     string
	Path   string           // of its directory
	Record *statedir.Record // nil if it cannot be read
	Name   string           // --name of its monitor, "" if not known
	Gone   bool             // its state directory was removed
	Last   time.Time        // the last step of its machine
}

// List gives the containers under a state base: those that are there first, each
// kind from the oldest to the newest.
func List(base string) ([]Container, error) {
	var all []Container
	keys, err := entries(unix.AT_FDCWD, base)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, &statedir.Error{Op: "list", Path: base, Err: err}
	}
	for _, key := range keys {
		if strings.HasPrefix(key, ".") {
			continue
		}
		ids, _ := entries(unix.AT_FDCWD, base+"/"+key) // it is removed, or no directory
		for _, id := range ids {
			if statedir.ValidateID(id) == nil {
				if c, ok := read(base+"/"+key+"/"+id, id); ok {
					all = append(all, c)
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Container) int { return a.Last.Compare(b.Last) })
	top, err := openEnded(base, false)
	if err != nil {
		return all, nil // nothing was kept
	}
	defer unix.Close(top)
	gone, err := names(top)
	if err != nil {
		return all, &statedir.Error{Op: "list", Path: base + "/" + Dir, Err: err}
	}
	for _, e := range gone {
		if c, ok := read(base+"/"+Dir+"/"+e.name(), e.id); ok {
			c.Gone = true
			all = append(all, c)
		}
	}
	return all, nil
}

// Read reads what there is of the container with that directory, BASE/KEY/ID. ok is
// false if there is no such directory.
func Read(path string) (c Container, ok bool) {
	_, id := cutLast(path)
	return read(path, id)
}

// read reads what there is of a container. ok is false if it was removed meanwhile.
func read(path, id string) (c Container, ok bool) {
	c = Container{ID: id, Path: path}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return c, false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstatat(fd, journal.Name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil || unix.Fstat(fd, &st) == nil {
		c.Last = time.Unix(st.Mtim.Unix())
	}
	if text, err := wholefile.Read(fd, statedir.RecordName, wholefile.NoFollow, maxFileMiB); err == nil {
		if r, err := statedir.ParseRecord(string(text)); err == nil && r.ID == id {
			c.Record = r
		}
	}
	if text, err := wholefile.Read(fd, NameFile, wholefile.NoFollow, maxFileMiB); err == nil {
		c.Name = strings.TrimSuffix(string(text), "\n")
	}
	return c, true
}

// entries gives the names in a directory, whose path is taken from the directory
// with the descriptor at (openat(2)).
func entries(at int, path string) (all []string, err error) {
	fd, err := unix.Openat(at, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var buf [8192]byte
	for {
		n, err := unix.ReadDirent(fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return all, err
		}
		_, _, all = unix.ParseDirent(buf[:n], -1, all)
	}
}

// Deleted gives the time at which the state directory of a container that is gone was
// removed, the zero time of one that is there. No two of a state base have the same
// but by two deletions in one microsecond.
func (c *Container) Deleted() time.Time {
	_, name := cutLast(c.Path)
	e, ok := parseEntry(name)
	if !c.Gone || !ok {
		return time.Time{}
	}
	return time.UnixMicro(e.at)
}

// Annotations in which managers write what a container is called.
var (
	containerNames = [...]string{"io.kubernetes.container.name", "io.kubernetes.cri.container-name"}
	podNames       = [...]string{"io.kubernetes.pod.name", "io.kubernetes.cri.sandbox-name"}
	namespaceNames = [...]string{"io.kubernetes.pod.namespace", "io.kubernetes.cri.sandbox-namespace"}
)

// Pod is where a container is in Kubernetes, as its manager has noted it; names that
// it has not are "".
type Pod struct{ Namespace, Name, Container string }

// Pod reads it from the annotations of CRI-O or containerd.
func (c *Container) Pod() (p Pod) {
	if c.Record != nil {
		p.Namespace = first(c.Record.Annotations, namespaceNames[:])
		p.Name = first(c.Record.Annotations, podNames[:])
		p.Container = first(c.Record.Annotations, containerNames[:])
	}
	return p
}

// Called gives what people may call the container, beside its id: the manager's
// name; of a pod's container CONTAINER, POD/CONTAINER and NAMESPACE/POD/CONTAINER.
func (c *Container) Called() (names []string) {
	if c.Name != "" {
		names = append(names, c.Name)
	}
	p := c.Pod()
	if p.Container == "" {
		return names
	}
	names = append(names, p.Container)
	if p.Name == "" {
		return names
	}
	names = append(names, p.Name+"/"+p.Container)
	if p.Namespace == "" {
		return names
	}
	return append(names, p.Namespace+"/"+p.Name+"/"+p.Container)
}

func first(all runtime.Annotations, keys []string) string {
	for _, key := range keys {
		if value, ok := all.Get(key); ok && value != "" {
			return value
		}
	}
	return ""
}

// maxFileMiB bounds the files that are read, as statedir bounds them.
const maxFileMiB = 8

// minPrefix is the shortest text that is taken for the beginning of an id.
const minPrefix = 3

// Find gives the container that is meant by an id, a name, or the beginning of an
// id, in this order. One that is there goes before those that are gone; of those
// the last counts. The error is runtime.ErrNotExist, or says which containers the
// text could mean.
func Find(all []Container, text string) (*Container, error) {
	if c, err := find(all, text, func(c *Container) bool { return c.ID == text }); c != nil || err != nil {
		return c, err
	}
	if c, err := find(all, text, func(c *Container) bool { return slices.Contains(c.Called(), text) }); c != nil || err != nil {
		return c, err
	}
	if len(text) < minPrefix {
		return nil, runtime.ErrNotExist
	}
	begins := func(c *Container) bool { return strings.HasPrefix(c.ID, text) }
	c, err := find(all, text, begins)
	if c != nil && c.Gone {
		for i := range all {
			if begins(&all[i]) && all[i].ID != c.ID {
				return nil, ambiguous(text, all, begins)
			}
		}
	}
	if c == nil && err == nil {
		err = runtime.ErrNotExist
	}
	return c, err
}

// find gives nil without an error if nothing matches.
func find(all []Container, text string, match func(*Container) bool) (found *Container, err error) {
	for i := range all {
		switch c := &all[i]; {
		case !match(c), c.Gone && found != nil && !found.Gone:
		case found != nil && !c.Gone:
			return nil, ambiguous(text, all, func(c *Container) bool { return !c.Gone && match(c) })
		default:
			found = c
		}
	}
	return found, nil
}

func ambiguous(text string, all []Container, match func(*Container) bool) error {
	message := text + " can mean several containers:"
	for i := range all {
		if c := &all[i]; match(c) {
			message += "\n  " + strings.Join(append([]string{c.Path}, c.Called()...), " ")
		}
	}
	return errors.New(message)
}
