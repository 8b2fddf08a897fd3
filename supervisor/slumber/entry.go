//go:build slumber

package slumber

// entry is in assembly: it is called by the kernel, without a stack of Go's.
//
//lint:ignore U1000 the linker refers to it
func entry()

func entryPC() uintptr

// leastSpace is the address space without which the Go runtime (1.26) cannot begin, in
// bytes: what it reserves for the heap's summary and its first arena, and the program.
//
//lint:ignore U1000 entry_*.s has it
const leastSpace = 688 << 20

// tooLittleSpace is what is said then, on standard error, in conmon's form.
//
//lint:ignore U1000 entry_*.s has it
var tooLittleSpace = "[conmon:e]: The address space is limited (ulimit -v, RLIMIT_AS) to less than gracemon needs: 1 GiB is enough\n"
