//go:build linux && (amd64 || arm64)

package process

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

// KillWatch hears from the kernel of every process that dies of one of a few
// signals: for whoever looks after many processes on a kernel before 6.15, at the
// price of one socket. It needs what ExitWatch needs.
type KillWatch struct {
	fd int
}

// ErrNone: nothing was heard since.
var ErrNone = errors.New("no process has died of it")

// WatchKills begins to listen for processes that die of these signals.
func WatchKills(sigs ...signals.Signal) (*KillWatch, error) {
	const coreDumped = 0x80
	program := []unix.SockFilter{load(eventAt), unless(eventExit, uint8(1+4*len(sigs))), load(eventStatus)}
	for _, sig := range sigs {
		for _, status := range [...]uint32{uint32(sig), uint32(sig) | coreDumped} {
			program = append(program, unless(status, 1), unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff})
		}
	}
	fd, err := listenForEvents(append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}))
	if err != nil {
		return nil, err
	}
	return &KillWatch{fd}, nil
}

// FD is the descriptor to wait for.
func (w *KillWatch) FD() int { return w.fd }

// Next gives the number of a process and what it died of; of one with several
// threads it may say so several times. The error is ErrNone if there is none now.
// Others mean that some were not heard of.
func (w *KillWatch) Next() (pid int, sig signals.Signal, err error) {
	var buf [512]byte
	for {
		n, err := unix.Read(w.fd, buf[:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, 0, ErrNone
		case err != nil:
			return 0, 0, failed("read process events", err)
		case n >= eventEnd:
			status := unix.WaitStatus(binary.NativeEndian.Uint32(buf[eventStatus:]))
			return int(binary.NativeEndian.Uint32(buf[eventTgid:])), signals.Signal(status.Signal()), nil
		}
	}
}

// Close ends it.
func (w *KillWatch) Close() { unix.Close(w.fd) }
