// Gracerun-native is an OCI runtime built on runc's libcontainer, with runc's
// command line, error texts and exit codes.
//
// It is a program of its own because libcontainer needs cgo, and because its
// start-up would be paid on every `gracerun kill` otherwise.
package main

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	// Enters namespaces in C, before the Go runtime has more than one thread.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"

	"gracerun.io/runtime/native"
)

// libcontainer starts this program again as "init", inside the container. That
// must stay on the main thread, which only init functions are sure to be on.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init()
	}
}

func main() {
	os.Exit(native.Main(os.Args))
}
