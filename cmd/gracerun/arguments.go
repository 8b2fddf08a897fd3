package main

import _ "unsafe" // for go:linkname

// arguments gives the command line as os.Args has it, by what package os itself
// asks the Go runtime. The initialization of os, or to read /proc/self/cmdline
// in its place, would be 4 percent of what a kill costs.
//
// The runtime offers the function under this name; should a version of Go not do
// so any more, the program cannot be linked.
//
//go:linkname arguments os.runtime_args
func arguments() []string
