package docs

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// layer is a row of the table of packages in architecture.md.
type layer struct {
	name   string
	order  int // 0 is the lowest
	within bool
}

func layers(t *testing.T) map[string]layer {
	t.Helper()
	text := read(t, "architecture.md")
	_, text, _ = strings.Cut(text, "| layer | packages | within |")
	text, _, _ = strings.Cut(text, "\n\n")
	of := map[string]layer{}
	rows := regexp.MustCompile(`(?m)^\| ([a-z ]+) \| (.*) \| (yes|no) \|$`).FindAllStringSubmatch(text, -1)
	for i, row := range rows {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			if _, twice := of[name[1]]; twice {
				t.Errorf("%s is in two layers", name[1])
			}
			of[name[1]] = layer{row[1], len(rows) - i, row[3] == "yes"}
		}
	}
	if len(rows) < 5 || len(of) < 30 {
		t.Fatalf("architecture.md has %d layers with %d packages: has the table another form?", len(rows), len(of))
	}
	return of
}

// find gives the listed package that a package is, or belongs to.
func find(of map[string]layer, name string) (listed string, l layer, ok bool) {
	for {
		if l, ok = of[name]; ok {
			return name, l, true
		}
		slash := strings.LastIndexByte(name, '/')
		if slash < 0 {
			return "", layer{}, false
		}
		name = name[:slash]
	}
}

// imports gives what each package of the project imports; tests do not count.
func imports(t *testing.T) map[string]map[string]bool {
	t.Helper()
	all := map[string]map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != ".." || path != ".." && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir // another module
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel("..", filepath.Dir(path))
		if all[name] == nil {
			all[name] = map[string]bool{}
		}
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			all[name][imported] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Every package has its layer, and imports lead downwards.
func TestImportsLeadDownwards(t *testing.T) {
	of := layers(t)
	seen := map[string]bool{}
	for name, imported := range imports(t) {
		listed, mine, ok := find(of, name)
		if !ok {
			t.Errorf("package %s has no layer in architecture.md", name)
			continue
		}
		seen[listed] = true
		for path := range imported {
			other, ours := strings.CutPrefix(path, "gracerun.io/")
			if !ours {
				continue
			}
			owner, theirs, ok := find(of, other)
			switch {
			case !ok || owner == listed:
			case theirs.order > mine.order, theirs.order == mine.order && !mine.within:
				t.Errorf("%s (%s) imports %s (%s)", name, mine.name, other, theirs.name)
			}
		}
	}
	for name := range of {
		if _, err := os.Stat(filepath.Join("..", name)); err != nil || !seen[name] && name != "docs" && name != "integration" {
			t.Errorf("architecture.md lists %s, which has no package (%v)", name, err)
		}
	}
}

// The machine knows nothing of the world.
func TestMachineIsPure(t *testing.T) {
	for path := range imports(t)["supervisor/lifecycle"] {
		if strings.HasPrefix(path, "gracerun.io/") && path != "gracerun.io/signals" && !strings.HasPrefix(path, "gracerun.io/supervisor/lifecycle/") ||
			path == "os" || path == "time" || path == "syscall" || strings.HasPrefix(path, "golang.org/x/sys") {
			t.Errorf("supervisor/lifecycle imports %s", path)
		}
	}
}

// What is named as the place for a change is there.
func TestMapNamesWhatExists(t *testing.T) {
	_, table, _ := strings.Cut(read(t, "architecture.md"), "## If you want to change")
	named := 0
	for _, m := range regexp.MustCompile("`([a-zA-Z0-9_./-]+)`").FindAllStringSubmatch(table, -1) {
		if !strings.Contains(m[1], "/") {
			continue
		}
		named++
		if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
			t.Error(err)
		}
	}
	if named < 15 {
		t.Errorf("only %d places are named", named)
	}
}
