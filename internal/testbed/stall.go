package testbed

import (
	"sync"
	"time"
)

// WatchStalls watches how long the machine lets a process wait that wants to run,
// until the function that it gives is called. That gives the longest wait: who
// judges by time cannot judge more finely than that.
func WatchStalls() (longest func() time.Duration) {
	const beat = 20 * time.Millisecond
	end := make(chan struct{})
	var worst time.Duration
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			begin := Now()
			select {
			case <-time.After(beat):
				worst = max(worst, Now()-begin-beat)
			case <-end:
				return
			}
		}
	})
	return func() time.Duration {
		close(end)
		watch.Wait()
		return worst
	}
}
