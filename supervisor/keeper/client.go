package keeper

import (
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
)

// Store stores descriptors with the keeper at the other end of conn, for the container
// with that state directory: names[i] is the name of fds[i]. The caller's copies stay
// open. The error is a unix.Errno of sendmsg(2).
func Store(conn int, dir string, names []string, fds []int) error {
	packet := strings.Join(append([]string{"hold", escape(dir)}, names...), " ")
	if len(fds) == 0 {
		return send(conn, packet, nil)
	}
	return send(conn, packet, unix.UnixRights(fds...))
}

// Remove removes a descriptor from the store.
func Remove(conn int, name string) error { return send(conn, "drop "+name, nil) }

// Done removes all of them: the container needs no successor any more.
func Done(conn int) error { return send(conn, "done", nil) }

// Await waits, at most limit milliseconds, for the successor that a keeper starts for
// the container. It returns at once if no keeper holds descriptors for it. A successor
// that the caller started itself would not have them.
func Await(dir string, limit int) {
	base, err := statedir.Base()
	if err != nil {
		return
	}
	for nth := range MostKeepers {
		path, err := Socket(base, nth)
		if err != nil {
			return
		}
		conn, err := dial(path)
		if err != nil {
			continue
		}
		if send(conn, "await "+escape(dir), nil) == nil {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(conn), Events: unix.POLLIN}}, limit)
		}
		unix.Close(conn)
	}
}

func send(conn int, packet string, oob []byte) error {
	for {
		err := unix.Sendmsg(conn, []byte(packet), oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return err
		}
	}
}

// escape escapes blanks in a path, since blanks separate the words. A
// strings.Replacer would keep 12 KiB of tables.
func escape(path string) string {
	return strings.ReplaceAll(strings.ReplaceAll(path, `\`, `\\`), " ", `\s`)
}

func unescape(word string) string {
	return strings.NewReplacer(`\\`, `\`, `\s`, " ").Replace(word)
}
