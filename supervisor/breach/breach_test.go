package breach

import (
	"strings"
	"testing"

	"gracerun.io/supervisor/lifecycle"
)

func TestRecord(t *testing.T) {
	r := Record{
		ID: "0123456789abcdef", Program: "gracemon", Policy: lifecycle.Observe, Breach: lifecycle.EarlyKill,
		By: lifecycle.NewCaller("/bin/a\nb", 900, 5000, 1000, "session-1.scope"), Left: 12345 * lifecycle.Millisecond,
	}
	want := `MESSAGE=container 0123456789abcdef: SIGKILL was sent, 12.3 s before its grace period is over, by /bin/a b (process 900, user 1000, session-1.scope); policy observe lets that pass
MESSAGE_ID=` + MessageID + `
PRIORITY=4
SYSLOG_FACILITY=1
SYSLOG_IDENTIFIER=gracemon
CONTAINER_ID_FULL=0123456789abcdef
CONTAINER_ID=0123456789ab
GRACE_BREACH=early-kill
GRACE_POLICY=observe
GRACE_LEFT_USEC=12345000
GRACE_CALLER_PROGRAM=/bin/a b
GRACE_CALLER_PID=900
GRACE_CALLER_UID=1000
GRACE_CALLER_UNIT=session-1.scope
`
	if got := string(r.entry()); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	line := string(r.line())
	if !strings.HasPrefix(line, "<12>gracemon: container 0123456789abcdef: SIGKILL was sent, 12.3 s before") ||
		!strings.HasSuffix(line, " [container=0123456789abcdef breach=early-kill left=12345ms by=/bin/a%0Ab,900,5000,1000,session-1.scope]") {
		t.Errorf("got %q", line)
	}
	r.By, r.ID = nil, "short"
	if got := string(r.entry()); strings.Contains(got, "CALLER") || !strings.Contains(got, "by somebody who cannot be told") || !strings.Contains(got, "\nCONTAINER_ID=short\n") {
		t.Errorf("got\n%s", got)
	}
}

// Every breach has its words.
func TestEveryBreachIsTold(t *testing.T) {
	for b := lifecycle.RepeatedStop; b <= lifecycle.StartAfterStop; b++ {
		if text := (Record{ID: "c", Breach: b}).String(); strings.Contains(text, ": ,") {
			t.Errorf("%s: %s", b, text)
		}
	}
}
