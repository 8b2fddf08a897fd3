// Command gracemon supervises one container in the place of conmon: it has the
// same command line, and speaks the same protocols.
package main

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/monitor"
)

func main() { unix.Exit(monitor.Main()) }
