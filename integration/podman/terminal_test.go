package podman

import (
	"time"

	"gracerun.io/internal/testbed"
)

// A terminal is what a user sits in front of while a call of podman runs.
type terminal struct {
	*testbed.Terminal
	u *user
	r *running
}

// sit begins a call in a terminal.
func (u *user) sit(args ...string) *terminal {
	r := &running{Cmd: u.podman(args...), args: args, since: time.Now()}
	t, err := testbed.Sit(r.Cmd)
	u.must(err)
	return &terminal{Terminal: t, u: u, r: r}
}

func (t *terminal) types(text string) { t.u.must(t.Type(text)) }

func (t *terminal) resize(width, height uint16) { t.u.must(t.Resize(width, height)) }

// leave waits for the end of the call and gives its exit status, and all that was
// to be seen.
func (t *terminal) leave() (code int, text string) {
	c := t.u.finish(t.r)
	t.Close()
	return c.code, t.Text()
}

func (t *terminal) sees(text string) {
	t.u.until("the terminal shows "+text, func() bool { return t.Shows(text) })
}
