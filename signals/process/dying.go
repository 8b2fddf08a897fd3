//go:build linux && (amd64 || arm64)

package process

import "gracerun.io/signals"

// Dying tells whether a process will never execute another instruction of its own:
// SIGKILL has been sent to it, and all that it waits for is that the kernel comes back
// with a call that cannot be interrupted; or its first thread has ended already. Until
// then it keeps what it has open, so that it can be taken for one that lives. state is
// that of its first thread. The error is ErrGone if there is no such process.
func Dying(pid int) (dying bool, state State, err error) {
	d, err := readStatus(procPath(pid, "status"))
	if err != nil {
		return false, 0, err
	}
	killed := d.Pending.Has(signals.KILL) || d.SharedPending.Has(signals.KILL)
	return d.State.ended() || killed, d.State, nil
}
