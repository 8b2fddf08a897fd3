// Command gracemon supervises one container in the place of conmon: it has the
// same command line, and speaks the same protocols.
package main

import (
	"golang.org/x/sys/unix"

	_ "gracerun.io/internal/roomy"
	"gracerun.io/supervisor/monitor"
)

func main() { unix.Exit(monitor.Main()) }
