package host

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// modulesOfDisk are what the kernel needs to see its disk, beside what they need
// themselves, which differs from version to version.
var modulesOfDisk = []string{"virtio_pci", "virtio_blk"}

// loadOrder gives the files of the wanted modules and of all that they depend on,
// each after those it needs. tree is where a kernel's modules are.
func loadOrder(tree string, wanted []string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			files[moduleName(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var order []string
	var add func(name string, above []string) error
	add = func(name string, above []string) error {
		file := files[moduleName(name)]
		switch {
		case file == "":
			return fmt.Errorf("there is no module %s in %s", name, tree)
		case slices.Contains(order, file):
			return nil
		case slices.Contains(above, file):
			return fmt.Errorf("module %s needs itself: %v", name, above)
		}
		needs, err := dependencies(file)
		if err != nil {
			return err
		}
		for _, need := range needs {
			if err := add(need, append(above, file)); err != nil {
				return err
			}
		}
		order = append(order, file)
		return nil
	}
	for _, name := range wanted {
		if err := add(name, nil); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName: a file may be named with dashes, the kernel has none.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// dependencies reads the names of the modules that one needs from the section in
// which modpost has written them: texts "key=value", each with a zero byte behind.
func dependencies(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", file, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("module %s has no section .modinfo", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", file, err)
	}
	for text := range bytes.SplitSeq(info, []byte{0}) {
		if names, ok := strings.CutPrefix(string(text), "depends="); ok {
			return strings.FieldsFunc(names, func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}
