package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// cache is the module's .work, where the image is kept between runs.
const cache = "../../.work"

var imageOnce = sync.OnceValues(func() (*Image, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return Get(ctx, cache)
})

// testImage gives the image, or skips where there can be none.
func testImage(t *testing.T) *Image {
	t.Helper()
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	i, err := imageOnce()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestHostIsSystemdOnUnifiedCgroups(t *testing.T) {
	i := testImage(t)
	t.Parallel()
	got, err := i.Run(t.Context(), Job{
		Files: map[string]File{"gracelab/greeting": {Text: "a file of the job\n"}},
		Script: `cat /run/gracelab/greeting
cat /proc/1/comm
stat -f -c %T /sys/fs/cgroup
cat /sys/fs/cgroup/cgroup.controllers
crun --version | head -n 1
` + NewerCrun + ` --version | head -n 1
runc --version | head -n 1
conmon --version | head -n 1`,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a file of the job\n", "systemd\n", "cgroup2fs\n", "memory", "crun version 1.8.1\n", "crun version 1.21\n", "runc version 1.1", "conmon version 2.1"} {
		if !strings.Contains(got.Output, want) {
			t.Errorf("the host did not print %q; it printed:\n%s", want, got.Output)
		}
	}
	t.Logf("from start to power-off: %v", got.Took.Round(time.Second/10))
}

func TestScriptThatFails(t *testing.T) {
	i := testImage(t)
	t.Parallel()
	got, err := i.Run(t.Context(), Job{Script: "echo before; exit 3"})
	if err == nil || !strings.Contains(err.Error(), "the script ended with 3") {
		t.Errorf("error %v, want one that says 3", err)
	}
	if got == nil || !strings.Contains(got.Output, "before") {
		t.Errorf("what the script printed is lost")
	}
}

func TestFileOutsideOfRun(t *testing.T) {
	i := &Image{t.TempDir()}
	if err := os.WriteFile(i.path("busybox"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(i.path("modules"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		if err := os.WriteFile(i.path("modules", filepath.Base(m)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"../etc/passwd", "/etc/passwd", ""} {
		if err := i.writeInitrd(i.path("initrd"), Job{Files: map[string]File{name: {}}}); err == nil {
			t.Errorf("file %q was taken", name)
		}
	}
}
