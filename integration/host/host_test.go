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

// cache is where gracelab has it too, if it is run at the top of the source tree.
const cache = "../../.work/host"

var imageOnce = sync.OnceValues(func() (*Image, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // a minute, but for load and mirror
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

func TestScriptThatFails(t *testing.T) {
	i := testImage(t)
	got, err := i.Run(t.Context(), Job{Script: "cat /run/gracelab/greeting; echo before; exit 3", Files: map[string]File{"gracelab/greeting": {Text: "a file of the job\n"}}})
	if err == nil || !strings.Contains(err.Error(), "the script ended with 3") {
		t.Errorf("error %v, want one that says 3", err)
	}
	if got == nil || !strings.Contains(got.Output, "a file of the job\nbefore\n") {
		t.Errorf("what the script printed is lost")
	}
}

func TestFileOutsideOfRun(t *testing.T) {
	i := &Image{dir: t.TempDir()}
	if err := os.WriteFile(i.path("busybox"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(i.path("modules"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(i.path("modules", "order"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../etc/passwd", "/etc/passwd", ""} {
		if err := i.writeInitrd(i.path("initrd"), Job{Files: map[string]File{name: {}}}); err == nil {
			t.Errorf("file %q was taken", name)
		}
	}
}

func TestImageIsNotMadeOverOtherFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	i := &Image{dir: dir}
	if err := i.replace(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "not ours to remove") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "thesis.txt")); err != nil {
		t.Error(err)
	}
}
