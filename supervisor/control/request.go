// Package control is the protocol between a container's supervisor and its callers:
// the text of requests and replies, and the socket that carries them.
//
// The socket is a SOCK_SEQPACKET socket named "control" in the container's state
// directory. A packet is one request or one reply: words separated by single
// spaces. A connection has one request open at a time. A caller that disconnects
// before the reply abandons the request; what it asked for is done all the same.
//
// `gracerun kill` and the resident supervisor pay for every import of this
// package: it keeps away from os, fmt and net.
package control

import (
	"errors"
	"strconv"
	"strings"

	"gracerun.io/signals"
	"gracerun.io/supervisor/lifecycle"
)

// MaxPacket is the largest packet in bytes.
const MaxPacket = 4096

// Verb says what a caller wants.
type Verb uint8

// The requests. The fields of Request that each one uses are named in
// parentheses, and the replies it can get after the colon; any of them can get
// Failed, and Bad if it was not understood.
const (
	// Signal: `kill ID SIG` (Signal, All, Force): Delivered, Joined, Ended for a
	// SIGKILL that was held and not needed, NotRunning, NotFound.
	Signal Verb = iota
	// Stop the container and wait for its end (Signal, Grace): Ended, NotFound.
	Stop
	// State asks what the container is doing: State.
	State
	// Start asks for leave to start the container: Granted, Refused, NotRunning,
	// NotFound. Whoever was granted it says StartDone on the same connection; if
	// the connection ends without, the supervisor finds out for itself.
	Start
	// StartDone: the start that was granted ended (Status: the runtime's exit
	// status): Done.
	StartDone
	// PauseDone: the container was paused: Done.
	PauseDone
	// ResumeDone: the container was resumed: Done.
	ResumeDone
	// Delete asks for leave to delete the container (Force): Granted once it has
	// ended, which Force, or its never having been started, brings about; else
	// Refused.
	Delete
	// Keep tells that the caller will remove the state directory, as a runtime
	// does when it deletes the container: Done. Without it the supervisor does.
	Keep
	// Upgrade has the supervisor become the program that is now installed in the
	// place of its own: Done, or Failed, by which it goes on as it was; Refused
	// while the container is being created or its exit command runs.
	Upgrade
	// Withdraw says, as a second packet on the connection, that its caller has not
	// waited for the reply and sees to the request itself: a supervisor that reads
	// it before it has begun with the request leaves that alone. No reply.
	Withdraw

	verbs = int(iota)
)

var verbNames = [verbs]string{
	Signal:     "signal",
	Stop:       "stop",
	State:      "state",
	Start:      "start",
	StartDone:  "start-done",
	PauseDone:  "pause-done",
	ResumeDone: "resume-done",
	Delete:     "delete",
	Keep:       "keep",
	Upgrade:    "upgrade",
	Withdraw:   "withdraw",
}

func (v Verb) String() string { return verbNames[v] }

// OwnGrace is the Grace of a Stop that leaves it to the container's settings.
const OwnGrace lifecycle.Duration = -1

// Request is what a caller wants.
type Request struct {
	Verb   Verb
	Signal signals.Signal     // of Stop: 0 for the container's own
	All    bool               // the signal is for every process of the container
	Force  bool               // pass where the policy would hold it
	Grace  lifecycle.Duration // of Stop: OwnGrace for the container's own, 0 for KILL at once
	Status uint8              // of StartDone: the runtime's exit status

	// By is who wants it of Signal, Stop, Start and Delete: the process that has
	// called the caller. nil: the caller itself.
	By *lifecycle.Caller

	// Again: the same process has made the same request of a supervisor that has
	// died before it replied. What was done then is not done again, and has its
	// reply now.
	Again bool
}

// Append appends the request's packet to b.
func (r Request) Append(b []byte) []byte {
	b = append(b, r.Verb.String()...)
	switch r.Verb {
	case Signal:
		b = append(append(b, ' '), r.Signal.Name()...)
	case Stop:
		if r.Signal != 0 {
			b = append(append(b, " sig="...), r.Signal.Name()...)
		}
		if r.Grace >= 0 {
			b = r.Grace.Append(append(b, " grace="...))
		}
	case StartDone:
		b = strconv.AppendUint(append(b, " status="...), uint64(r.Status), 10)
	}
	if r.All {
		b = append(b, " all"...)
	}
	if r.Force {
		b = append(b, " force"...)
	}
	if r.Again {
		b = append(b, " again"...)
	}
	if r.By != nil {
		b = r.By.Append(append(b, " by="...))
	}
	return b
}

// ParseRequest reads a packet. The error says which word it did not understand.
func ParseRequest(packet string) (Request, error) { return new(Parser).Parse(packet) }

// Parser reads packets. It keeps the last caller, who is mostly that of the next
// packet, too: a manager that asks over and over leaves no garbage.
type Parser struct{ last *lifecycle.Caller }

// Parse reads a packet, of which it keeps nothing. The error says which word it did
// not understand.
func (p *Parser) Parse(packet string) (Request, error) {
	verb, rest, more := strings.Cut(packet, " ")
	r := Request{Verb: verbNamed(verb), Grace: OwnGrace}
	if int(r.Verb) == verbs {
		return Request{}, errors.New("unknown request " + strconv.Quote(verb))
	}
	for more {
		var word string
		word, rest, more = strings.Cut(rest, " ")
		err := p.setCaller(&r, word)
		if err == errNoCaller {
			err = r.set(word)
		}
		if err != nil {
			return Request{}, errors.New(verb + ": " + err.Error())
		}
	}
	if r.Verb == Signal && r.Signal == 0 {
		return Request{}, errors.New("signal: which one?")
	}
	return r, nil
}

func verbNamed(name string) Verb {
	for v := range Verb(verbs) {
		if verbNames[v] == name {
			return v
		}
	}
	return Verb(verbs)
}

var errNoCaller = errors.New("not a caller")

// setCaller takes the word that says who asks. The error is errNoCaller if it is
// another word.
func (p *Parser) setCaller(r *Request, word string) error {
	value, ok := strings.CutPrefix(word, "by=")
	if !ok || r.Verb != Signal && r.Verb != Stop && r.Verb != Start && r.Verb != Delete {
		return errNoCaller
	}
	var room [256]byte // mostly enough
	if p.last == nil || string(p.last.Append(room[:0])) != value {
		if p.last, ok = lifecycle.ParseCaller(value); !ok {
			return errors.New("want by=PROGRAM,PID,START,UID,UNIT, found " + strconv.Quote(word))
		}
	}
	r.By = p.last
	return nil
}

// set takes one word after the verb.
func (r *Request) set(word string) (err error) {
	key, value, _ := strings.Cut(word, "=")
	switch {
	case word == "again":
		r.Again = true
	case word == "force" && (r.Verb == Signal || r.Verb == Delete):
		r.Force = true
	case word == "all" && r.Verb == Signal:
		r.All = true
	case r.Verb == Signal && r.Signal == 0:
		r.Signal, err = signals.Parse(word)
	case key == "sig" && r.Verb == Stop:
		r.Signal, err = signals.Parse(value)
	case key == "grace" && r.Verb == Stop:
		r.Grace, err = parseGrace(value)
	case key == "status" && r.Verb == StartDone:
		r.Status, err = parseByte(value)
	default:
		err = errors.New("unknown word " + strconv.Quote(word))
	}
	return err
}

// parseGrace takes a plain 0 too: it needs no unit.
func parseGrace(text string) (lifecycle.Duration, error) {
	if text == "0" {
		return 0, nil
	}
	d, err := lifecycle.ParseDuration(text)
	if err == nil && d < 0 {
		err = errors.New("negative grace " + text)
	}
	return d, err
}

func parseByte(text string) (uint8, error) {
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		return 0, errors.New("want a number up to 255, found " + strconv.Quote(text))
	}
	return uint8(n), nil
}
