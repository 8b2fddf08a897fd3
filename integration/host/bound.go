package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// runBound runs a program that ends with this process, however that is ended: the
// kernel then sends it SIGTERM, by which mmdebstrap also takes its mounts away.
func runBound(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	// The kernel takes the thread that has started it for the parent (prctl(2),
	// PR_SET_PDEATHSIG). This one then lives as long as the program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// watchProgress ends ctx, by cancel, when none of the files has grown for as long
// as patience.
func watchProgress(ctx context.Context, cancel context.CancelCauseFunc, patience time.Duration, files ...string) {
	look := time.NewTicker(min(patience/10, time.Second))
	defer look.Stop()
	var p progress
	for {
		if p.silent(time.Now(), totalSize(files)) >= patience {
			cancel(fmt.Errorf("nothing new from it for %v", patience))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// progress is when something last grew.
type progress struct {
	size int64
	grew time.Time
}

// silent gives for how long it has not grown.
func (p *progress) silent(now time.Time, size int64) time.Duration {
	if size != p.size || p.grew.IsZero() {
		p.size, p.grew = size, now
	}
	return now.Sub(p.grew)
}

func totalSize(files []string) (sum int64) {
	for _, f := range files {
		if st, err := os.Stat(f); err == nil { // not there yet: 0
			sum += st.Size()
		}
	}
	return sum
}

// lastLines is the end of a text, enough to see where a host has stopped.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
