package monitor

import (
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/recovery"
)

// The state directory may be removed while the supervisor sleeps, as by an rm of all of
// /run/gracerun. One that is awake has open what it needs, and goes on; so one that
// sleeps has it open, too.

// Names of descriptors of the state directory and of files in it.
const (
	directoryName = "directory"
	journalName   = "journal"
	notesName     = "notes"
	originName    = "origin"
	recordName    = "record"
)

// ownFiles lists what is to be open while the supervisor sleeps. closeThem closes what
// was opened for that only.
func (c *Container) ownFiles() (files []held, closeThem func(), err error) {
	files = []held{{directoryName, c.dir.FD()}, {journalName, c.journal.FD()}, {notesName, c.memo.FD()}}
	kept := len(files)
	closeThem = func() {
		for _, f := range files[kept:] {
			unix.Close(f.fd)
		}
	}
	for _, f := range [...]struct{ name, file string }{{originName, recovery.OriginName}, {recordName, statedir.RecordName}} {
		fd, err := unix.Openat(c.dir.FD(), f.file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			closeThem()
			return nil, nil, &journal.Error{Op: "open", Name: f.file, Err: err}
		}
		files = append(files, held{f.name, fd})
	}
	return files, closeThem, nil
}

// remains are what one who wakes up, and finds its state directory removed, has of it.
type remains struct {
	dir            *statedir.Dir
	journal, notes int
	origin         *recovery.Origin
	record         *statedir.Record
}

// remains gives what is left of the state directory at that path if it was removed; nil
// if it was not, or nothing was open.
func (h *heritage) remains(path string) (*remains, error) {
	directory, origin, record := h.take(directoryName), h.take(originName), h.take(recordName)
	r := &remains{journal: h.take(journalName), notes: h.take(notesName)}
	if directory < 0 {
		return nil, nil
	}
	if isThere(path, directory) {
		for _, fd := range [...]int{directory, origin, record, r.journal, r.notes} {
			unix.Close(fd)
		}
		return nil, nil
	}
	text, err := readFile("/proc/self/fd/" + strconv.Itoa(origin))
	if err == nil {
		r.origin, err = recovery.ParseOrigin(text)
	}
	if err == nil {
		text, err = readFile("/proc/self/fd/" + strconv.Itoa(record))
	}
	if err == nil {
		r.record, err = statedir.ParseRecord(string(text))
	}
	unix.Close(origin)
	unix.Close(record)
	if err == nil {
		r.dir, err = statedir.Removed(directory, path)
	}
	return r, err
}

// isThere reports whether the state directory with that descriptor is still the one at
// the path, with all that a successor reads.
func isThere(path string, directory int) bool {
	var open, named unix.Stat_t
	if unix.Fstat(directory, &open) != nil || unix.Stat(path, &named) != nil || open.Ino != named.Ino || open.Dev != named.Dev {
		return false
	}
	for _, name := range [...]string{recovery.OriginName, recovery.NotesName, statedir.RecordName} {
		if unix.Faccessat(directory, name, unix.F_OK, 0) != nil {
			return false
		}
	}
	return unix.Faccessat(directory, journal.Name, unix.F_OK, 0) == nil || unix.Faccessat(directory, journal.OldName, unix.F_OK, 0) == nil
}

// openState opens the state directory at the path, or takes what is left of it.
func (h *heritage) openState(path string) (dir *statedir.Dir, left *remains, err error) {
	if left, err = h.remains(path); err != nil {
		return nil, nil, err
	}
	if left != nil {
		return left.dir, left, nil
	}
	if dir, err = statedir.OpenPath(path); err == runtime.ErrNotExist {
		return nil, nil, nil
	}
	return dir, nil, err
}

// What follows reads of a state directory that was not removed, which has no remains,
// what its files say.

func (r *remains) readOrigin(dir *statedir.Dir) (*recovery.Origin, error) {
	if r == nil {
		return recovery.ReadOrigin(dir)
	}
	return r.origin, nil
}

func (r *remains) readRecord(dir *statedir.Dir) (*statedir.Record, error) {
	if r == nil {
		return dir.ReadRecord()
	}
	return r.record, nil
}

func (r *remains) resume(dir int) (*journal.Writer, *lifecycle.Machine, error) {
	if r == nil {
		return journal.Resume(dir)
	}
	return journal.ResumeOpen(dir, r.journal)
}

func (r *remains) openNotes(dir int) (*recovery.Notes, error) {
	if r == nil {
		return recovery.OpenNotes(dir)
	}
	return recovery.UseNotes(r.notes)
}
