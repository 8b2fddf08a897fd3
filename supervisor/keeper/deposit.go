package keeper

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Deposit gives descriptors to the keeper at the other end of conn, for the
// container with that state directory: names[i] is the name of fds[i]. The
// caller's own stay open.
func Deposit(conn int, dir string, names []string, fds []int) error {
	packet := strings.Join(append([]string{"hold", escape(dir)}, names...), " ")
	if len(fds) == 0 {
		return send(conn, packet, nil)
	}
	return send(conn, packet, unix.UnixRights(fds...))
}

// Drop has the keeper let go of one descriptor.
func Drop(conn int, name string) error { return send(conn, "drop "+name, nil) }

// Done has the keeper let go of everything.
func Done(conn int) error { return send(conn, "done", nil) }

func send(conn int, packet string, oob []byte) error {
	for {
		err := unix.Sendmsg(conn, []byte(packet), oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return err
		}
	}
}

// A path can hold the blank that stands between words. A strings.Replacer would
// keep 12 KiB of tables.
func escape(path string) string {
	return strings.ReplaceAll(strings.ReplaceAll(path, `\`, `\\`), " ", `\s`)
}

func unescape(word string) string {
	return strings.NewReplacer(`\\`, `\`, `\s`, " ").Replace(word)
}
