package shim

// run is `run [option...] ID`: create, start and, unless detached, wait and
// delete, all in one call of the wrapped runtime.
func (c *call) run() int { return c.become(c.argv) }
