package testbed

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/console"
)

// An Output keeps what a program writes, and can be read meanwhile.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *Output) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(text)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// A Terminal is what somebody sits in front of while a program runs.
type Terminal struct {
	console console.Console
	other   *os.File // the program's side
	seen    Output
	end     chan struct{}
}

// Sit starts a program in a terminal of 100 columns and 30 lines of its own.
func Sit(cmd *exec.Cmd) (*Terminal, error) {
	c, path, err := console.NewPty()
	if err != nil {
		return nil, err
	}
	t := &Terminal{console: c, end: make(chan struct{})}
	err = t.Resize(100, 30)
	if err == nil {
		t.other, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err == nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = t.other, t.other, t.other
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		err = cmd.Start()
	}
	go func() {
		defer close(t.end)
		buffer := make([]byte, 4096)
		for {
			n, err := c.Read(buffer)
			_, _ = t.seen.Write(buffer[:n])
			if err != nil {
				return
			}
		}
	}()
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Text is all that was to be seen until now.
func (t *Terminal) Text() string { return t.seen.String() }

// Shows reports whether a text was to be seen.
func (t *Terminal) Shows(text string) bool { return strings.Contains(t.Text(), text) }

// Type types a text.
func (t *Terminal) Type(text string) error {
	_, err := t.console.Write([]byte(text))
	return err
}

// Resize gives the terminal another size, as somebody does who drags a corner.
func (t *Terminal) Resize(width, height uint16) error {
	return t.console.Resize(console.WinSize{Width: width, Height: height})
}

// Close is for when the program has ended: nothing is to be seen afterwards.
func (t *Terminal) Close() {
	if t.other != nil {
		t.other.Close()
		<-t.end
	}
	t.console.Close()
}
