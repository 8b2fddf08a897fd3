package host

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module makes an object file that says what it needs, as modpost writes it.
func module(t *testing.T, tree, file, depends string) {
	t.Helper()
	cc := exec.Command("gcc", "-c", "-x", "c", "-o", filepath.Join(tree, file), "-")
	cc.Stdin = strings.NewReader(`__attribute__((section(".modinfo"))) char license[] = "license=GPL", depends[] = "depends=` + depends + `";`)
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
}

// TestLoadOrder: Debian's kernels differ in whether virtio needs virtio_ring.
func TestLoadOrder(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("gcc is missing: integration/install-deps installs it")
	}
	for _, test := range []struct{ name, virtio, want string }{
		{"6.1.0-50", "", "virtio_ring virtio modern-dev virtio_pci virtio_blk"},
		{"6.1.0-56", "virtio_ring", "virtio_ring virtio modern-dev virtio_pci virtio_blk"},
		{"needs itself", "virtio_pci", ""},
		{"not there", "virtio_mem", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := t.TempDir()
			module(t, tree, "virtio.ko", test.virtio)
			module(t, tree, "virtio_ring.ko", "")
			module(t, tree, "modern-dev.ko", "")
			module(t, tree, "virtio_pci.ko", "virtio_ring,virtio,modern_dev")
			module(t, tree, "virtio_blk.ko", "virtio,virtio_ring")
			module(t, tree, "unwanted.ko", "virtio")
			files, err := loadOrder(tree, modulesOfDisk)
			var got []string
			for _, f := range files {
				got = append(got, strings.TrimSuffix(filepath.Base(f), ".ko"))
			}
			if test.want == "" {
				if err == nil {
					t.Errorf("no error, but %v", got)
				}
				return
			}
			if err != nil || !slices.Equal(got, strings.Fields(test.want)) {
				t.Errorf("%v, %v; want %s", got, err, test.want)
			}
		})
	}
}
