// Command gracemon supervises one container in the place of conmon: it has the
// same command line, and speaks the same protocols.
package main

import (
	"runtime"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/monitor"
)

// The first thread is the one that stays, see monitor.
func init() { runtime.LockOSThread() }

func main() { unix.Exit(monitor.Main()) }
