//go:build slumber

package slumber

// entry is in assembly: it is called by the kernel, without a stack of Go's.
//
//lint:ignore U1000 the linker refers to it
func entry()

func entryPC() uintptr
