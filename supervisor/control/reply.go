package control

import (
	"errors"
	"strconv"
	"strings"

	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

// Answer is the first word of a reply: what became of the request.
type Answer uint8

// The answers. The fields of Reply that each one uses are named in parentheses.
const (
	// Delivered: the signal was delivered.
	Delivered Answer = iota
	// Joined: the stop in progress has delivered the very signal already.
	Joined
	// Ended: the container ended (Exit).
	Ended
	// NotRunning: the container had exited before the signal could be delivered.
	NotRunning
	// NotFound: there is no container, its create failed.
	NotFound
	// Granted: the caller may go ahead.
	Granted
	// Refused: the caller may not (Text says why).
	Refused
	// Failed: it did not work (Errno, and Text where there is more to say).
	Failed
	// Current is the reply to State (Status, Pid, Phase, Stop, Left, Exit).
	Current
	// Done: the supervisor has taken note.
	Done
	// Bad: the request was not understood (Text says which word).
	Bad

	answers = int(iota)
)

var answerNames = [answers]string{
	Delivered:  "delivered",
	Joined:     "joined",
	Ended:      "ended",
	NotRunning: "not-running",
	NotFound:   "not-found",
	Granted:    "granted",
	Refused:    "refused",
	Failed:     "failed",
	Current:    "state",
	Done:       "done",
	Bad:        "bad",
}

func (a Answer) String() string { return answerNames[a] }

// Reply is what a caller is told. It is true at the time it is given.
type Reply struct {
	Answer Answer
	Exit   lifecycle.Status // how the container ended
	Errno  int32
	Text   string // free text, the last thing in the packet

	Status string             // as `state` of a runtime has it: creating, created, running, paused, stopped
	Pid    int                // init's number; 0 before it exists and after its exit
	Phase  string             // the lifecycle's own state, such as stopping
	Stop   signals.Signal     // the signal of the stop in progress, 0 if there is none
	Left   lifecycle.Duration // of its grace period
}

// ReplyOf puts a Reply effect of the machine into the words of the protocol.
func ReplyOf(e lifecycle.Effect) Reply {
	r := Reply{Exit: e.Status, Errno: e.Errno}
	switch e.Outcome {
	case lifecycle.DeliveredOutcome:
		r.Answer = Delivered
	case lifecycle.Joined:
		r.Answer = Joined
	case lifecycle.Ended:
		r.Answer = Ended
	case lifecycle.NotRunning:
		r.Answer = NotRunning
	case lifecycle.NotFound:
		r.Answer = NotFound
	case lifecycle.Granted:
		r.Answer = Granted
	case lifecycle.Refused:
		r.Answer = Refused
	default:
		r.Answer = Failed
	}
	return r
}

// Append appends the reply's packet to b.
func (r Reply) Append(b []byte) []byte {
	b = append(b, r.Answer.String()...)
	switch r.Answer {
	case Ended:
		b = AppendStatus(append(b, ' '), r.Exit)
	case Failed:
		b = strconv.AppendInt(append(b, " errno="...), int64(r.Errno), 10)
	case Current:
		b = r.appendState(b)
	}
	if r.Text != "" {
		b = append(append(b, ' '), r.Text...)
	}
	return b[:min(len(b), MaxPacket)]
}

func (r Reply) appendState(b []byte) []byte {
	b = append(append(b, " status="...), r.Status...)
	b = strconv.AppendInt(append(b, " pid="...), int64(r.Pid), 10)
	b = append(append(b, " phase="...), r.Phase...)
	if r.Stop != 0 {
		b = append(append(b, " stop="...), r.Stop.Name()...)
		b = r.Left.Append(append(b, " left="...))
	}
	if r.Status == "stopped" {
		b = AppendStatus(append(b, " exit:"...), r.Exit)
	}
	return b
}

// ParseReply reads a packet. The error says which word it did not understand.
func ParseReply(packet string) (Reply, error) {
	name, rest, _ := strings.Cut(packet, " ")
	r := Reply{Answer: answerNamed(name)}
	ok := int(r.Answer) < answers
	switch r.Answer {
	case Ended:
		r.Exit, ok = ParseStatus(rest)
	case Refused, Bad:
		r.Text = rest
	case Failed:
		var errno string
		errno, r.Text, _ = strings.Cut(rest, " ")
		ok = r.set(errno) && r.Errno != 0
	case Current:
		for word := range strings.SplitSeq(rest, " ") {
			ok = ok && r.set(word)
		}
		ok = ok && r.Status != ""
	default:
		ok = ok && rest == ""
	}
	if !ok {
		return Reply{}, errors.New("bad reply " + strconv.Quote(packet))
	}
	return r, nil
}

func answerNamed(name string) Answer {
	for a := range Answer(answers) {
		if answerNames[a] == name {
			return a
		}
	}
	return Answer(answers)
}

// set takes one word after the answer.
func (r *Reply) set(word string) (ok bool) {
	if status, isExit := strings.CutPrefix(word, "exit:"); isExit {
		r.Exit, ok = ParseStatus(status)
		return ok
	}
	var err error
	key, value, _ := strings.Cut(word, "=")
	switch key {
	case "errno":
		var n int64
		n, err = strconv.ParseInt(value, 10, 32)
		r.Errno = int32(n)
	case "status":
		r.Status = value
	case "pid":
		r.Pid, err = strconv.Atoi(value)
	case "phase":
		r.Phase = value
	case "stop":
		r.Stop, err = signals.Parse(value)
	case "left":
		r.Left, err = lifecycle.ParseDuration(value)
	default:
		return false
	}
	return err == nil
}

// AppendStatus appends how a container ended: "code=0", "signal=9" or "unknown".
func AppendStatus(b []byte, s lifecycle.Status) []byte {
	switch s.Kind {
	case lifecycle.StatusCode:
		b = append(b, "code="...)
	case lifecycle.StatusSignal:
		b = append(b, "signal="...)
	default:
		return append(b, "unknown"...)
	}
	return strconv.AppendUint(b, uint64(s.Value), 10)
}

// ParseStatus reads what AppendStatus writes.
func ParseStatus(text string) (lifecycle.Status, bool) {
	if text == "unknown" {
		return lifecycle.Status{}, true
	}
	kind, digits, _ := strings.Cut(text, "=")
	n, err := strconv.ParseUint(digits, 10, 8)
	switch {
	case err != nil:
	case kind == "code":
		return lifecycle.Exited(uint8(n)), true
	case kind == "signal" && signals.Signal(n).Valid():
		return lifecycle.Signaled(signals.Signal(n)), true
	}
	return lifecycle.Status{}, false
}
