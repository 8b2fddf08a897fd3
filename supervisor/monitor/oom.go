package monitor

type oom struct{}

func (c *Container) watchOOM() {}
func (c *Container) checkOOM() {}
