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
	Do      string        `yaml:"do"`      // fail, hang, delay, linger, die-after, adopt, slow-syscall or failing-syscall
	For     time.Duration `yaml:"for"`     // of delay, linger and slow-syscall
	Times   int           `yaml:"times"`   // strike so often (0: once)

	// Of slow-syscall and failing-syscall, which strace(1) brings about: the system
	// calls, with commas between, and the error.
	Syscalls string `yaml:"syscalls"`
	Errno    string `yaml:"errno"`
}

// Check says what makes no sense in it.
func (t *Trouble) Check() error {
	switch {
	case t.Command == "":
		return fmt.Errorf("command is missing: say which command of the runtime goes wrong")
	case (t.Do == "delay" || t.Do == "linger" || t.Do == "slow-syscall") && t.For <= 0:
		return fmt.Errorf("for is missing: say how long the delay is")
	case strings.HasSuffix(t.Do, "-syscall") && t.Syscalls == "":
		return fmt.Errorf("syscalls is missing: say which")
	case t.Do == "failing-syscall" && t.Errno == "":
		return fmt.Errorf("errno is missing: say which, such as EPERM")
	}
	switch t.Do {
	case "fail", "hang", "delay", "linger", "die-after", "adopt", "slow-syscall", "failing-syscall":
		return nil
	}
	return fmt.Errorf("unknown trouble %q: want fail, hang, delay, linger, die-after, adopt, slow-syscall or failing-syscall", t.Do)
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
		"linger":    fmt.Sprintf(`%s "$@"; code=$?; sleep %.3f; exit $code`, program, t.For.Seconds()),
		"die-after": program + ` "$@"; kill -KILL $$`,
		"adopt":     "exec perl -e '" + adopt + "' " + program + ` "$@"`,
		"slow-syscall": fmt.Sprintf(`exec strace -f -o /dev/null -e trace=%s --inject=%s:delay_enter=%d %s "$@"`,
			t.Syscalls, t.Syscalls, t.For.Microseconds(), program),
		"failing-syscall": fmt.Sprintf(`exec strace -f -o /dev/null -e trace=%s --inject=%s:error=%s %s "$@"`,
			t.Syscalls, t.Syscalls, t.Errno, program),
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

// adopt runs the runtime under a process that takes its orphans, init among them,
// and stays until the last one has ended: init is not the monitor's child then.
const adopt = `
  use POSIX;
  pipe(R, W);
  if (!fork) {
    close R; setsid;
    syscall(157, 36, 1); # prctl(PR_SET_CHILD_SUBREAPER, 1), here on x86-64
    my $code = system(@ARGV) >> 8;
    open STDIN, "<", "/dev/null"; open STDOUT, ">", "/dev/null"; open STDERR, ">", "/dev/null";
    syswrite W, chr $code; close W;
    1 while wait > 0;
    exit 0;
  }
  close W; sysread R, my $code, 1;
  exit ord $code;`
