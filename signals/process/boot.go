//go:build linux && (amd64 || arm64)

package process

import (
	"encoding/hex"
	"errors"
	"strings"
	"sync"
)

// BootID tells one boot of the machine from every other (random(4), boot_id). The
// zero value stands for one that is not known.
type BootID [16]byte

// String gives it as the kernel does: "5f2a5d5e-5d1c-4bb4-8a43-1d4fb2a8b1c4".
func (b BootID) String() string {
	digits := hex.EncodeToString(b[:])
	return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
}

var errBootID = errors.New("not in the format of boot_id")

// ParseBootID reads the text of String.
func ParseBootID(text string) (b BootID, err error) {
	if len(text) != 36 {
		return BootID{}, errBootID
	}
	n, err := hex.Decode(b[:], []byte(strings.ReplaceAll(text, "-", "")))
	if err != nil || n != len(b) || b.String() != strings.ToLower(text) {
		return BootID{}, errBootID
	}
	return b, nil
}

// ThisBoot is the boot of the kernel that runs, the zero value where /proc does not
// tell.
var ThisBoot = sync.OnceValue(func() BootID {
	text, err := readFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return BootID{}
	}
	b, _ := ParseBootID(strings.TrimSpace(string(text)))
	return b
})
