package crio

import (
	"context"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/console"
)

// A terminal is what a user sits in front of while a call of crictl runs.
type terminal struct {
	u       *user
	console console.Console
	other   *os.File // the side that crictl has
	r       *running

	mu   sync.Mutex
	seen strings.Builder
	end  chan struct{}
}

// sit begins a call in a terminal of 100 columns and 30 lines.
func (u *user) sit(args ...string) *terminal {
	c, path, err := console.NewPty()
	u.must(err)
	u.must(c.Resize(console.WinSize{Width: 100, Height: 30}))
	end, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	u.must(err)
	t := &terminal{u: u, console: c, other: end, r: &running{Cmd: u.Crictl(context.Background(), args...), args: args, since: time.Now()}, end: make(chan struct{})}
	t.r.Stdin, t.r.Stdout, t.r.Stderr = end, end, end
	t.r.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	u.must(t.r.Start())
	go func() {
		defer close(t.end)
		buffer := make([]byte, 4096)
		for {
			n, err := c.Read(buffer)
			t.mu.Lock()
			t.seen.Write(buffer[:n])
			t.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return t
}

func (t *terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen.String()
}

func (t *terminal) types(text string) {
	_, err := t.console.Write([]byte(text))
	t.u.must(err)
}

// leave waits for the end of the call and gives its exit status, and all that was
// to be seen.
func (t *terminal) leave() (code int, text string) {
	c := t.u.finish(t.r)
	t.other.Close()
	<-t.end
	t.console.Close()
	return c.code, t.text()
}

// drag gives the terminal another size, as a user who drags a corner does, until
// that is seen: sizes in between may be lost, and one that comes too early.
func (t *terminal) drag(text string, width, height uint16) {
	n := uint16(0)
	var last time.Time
	t.u.until("the terminal shows "+text, func() bool {
		if time.Since(last) > time.Second {
			last = time.Now()
			n = 1 - n
			t.u.must(t.console.Resize(console.WinSize{Width: width + n, Height: height}))
			t.u.must(t.console.Resize(console.WinSize{Width: width, Height: height}))
		}
		return strings.Contains(t.text(), text)
	})
}
