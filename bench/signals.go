package bench

const signalSection = "Signals"

// signals measures from the call of `kill ID TERM` until the container's program
// has heard it: that is what a grace period is about.
func (l *lab) signals() error {
	callers := l.callers()
	l.progress("TERM until it is heard: %d runtimes", len(callers))
	targets := map[string]*container{}
	interleave(l, "TERM until it is heard", l.rounds(50), callers, func(s caller) (err error) {
		c := targets[s.String()]
		if c == nil {
			if c, err = l.running(s.monitor, s.runtime, nil, "serve"); err != nil {
				return err
			}
			targets[s.String()] = c
		}
		begin := now()
		if _, err := c.call("kill", c.id, "TERM"); err != nil {
			return err
		}
		heard, err := c.await("signal 15")
		if err != nil {
			return err
		}
		l.report.add(signalSection, "call of `kill ID TERM` until the program hears it", s.String(), Latency, milliseconds(heard-begin))
		return nil
	})
	for _, c := range targets {
		c.end()
	}
	return nil
}
