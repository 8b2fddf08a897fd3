package keeper

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A keeper may have so many descriptors as the caller of the first container could
// (RLIMIT_NOFILE): what the kernel cannot give it with a packet is lost. So it raises
// its limit as far as it may, counts, and refuses a deposit that it may have no room
// for. Who is refused asks the next keeper (Connect), or starts it.

// LimitVariable tells `gracemon --recover` the limit that the dead supervisor had,
// which its successor is to have: "SOFT:HARD".
const LimitVariable = "_GRACEMON_NOFILE"

const (
	ownFDs  = 48         // its own, and of those that come and wait
	eachFDs = 3 + maxFDs // of a container: connection, supervisor, successor, deposit
)

// full is said to who is refused.
const full = "full"

// room is for how many containers.
type room struct {
	most int
	said bool // that it is full
}

var errNoRoom = errors.New("RLIMIT_NOFILE is too low for a keeper")

// errTruncated: the kernel had more descriptors than this process may have.
var errTruncated = errors.New("descriptors were lost")

// makeRoom raises the limit as far as that is allowed.
func makeRoom() (room, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return room{}, err
	}
	const plenty = 1 << 20 // fs.nr_open, as a rule
	if limit.Max < plenty {
		raised := unix.Rlimit{Cur: plenty, Max: plenty}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil { // CAP_SYS_RESOURCE
			limit = raised
		}
	}
	if limit.Cur < limit.Max {
		raised := unix.Rlimit{Cur: limit.Max, Max: limit.Max}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			limit = raised
		}
	}
	most := (int(min(limit.Cur, plenty)) - ownFDs) / eachFDs
	if most < 1 {
		return room{}, errNoRoom
	}
	return room{most: most}, nil
}

// hasRoom reports whether one more container can be kept for, if it is one more.
func (s *server) hasRoom(dir string) bool {
	kept := 0
	for _, h := range s.holds {
		if h.dir == dir {
			return true // its successor
		}
		if h.dir != "" {
			kept++
		}
	}
	return kept < s.room.most
}

// refuse sends who cannot be kept for to another keeper.
func (h *hold) refuse() {
	if s := h.s; !s.room.said {
		s.room.said = true
		s.say("gracemon --keeper has no room for more than " + strconv.Itoa(s.room.most) +
			" containers, by RLIMIT_NOFILE: another keeper takes the others")
	}
	_ = send(h.conn, full, nil)
	h.letGo()
}

// IsFull reports whether the keeper has ended the connection since it is full.
func IsFull(conn int) bool {
	var buf [len(full) + 1]byte
	n, _, err := unix.Recvfrom(conn, buf[:], unix.MSG_DONTWAIT)
	return err == nil && string(buf[:n]) == full
}

func limitText(l unix.Rlimit) string {
	return strconv.FormatUint(l.Cur, 10) + ":" + strconv.FormatUint(l.Max, 10)
}

// RestoreLimit gives this process the limit that LimitVariable names.
func RestoreLimit() {
	text, _ := unix.Getenv(LimitVariable)
	soft, hard, _ := strings.Cut(text, ":")
	cur, err := strconv.ParseUint(soft, 10, 64)
	if err != nil {
		return
	}
	if limit, err := strconv.ParseUint(hard, 10, 64); err == nil && limit > 0 {
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: cur, Max: limit})
	}
}
