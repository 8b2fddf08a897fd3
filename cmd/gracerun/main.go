// What the Go runtime does for those who look at it from outside, or whose host
// gets more processors while they run, is not needed by who lives for a
// millisecond.
//
//go:debug decoratemappings=0
//go:debug updatemaxprocs=0

// Gracerun is an OCI runtime around another one: crun, runc or gracerun-native.
// Signals, stops and states go through the container's supervisor; everything
// else is the wrapped runtime's.
package main

import "syscall"

func main() { syscall.Exit(onLargeStack(arguments(), false)) }
