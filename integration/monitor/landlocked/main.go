// Landlocked is a program that may read files and write to none (landlock(7)), and
// then opens its stdout and stderr anew, as servers do whose logs are /dev/stdout.
package main

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unavailable is the exit status where the kernel has no Landlock.
const unavailable = 77

func main() {
	runtime.LockOSThread()
	if err := restrict(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(unavailable)
	}
	if _, err := os.Create("/data/forbidden"); err == nil {
		fmt.Println("it is not restricted")
		os.Exit(1)
	}
	for _, path := range os.Args[1:] {
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Fprintln(file, "opened anew:", path)
	}
}

// restrict forbids this thread to open anything for writing.
func restrict() error {
	attr := unix.LandlockRulesetAttr{Access_fs: unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_REG}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Access_fs), 0)
	if errno != 0 {
		return fmt.Errorf("landlock_create_ruleset: %w", errno)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return fmt.Errorf("landlock_restrict_self: %w", errno)
	}
	return nil
}
