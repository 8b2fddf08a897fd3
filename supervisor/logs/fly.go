package logs

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where much comes, the write to the log is made by a second thread. Meanwhile the next
// batch is taken from the pipe, which the container can fill again: three processes
// and threads for two processors, instead of two that wait for each other.
//
// The rest is as it always is. The intent is set, the output stays in the ring until
// the write has come back and is committed, and before anything else is done with the
// file (isBusy).

// flyFrom is how long a write must be to be worth a second thread: as much as is
// copied while one thread wakes the other.
const flyFrom = 64 << 10

// medium is what a log file is on.
type medium uint8

const (
	remote medium = iota // the kernel may have to ask somebody about a file
	disk                 // it knows the size of a file that is open
	memory               // and never waits for anything but memory
)

func mediumOf(fd int) medium {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil {
		return remote
	}
	switch uint32(fs.Type) {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return memory
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return disk
	}
	return remote
}

// fly begins to write what the log has not had of the stream, and does not wait for
// the end of that. It reports false, and has done nothing, if that is to be done in
// the usual way.
func (k *file) fly(s *Stream) bool {
	if k.medium == remote || k.fd < 0 || k.unsettled || k.trouble.cautious || k.l.options.Fault != nil || !s.spool.Goes() {
		return false
	}
	if unix.Fstat(k.fd, &k.stat) != nil || k.stat.Nlink == 0 {
		return false
	}
	dropped := k.l.cursor.Dropped(int(s.source), k.place)
	pos, before := s.pos(k.place), k.stat.Size
	data := s.view(pos, batch)
	if dropped > 0 || len(data) < flyFrom {
		return false
	}
	k.format.begin(time.Now(), s.source)
	out := k.out(before)
	made, used, why := k.format.records(out, data, false, k.room(before))
	if made < flyFrom || why == fileFull || why == totalFull {
		return false
	}
	k.begin(s, made, before, pos, pos+int64(used), 0)
	if !k.line.Launch(unix.SYS_WRITE, uintptr(k.fd), uintptr(unsafe.Pointer(&out[0])), uintptr(made), k.landed) {
		k.l.cursor.Abort(k.place)
		return false
	}
	k.rotated = false
	return true
}

// land takes note of how the write has ended.
func (k *file) land(n int, errno unix.Errno) {
	if errno == 0 && int64(n) == k.intent.Bytes {
		k.l.cursor.Commit(k.place)
		k.works()
		return
	}
	if errno != 0 && errno != unix.EINTR {
		k.failed(errno)
	} // else there is room for a part of it: what is wrong shows when it is written again
	if !k.line.Do(k.takeBack) {
		k.leftBehind()
	}
}
