// Gracerun is an OCI runtime around another one: crun, runc or gracerun-native.
// Signals, stops and states go through the container's supervisor; everything
// else is the wrapped runtime's.
package main

import (
	"os"
	"runtime"

	"gracerun.io/shim"
)

// The wrapped runtime is to die with this process, which the kernel ties to the
// thread that has started it.
func init() { runtime.LockOSThread() }

func main() { os.Exit(shim.Main(os.Args)) }
