package testbed

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Trouble makes calls of a runtime go wrong, by a script that stands before it.
type Trouble struct {
	Command string        `yaml:"command"` // of the runtime, such as kill
	Signal  string        `yaml:"signal"`  // only if this is the last argument, by number; "": any
	Do      string        `yaml:"do"`      // fail, hang, delay, or die-after
	For     time.Duration `yaml:"for"`     // of delay
	Times   int           `yaml:"times"`   // strike so often (0: once)
}

// Check says what makes no sense in it.
func (t *Trouble) Check() error {
	switch {
	case t.Command == "":
		return fmt.Errorf("command is missing: say which command of the runtime goes wrong")
	case t.Do == "delay" && t.For <= 0:
		return fmt.Errorf("for is missing: say how long the delay is")
	}
	switch t.Do {
	case "fail", "hang", "delay", "die-after":
		return nil
	}
	return fmt.Errorf("unknown trouble %q: want fail, hang, delay or die-after", t.Do)
}

// wrap writes the script and gives its path. dir is where it keeps count, and
// leaves the pids of what hangs.
func (t *Trouble) wrap(dir, name, program string) (string, error) {
	match := "*' " + t.Command + " '*"
	if t.Signal != "" {
		match = "*' " + t.Command + " '*' " + t.Signal + " '"
	}
	act := map[string]string{
		"fail":      `echo "` + filepath.Base(program) + `: injected failure" >&2; exit 1`,
		"hang":      `echo $$ > ` + dir + `/hung.$$; exec sleep 3600`,
		"delay":     fmt.Sprintf("sleep %.3f", t.For.Seconds()),
		"die-after": program + ` "$@"; kill -KILL $$`,
	}[t.Do]
	var strikes strings.Builder
	for n := range max(t.Times, 1) {
		fmt.Fprintf(&strikes, "  if mkdir %s/%s.struck.%d 2>/dev/null; then %s; exec %s \"$@\"; fi\n", dir, name, n, act, program)
	}
	script := fmt.Sprintf("#!/bin/sh\n# %s, but %s of it goes wrong: %s.\ncase \" $* \" in\n%s)\n%s  ;;\nesac\nexec %s \"$@\"\n",
		filepath.Base(program), t.Command, t.Do, match, strikes.String(), program)
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(script), 0o755)
}
