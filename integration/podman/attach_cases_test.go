package podman

import (
	"os"
	"strings"
)

// A speaker is the end of a pipe that is a call's input.
type speaker struct {
	u              *user
	reader, writer *os.File
}

func (u *user) pipe() *speaker {
	r, w, err := os.Pipe()
	u.must(err)
	return &speaker{u, r, w}
}

// handedOver: the other end is the call's alone now, so that its end is noticed.
func (s *speaker) handedOver() { s.reader.Close() }

func (s *speaker) say(line string) {
	_, err := s.writer.WriteString(line + "\n")
	s.u.must(err)
}

func (s *speaker) close() { s.writer.Close() }

var attachCases = []testCase{
	{
		name:    "attach: input and output",
		telling: true,
		do: func(u *user) {
			u.up("while read line; do echo got $line; done; echo end of input; exit 5", "--interactive")
			writer := u.pipe()
			r := u.begin(writer.reader, "attach", u.name)
			writer.handedOver()
			// podman says nothing once it is attached: ask until there is an answer.
			u.until("there is an answer", func() bool {
				writer.say("something")
				return strings.Contains(r.out.String(), "got something\n")
			})
			writer.say("last")
			writer.close()
			c := u.finish(r)
			u.note("%d, ends well: %v", c.code, strings.HasSuffix(strings.TrimSpace(c.out), "got something\ngot last\nend of input"))
			u.note("waited: %s", u.waited())
		},
		want: "0, ends well: true\nwaited: 5",
	},
	{
		name: "attach: a key to leave, and back again",
		do: func(u *user) {
			u.ok(u.run("while read line; do echo got $line; done", "--detach", "--interactive", "--tty")...)
			for _, word := range []string{"one", "two"} {
				// One key: two are heard as such only if they do not come in one read.
				t := u.sit("attach", "--detach-keys=ctrl-q", u.name)
				t.types(word + "\n")
				t.sees("got " + word)
				t.types("\x11") // ctrl-q
				code, _ := t.leave()
				u.note("%d, %s", code, u.inspect("{{.State.Status}}"))
			}
			u.note("%q", u.ok("logs", u.name))
		},
		want: "0, running\n0, running\n",
	},
}
