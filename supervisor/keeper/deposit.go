package keeper

import (
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
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

// Await waits until the keeper, if one keeps anything for the container whose
// supervisor is dead, has found it a successor; at most for so many milliseconds.
// That one has all that was deposited: another would go without.
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

// A path can hold the blank that stands between words. A strings.Replacer would
// keep 12 KiB of tables.
func escape(path string) string {
	return strings.ReplaceAll(strings.ReplaceAll(path, `\`, `\\`), " ", `\s`)
}

func unescape(word string) string {
	return strings.NewReplacer(`\\`, `\`, `\s`, " ").Replace(word)
}
