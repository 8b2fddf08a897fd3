package monitor

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/aside"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/control"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

// exitFiles are those by which others hear of the container's end: one in --exit-dir,
// which they watch, and one in --persist-dir. The end is recorded when the first is
// written, or the second where it is the only one; that is tried until it works. A
// second one that cannot be written does not hold up the first.
type exitFiles struct {
	exit, persist exitFile
	failed        bool              // an exit that is to be recorded could not be, yet
	deleted       lifecycle.Instant // since when the container is; 0: it is not
}

// exitFile is one of them, which may be on a file system that does not answer.
type exitFile struct {
	line    aside.Line
	written bool
	errno   int32
}

// deletedPatience is how long an exit file is tried to be written whose container was
// deleted.
const deletedPatience = 600 * lifecycle.Second

// write gives 0 when the end is recorded, and else why not.
func (x *exitFiles) write(c *Container, text string) (errno int32) {
	if c.o.PersistDir != "" {
		errno = x.persist.write(c, c.o.PersistDir+"/exit", text, "container exit file")
	}
	if c.o.ExitDir != "" {
		errno = x.exit.write(c, c.o.ExitDir+"/"+c.o.ID, text, "exit file")
	}
	if errno != 0 && x.isInVain(c) {
		errno = 0
	}
	if x.failed = errno != 0; x.failed {
		c.server.grantDeletes()
	}
	return errno
}

// write gives the errno. If the directory is gone nobody waits for the file.
func (f *exitFile) write(c *Container, path, text, what string) int32 {
	switch {
	case f.written:
		return 0
	case f.line.Busy():
		return int32(unix.EINPROGRESS)
	}
	f.line.Loop = c.s.loop
	ended := f.line.Do(func() {
		var err error
		f.line.Call(func() { err = writeAtomically(path, text) })
		f.errno, f.written = 0, err == nil
		if err == nil {
			return
		}
		c.notes.warn("Failed to write " + text + " to " + what + ": container " + c.o.ID + ": " + path + ": " + cmdline.Text(err))
		if err == unix.ENOENT || err == unix.ENOTDIR {
			c.exitCode, f.written = 1, true
			return
		}
		f.errno = errnoOf(err)
	})
	if !ended {
		c.notes.warn("container " + c.o.ID + ": " + path + ": its file system does not answer")
		return int32(unix.EINPROGRESS)
	}
	return f.errno
}

// isInVain reports whether nobody will look for an exit file any more that could not
// be written: the container was deleted long ago, or there is another one of its id,
// which must not be taken for ended.
func (x *exitFiles) isInVain(c *Container) bool {
	if c.dir == nil {
		return false
	}
	var st unix.Stat_t
	if unix.Fstat(c.dir.FD(), &st) != nil || st.Nlink > 0 {
		return false
	}
	now := loop.Now()
	if x.deleted == 0 {
		x.deleted = now
	}
	if now < x.deleted.After(deletedPatience) && !c.isReplaced() {
		return false
	}
	text := "container " + c.o.ID + ": it was deleted before its exit file could be written: nobody is told of its end any more"
	c.notes.warn(text)
	if !c.notes.syslog {
		syslog(errorPriority, text)
	}
	return true
}

// grantDeletes lets those go on who wait to delete the container, which may make the
// room that its exit file needs.
func (s *server) grantDeletes() {
	for _, k := range append([]*caller(nil), s.callers...) { // one who has gone is taken out
		if k.request == 0 || k.verb != control.Delete {
			continue
		}
		s.c.tell(lifecycle.Event{Kind: lifecycle.Abandoned, Request: k.request})
		k.request = 0
		k.say(control.Reply{Answer: control.Granted})
	}
}
