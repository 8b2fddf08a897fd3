package main

import "gracerun.io/shim"

// onLargeStack runs the command on a stack of 32 KiB. By itself a goroutine begins
// with 2 KiB, and outgrows 4, 8 and 16 of them: each time all of it is copied, and
// the Go runtime cuts 32 KiB into stacks of that size, touching every one. That is
// 3 to 5 percent of what a kill costs.
//
// How large the stack has to be is decided by the frame, which has room for an
// array that is never made: never is false.
//
//go:noinline
func onLargeStack(args []string, never bool) int {
	if never {
		var room [20 << 10]byte
		use(&room)
	}
	return shim.Main(args)
}

//go:noinline
func use(room *[20 << 10]byte) { room[len(room)/2] = 1 }
