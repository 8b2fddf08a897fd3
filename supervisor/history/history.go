// Package history keeps the journals of deleted containers, so that their stops can
// be examined, and finds containers, present and deleted, by id, prefix or name.
//
// A kept container is a directory BASE/.ended/NAME with hard links to files of its
// state directory, so that nothing is copied: "container" (the record), "journal",
// "journal.old", "journal.beside", "name" and "cursor" (the log's totals). NAME is
// SIZE-TIME-ID, with the bytes of the files and the time in microseconds, so that the
// names alone tell which containers to remove for the newest to have room.
//
// `gracerun kill` and the resident supervisor pay for every import of this
// package: it keeps away from os and fmt.
package history

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/journal"
)

// Limits says how much is kept under one state base. The oldest go first.
type Limits struct {
	Containers int   // 0: nothing is kept
	Bytes      int64 // of all their files
}

// Dir is the directory of those that are gone, below the state base. No runtime
// root can have its name: a leading dot is escaped there.
const Dir = ".ended"

// kept are the files that tell the story of a container.
var kept = [...]string{statedir.RecordName, journal.Name, journal.OldName, journal.ForkName, NameFile, CursorFile}

// Retire removes the state directory of a container, and keeps what it tells. That
// it could not be kept is a warning; the directory is removed all the same. One
// that dies in between leaves both to the next.
func Retire(dir *statedir.Dir, l Limits) (warning, err error) {
	return keep(dir, l), dir.Remove()
}

func keep(dir *statedir.Dir, l Limits) error {
	if l.Containers <= 0 || l.Bytes <= 0 {
		return nil
	}
	key, id := cutLast(dir.Path())
	base, _ := cutLast(key)
	top, err := openEnded(base, true)
	if err != nil {
		return errors.New("keep the journal of container " + id + ": " + err.Error())
	}
	defer unix.Close(top)
	size := int64(0)
	for _, file := range kept {
		var st unix.Stat_t
		if unix.Fstatat(dir.FD(), file, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			size += st.Size
		}
	}
	all, err := names(top)
	if err == nil && size > 0 && !isKept(top, all, dir, id) {
		e := entry{size: size, at: time.Now().UnixMicro(), id: id}
		for err = link(top, dir, e.name()); err == unix.EEXIST; err = link(top, dir, e.name()) {
			e.at++ // another one of that id, under another root
		}
		if err == nil {
			all = append(all, e)
		}
	}
	if err != nil {
		return errors.New("keep the journal of container " + id + " in " + base + "/" + Dir + ": " + err.Error())
	}
	prune(top, all, l)
	return nil
}

// cutLast takes the last name off a path.
func cutLast(path string) (above, name string) {
	slash := strings.LastIndexByte(path, '/') // there is one: a state directory is BASE/KEY/ID
	return path[:slash], path[slash+1:]
}

// entry is the name of a directory, taken apart.
type entry struct {
	size, at int64
	id       string
}

func (e entry) name() string {
	return strconv.FormatInt(e.size, 10) + "-" + strconv.FormatInt(e.at, 10) + "-" + e.id
}

func parseEntry(name string) (e entry, ok bool) {
	size, rest, _ := strings.Cut(name, "-")
	at, id, found := strings.Cut(rest, "-")
	var bad error
	if e.size, bad = strconv.ParseInt(size, 10, 64); bad != nil {
		return e, false
	}
	if e.at, bad = strconv.ParseInt(at, 10, 64); bad != nil {
		return e, false
	}
	e.id = id
	return e, found && e.name() == name && statedir.ValidateID(id) == nil
}

func openEnded(base string, create bool) (int, error) {
	path := base + "/" + Dir
	if create {
		if err := unix.Mkdir(path, 0o700); err != nil && err != unix.EEXIST {
			return -1, errors.New("create " + path + ": " + err.Error())
		}
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &statedir.Error{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// names gives the entries, oldest first. What else is in the directory is nobody's
// business.
func names(top int) (all []entry, err error) {
	found, err := entries(top, ".")
	for _, name := range found {
		if e, ok := parseEntry(name); ok {
			all = append(all, e)
		}
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b entry) int { return int(max(-1, min(1, a.at-b.at))) })
	return all, nil
}

// isKept reports whether the container was kept before, by somebody who died
// before its state directory was removed. The journal is the same file then; a file
// that has a link has its number for itself.
func isKept(top int, all []entry, dir *statedir.Dir, id string) bool {
	var mine, theirs unix.Stat_t
	if unix.Fstatat(dir.FD(), journal.Name, &mine, unix.AT_SYMLINK_NOFOLLOW) != nil || mine.Nlink < 2 {
		return false
	}
	for _, e := range all {
		if e.id == id && unix.Fstatat(top, e.name()+"/"+journal.Name, &theirs, unix.AT_SYMLINK_NOFOLLOW) == nil &&
			theirs.Ino == mine.Ino && theirs.Dev == mine.Dev {
			return true
		}
	}
	return false
}

// link makes the entry. Whoever lists entries meanwhile may find it without some
// of its files.
func link(top int, dir *statedir.Dir, name string) error {
	if err := unix.Mkdirat(top, name, 0o700); err != nil {
		return err
	}
	for _, file := range kept {
		if err := unix.Linkat(dir.FD(), file, top, name+"/"+file, 0); err != nil && err != unix.ENOENT {
			remove(top, name)
			return err
		}
	}
	return nil
}

// prune removes the oldest until the rest is within the limits. The newest stays
// however large it is. What another one removes at the same time is gone all the same.
func prune(top int, all []entry, l Limits) {
	var sum int64
	for _, e := range all {
		sum += e.size
	}
	for i := 0; i < len(all)-1 && (len(all)-i > l.Containers || sum > l.Bytes); i++ {
		remove(top, all[i].name())
		sum -= all[i].size
	}
}

func remove(top int, name string) {
	for _, file := range kept {
		_ = unix.Unlinkat(top, name+"/"+file, 0)
	}
	_ = unix.Unlinkat(top, name, unix.AT_REMOVEDIR)
}
