package monitor

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

// ended waits for the exit and tells of it: both exit files, and the lines of the
// log, sorted since the order of stdout and stderr is nobody's.
func (c *container) ended() string {
	c.t.Helper()
	exit := c.exitFile()
	persisted, err := os.ReadFile(c.dir + "/persist/exit")
	c.must(err)
	lines := c.lines()
	slices.Sort(lines)
	return strings.Join(append([]string{"exit " + exit + ", persisted " + string(persisted)}, lines...), "\n")
}

// exitCommand are the arguments for an exit command that notes its arguments and
// whether it finds an exit file.
func (c *container) exitCommand() []string {
	c.t.Helper()
	script := "#!/bin/sh\necho \"$@\" \"exit file: $(cat " + c.exits + "/" + c.id + " 2>/dev/null || echo none)\" > " + c.dir + "/saw.new && mv " + c.dir + "/saw.new " + c.dir + "/saw\n"
	c.must(os.WriteFile(c.dir+"/exit-command", []byte(script), 0o755))
	return []string{"--exit-command", c.dir + "/exit-command", "--exit-command-arg", "one", "--exit-command-arg", "two words"}
}

// exitCommandSaw is what the exit command has noted, "" before it has run.
func (c *container) exitCommandSaw() string {
	text, _ := os.ReadFile(c.dir + "/saw")
	return strings.TrimSpace(string(text))
}

func (c *container) signalMonitor(name string) {
	c.t.Helper()
	sig, err := signals.Parse(name)
	c.must(err)
	c.must(unix.Kill(c.monitor, unix.Signal(sig)))
}

// wrapRuntime has this done by a shell, in the runtime's process, before each call
// of the runtime.
func (c *container) wrapRuntime(script string) {
	c.t.Helper()
	c.runtime = c.dir + "/runtime"
	text := "#!/bin/sh\n" + script + "\nexec " + c.stack.runtime + " \"$@\"\n"
	c.must(os.WriteFile(c.runtime, []byte(text), 0o755))
}
