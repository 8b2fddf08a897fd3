package keeper

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// RLIMIT_NOFILE of the first container's caller bounds the descriptors of a keeper,
// and the kernel drops those of a packet that exceed it. So the keeper raises its
// limit as far as it may, counts, and refuses a descriptor store that it may have no
// room for. A supervisor that is refused connects to the next keeper, or starts it.

// LimitVariable passes RLIMIT_NOFILE of the dead supervisor to its successor
// (`gracemon --recover`), as "SOFT:HARD".
const LimitVariable = "_GRACEMON_NOFILE"

const (
	ownFDs  = 48         // of the keeper, of new connections and of those that wait
	eachFDs = 3 + maxFDs // of a container: connection, supervisor, successor, descriptor store
)

// full is the reply to a supervisor that is refused.
const full = "full"

// room is how many containers the keeper has room for.
type room struct {
	most int
	said bool // the operator knows that it is full
}

var errNoRoom = errors.New("RLIMIT_NOFILE is too low for a keeper")

// errTruncated: a packet had more descriptors than this process may have.
var errTruncated = errors.New("descriptors were lost")

// makeRoom raises RLIMIT_NOFILE as far as that is allowed.
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

// hasRoom reports whether there is room for the container's descriptors.
func (s *server) hasRoom(dir string) bool {
	kept := 0
	for _, st := range s.stores {
		if st.dir == dir {
			return true // from its predecessor
		}
		if st.dir != "" {
			kept++
		}
	}
	return kept < s.room.most
}

// refuse sends a supervisor to another keeper.
func (st *store) refuse() {
	if s := st.s; !s.room.said {
		s.room.said = true
		s.say("gracemon --keeper has no room for more than " + strconv.Itoa(s.room.most) +
			" containers (RLIMIT_NOFILE): starting another keeper for the others")
	}
	_ = send(st.conn, full, nil)
	st.forget()
}

// IsFull reports whether the keeper ended the connection because it has no room.
func IsFull(conn int) bool {
	var buf [len(full) + 1]byte
	n, _, err := unix.Recvfrom(conn, buf[:], unix.MSG_DONTWAIT)
	return err == nil && string(buf[:n]) == full
}

func limitText(l unix.Rlimit) string {
	return strconv.FormatUint(l.Cur, 10) + ":" + strconv.FormatUint(l.Max, 10)
}

// RestoreLimit sets RLIMIT_NOFILE of this process to the value in LimitVariable.
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
