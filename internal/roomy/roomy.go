// Package roomy gives the main goroutine its stack in one piece.
//
// A stack that grows in steps leaves a span of the Go runtime behind for each
// size that it has had, all of whose pages were touched when it was cut into
// stacks: 50 KiB, in a program of which there is one for each container.
//
// Its init function comes first: packages are initialized in the order of their
// paths, and this one imports nothing.
package roomy

func init() { use(new(int)) }

// use needs so much stack that the next size up is skipped, and those after it.
//
//go:noinline
func use(x *int) {
	var room [20 << 10]byte
	room[*x] = 1
	*x = int(room[len(room)-1-*x])
}
