package control

import (
	"reflect"
	"strings"
	"testing"

	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

func TestRequestsAreReadAsWritten(t *testing.T) {
	for packet, want := range map[string]Request{
		"signal TERM":                        {Verb: Signal, Signal: signals.TERM, Grace: OwnGrace},
		"signal RTMIN+3 all force":           {Verb: Signal, Signal: signals.RTMIN + 3, All: true, Force: true, Grace: OwnGrace},
		"stop":                               {Verb: Stop, Grace: OwnGrace},
		"stop sig=INT grace=10s":             {Verb: Stop, Signal: signals.INT, Grace: 10 * lifecycle.Second},
		"stop grace=0s":                      {Verb: Stop, Grace: 0},
		"state":                              {Verb: State, Grace: OwnGrace},
		"start":                              {Verb: Start, Grace: OwnGrace},
		"start-done status=1":                {Verb: StartDone, Status: 1, Grace: OwnGrace},
		"delete force":                       {Verb: Delete, Force: true, Grace: OwnGrace},
		"keep":                               {Verb: Keep, Grace: OwnGrace},
		"stop grace=0s by=/bin/a%20b,1,2,3,": {Verb: Stop, Grace: 0, By: lifecycle.NewCaller("/bin/a b", 1, 2, 3, "")},
		"start by=/usr/bin/crio,812,4711,0,crio.service": {Verb: Start, Grace: OwnGrace, By: lifecycle.NewCaller("/usr/bin/crio", 812, 4711, 0, "crio.service")},
		"stop sig=TERM grace=292271023ms":                {Verb: Stop, Signal: signals.TERM, Grace: 292271023 * lifecycle.Millisecond},
	} {
		got, err := ParseRequest(packet)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseRequest(%q) = %+v, %v; want %+v", packet, got, err, want)
		}
		if text := string(want.Append(nil)); text != packet {
			t.Errorf("Append of %+v gives %q, want %q", want, text, packet)
		}
	}
}

func TestGraceOfNothingNeedsNoUnit(t *testing.T) {
	if r, err := ParseRequest("stop grace=0"); err != nil || r.Grace != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestBadRequestsAreNamed(t *testing.T) {
	for packet, word := range map[string]string{
		"":                     `""`,
		"sig TERM":             `"sig"`,
		"signal":               "which one",
		"signal FOO":           "FOO",
		"signal 0":             "0",
		"signal TERM  all":     `""`,
		"signal TERM KILL":     "KILL",
		"state force":          "force",
		"stop grace=10":        "10",
		"stop grace=-1s":       "-1s",
		"stop all":             "all",
		"start-done status=-1": "-1",
		"delete ":              `""`,
		"state by=a,1,2,3,u":   "by=a,1,2,3,u",
		"signal TERM by=a,b":   "by=a,b",
	} {
		_, err := ParseRequest(packet)
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("ParseRequest(%q): error %v, want one that names %s", packet, err, word)
		}
	}
}

func TestRepliesAreReadAsWritten(t *testing.T) {
	for packet, want := range map[string]Reply{
		"delivered":                    {Answer: Delivered},
		"joined":                       {Answer: Joined},
		"ended code=0":                 {Answer: Ended, Exit: lifecycle.Exited(0)},
		"ended signal=9":               {Answer: Ended, Exit: lifecycle.Signaled(signals.KILL)},
		"ended unknown":                {Answer: Ended},
		"not-running":                  {Answer: NotRunning},
		"refused told to stop":         {Answer: Refused, Text: "told to stop"},
		"failed errno=1":               {Answer: Failed, Errno: 1},
		"failed errno=3 no such thing": {Answer: Failed, Errno: 3, Text: "no such thing"},
		"state status=running pid=12 phase=stopping stop=TERM left=1500ms": {Answer: Current,
			Status: "running", Pid: 12, Phase: "stopping", Stop: signals.TERM, Left: 1500 * lifecycle.Millisecond},
		"state status=stopped pid=0 phase=stopped exit:code=7": {Answer: Current,
			Status: "stopped", Phase: "stopped", Exit: lifecycle.Exited(7)},
	} {
		got, err := ParseReply(packet)
		if err != nil || got != want {
			t.Errorf("ParseReply(%q) = %+v, %v; want %+v", packet, got, err, want)
		}
		if text := string(want.Append(nil)); text != packet {
			t.Errorf("Append of %+v gives %q, want %q", want, text, packet)
		}
	}
}

func TestBadReplies(t *testing.T) {
	for _, packet := range []string{
		"", "gone", "delivered twice", "ended", "ended code=256", "ended signal=0", "ended code",
		"failed", "failed errno=0", "state", "state pid=1", "state status=running pid=x",
	} {
		if r, err := ParseReply(packet); err == nil {
			t.Errorf("ParseReply(%q) = %+v, want an error", packet, r)
		}
	}
}

// What is understood is understood the same when it is written again.
func FuzzRequest(f *testing.F) {
	for _, packet := range []string{"signal TERM all", "stop sig=INT grace=10s", "start-done status=3", "delete force", "stop grace=0"} {
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet string) {
		r, err := ParseRequest(packet)
		if err != nil {
			return
		}
		text := string(r.Append(nil))
		if again, err := ParseRequest(text); err != nil || again != r {
			t.Errorf("%q is %+v, written as %q, read as %+v, %v", packet, r, text, again, err)
		}
	})
}

func FuzzReply(f *testing.F) {
	for _, packet := range []string{"ended signal=9", "failed errno=3 why", "state status=stopped pid=0 phase=stopped exit:code=7"} {
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet string) {
		r, err := ParseReply(packet)
		if err != nil || len(packet) > MaxPacket-100 {
			return
		}
		text := string(r.Append(nil))
		again, err := ParseReply(text)
		if r.Status != "stopped" {
			again.Exit, r.Exit = lifecycle.Status{}, lifecycle.Status{}
		}
		if r.Stop == 0 {
			again.Left, r.Left = 0, 0
		}
		if r.Answer == Ended {
			return // the status is all it has, and Append gives it back or ParseReply refuses
		}
		if err != nil || again != r {
			t.Errorf("%q is %+v, written as %q, read as %+v, %v", packet, r, text, again, err)
		}
	})
}
