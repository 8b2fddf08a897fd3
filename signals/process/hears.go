//go:build linux && (amd64 || arm64)

package process

import "gracerun.io/signals"

// Hears tells whether a signal sent now would have an effect on the process, and
// why. The sender is taken to be in the reader's pid namespace.
//
// It is a forecast from what /proc shows. A program that asks for its signals
// with sigtimedwait(2) from time to time is believed to be deaf in between, one
// that waits for other signals only is believed to hear (see Awaited). Whether
// the cgroup is frozen is not looked at.
//
// The rules are the kernel's sig_task_ignored and get_signal: a process that is
// PID 1 of a pid namespace gets no default actions, so a signal without a handler
// is thrown away, except for KILL and STOP from an outer namespace.
func (d *Dispositions) Hears(sig signals.Signal) (hears bool, why string) {
	switch {
	case !sig.Valid():
		return false, "no signal has this number"
	case d.State.ended() && d.Threads <= 1:
		return false, "has exited"
	case sig == signals.KILL || sig == signals.STOP:
		if d.isReadersInit() {
			return false, "PID 1 of the sender's own pid namespace"
		}
		return true, "cannot be caught, blocked or ignored"
	case d.State == Stopped || d.State == TraceeStop:
		if sig == signals.CONT {
			return true, "is stopped and continues"
		}
		return false, "is stopped: pending until it continues"
	case d.Blocked.Has(sig):
		if d.Signalfd.Has(sig) {
			return true, "reads it from a signalfd"
		}
		return false, "blocked: pending until unblocked"
	case d.Awaited.Has(sig):
		return true, "a thread waits for signals in sigtimedwait"
	case d.Caught.Has(sig):
		return true, "has a handler"
	case d.Ignored.Has(sig):
		return false, "ignored"
	case d.IsInit():
		return false, "PID 1 of a pid namespace without a handler"
	}
	return defaultAction(sig)
}

// Loses tells whether the kernel would throw the signal away, sent now from an outer
// pid namespace: nobody would ever hear it, not even a handler that is installed later.
func (d *Dispositions) Loses(sig signals.Signal) bool {
	switch {
	case d.State.ended() && d.Threads <= 1:
		return true
	case sig == signals.KILL, sig == signals.STOP, d.Blocked.Has(sig), d.Awaited.Has(sig), d.Caught.Has(sig):
		return false
	}
	return d.Ignored.Has(sig) || d.IsInit()
}

// Loses is that method for a process that is looked at now. Its threads are not, if it has
// a handler: what was looked at the kernel has to forget when the process is reaped, and
// it can be a millisecond and more until the last threads are out of its way.
func Loses(pid int, sig signals.Signal) (bool, error) {
	d, err := readStatus(procPath(pid, "status"))
	if err != nil || !d.State.ended() && (d.Caught.Has(sig) || !d.Ignored.Has(sig) && !d.IsInit()) {
		return false, err
	}
	d, err = ReadDispositions(pid)
	return err == nil && d.Loses(sig), err
}

// IsInit reports whether the process that has the number pid is PID 1 of its pid
// namespace: whoever else is in there ends with it.
func IsInit(pid int) (bool, error) {
	d, err := readStatus(procPath(pid, "status"))
	return d.IsInit(), err
}

// IsInit reports whether the process is PID 1 of its pid namespace.
func (d *Dispositions) IsInit() bool {
	return len(d.NSPids) > 0 && d.NSPids[len(d.NSPids)-1] == 1
}

func (d *Dispositions) isReadersInit() bool { return len(d.NSPids) == 1 && d.IsInit() }

// defaultAction is the table of signal(7).
func defaultAction(sig signals.Signal) (hears bool, why string) {
	switch sig {
	case signals.CHLD, signals.URG, signals.WINCH:
		return false, "default action: ignored"
	case signals.CONT:
		return false, "default action: continues, but is not stopped"
	case signals.TSTP, signals.TTIN, signals.TTOU:
		return true, "default action: stops"
	}
	return true, "default action: terminates"
}
