package monitor

import (
	"net"
	"strings"
	"testing"
	"time"
)

// next gives the next datagram that was sent.
func next(t *testing.T, log *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 1<<16)
	if err := log.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, err := log.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// breakIt has somebody else kill a container in its grace period, under observe.
func breakIt(t *testing.T, s *stack) *container {
	c := s.container(t, obedient)
	c.annotate("io.gracerun.policy", "observe")
	c.args = []string{"--log-level", "error"} // it is said all the same
	c.up()
	c.expect("TERM", c.ask("signal TERM "+byCrio), "delivered")
	c.expect("KILL", c.ask("signal KILL "+byOperator), "delivered")
	return c
}

// A breach is a structured record in the journal: which container, what, who, and how
// much of the grace was left. Nobody has asked for --syslog.
func TestBreachIsInTheJournal(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	log := ours.journal(t)
	c := breakIt(t, ours)
	record := next(t, log)
	for _, want := range []string{
		"PRIORITY=4\n", "SYSLOG_IDENTIFIER=gracemon\n", "CONTAINER_ID_FULL=" + c.id + "\n", "GRACE_BREACH=early-kill\n",
		"GRACE_CALLER_PROGRAM=/bin/bash\n", "GRACE_CALLER_PID=900\n", "GRACE_CALLER_UNIT=session-1.scope\n",
		"MESSAGE=container " + c.id + ": SIGKILL was sent, ", "GRACE_LEFT_USEC=29",
	} {
		if !strings.Contains("\n"+record, "\n"+want) {
			t.Errorf("the record has no %q:\n%s", want, record)
		}
	}
}

// Where there is no journal it goes to syslog, as a warning of gracemon's.
func TestBreachIsInSyslog(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	log := ours.syslog(t)
	c := breakIt(t, ours)
	if line := next(t, log); !strings.HasPrefix(line, "<12>gracemon: container "+c.id+": SIGKILL was sent") || !strings.Contains(line, "breach=early-kill") {
		t.Errorf("syslog has %q", line)
	}
}
