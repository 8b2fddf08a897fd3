package shim

import (
	"gracerun.io/internal/version"
)

// version prints the wrapped runtime's version as it prints it, and ours in a
// line of its own at the end. Podman and CRI-O show the text; Docker and
// containerd look for "NAME version VERSION" and "commit: ", of which the last
// ones count, so that our line has neither.
func (c *call) version() int {
	status, err := c.spawn(c.argv[1:])
	if err != nil {
		return c.fail(err)
	}
	if status == 0 {
		write(1, []byte("gracerun: "+version.Version+"\n"))
	}
	return status
}

func (c *call) help() int     { return c.become(c.argv) }
func (c *call) trace() int    { return c.become(c.argv) }
func (c *call) events() int   { return c.become(c.argv) }
func (c *call) features() int { return c.become(c.argv) }
