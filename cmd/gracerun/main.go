// Gracerun is an OCI runtime around another one: crun, runc or gracerun-native.
// Signals, stops and states go through the container's supervisor; everything
// else is the wrapped runtime's.
package main

import (
	"os"

	"gracerun.io/shim"
)

func main() { os.Exit(shim.Main(os.Args)) }
