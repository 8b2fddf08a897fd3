// Package debian gets programs of other Debian releases than the one that this
// machine runs, with the libraries that they need, without installing them.
package debian

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

//go:embed unpack
var unpack string

// ErrMissing: the release cannot be had on this machine.
var ErrMissing = errors.New("not to be had here")

// Release is a Debian release that was unpacked.
type Release struct {
	Name string // "bookworm"
	Dir  string
}

// names are those that the archive has: a word that is a path, too.
var names = regexp.MustCompile(`^[a-z]+$`)

// Get gives a release with the programs that a packages of these names have. It is
// unpacked to BASE/NAME, if it is not there, which takes 10 to 20 s and 15 MiB from the
// mirror that apt here uses. The error wraps ErrMissing where this machine lacks
// something.
func Get(ctx context.Context, base, name string, packages ...string) (*Release, error) {
	if !names.MatchString(name) {
		return nil, fmt.Errorf("%q is not the name of a Debian release: want one like bookworm, trixie or sid", name)
	}
	dir, err := filepath.Abs(filepath.Join(base, name))
	if err != nil {
		return nil, err
	}
	r := &Release{name, dir}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-s", "--", name, dir}, packages...)...)
	cmd.Stdin, cmd.Stderr = strings.NewReader(unpack), &said
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it removes what it has begun
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	var exit *exec.ExitError
	switch last := lines[len(lines)-1]; {
	case err == nil:
		return r, nil
	case errors.As(err, &exit) && exit.ExitCode() == 3:
		return nil, fmt.Errorf("%w: %s", ErrMissing, last)
	default:
		return nil, fmt.Errorf("unpack Debian %s: %w: %s", name, err, said.String())
	}
}

// Program gives the path of a program, "" if the release has none of that name.
func (r *Release) Program(name string) string {
	for _, dir := range []string{"usr/bin", "usr/sbin"} {
		path := filepath.Join(r.Dir, dir, name)
		if _, err := exec.LookPath(path); err == nil {
			return path
		}
	}
	return ""
}
