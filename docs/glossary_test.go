package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// entry is a row of the table in glossary.md.
type entry struct{ words, retired []string }

func glossary(t *testing.T) (entries []entry) {
	t.Helper()
	quoted := regexp.MustCompile("`([^`]+)`")
	for _, row := range regexp.MustCompile(`(?m)^\| (.+?) \| (.+?) \|(.*)\|$`).FindAllStringSubmatch(read(t, "glossary.md"), -1) {
		if row[1] == "word" || row[1] == "---" {
			continue
		}
		e := entry{words: strings.Split(row[1], ", ")}
		for _, word := range quoted.FindAllStringSubmatch(row[3], -1) {
			e.retired = append(e.retired, word[1])
		}
		entries = append(entries, e)
	}
	if len(entries) < 20 {
		t.Fatalf("glossary.md has %d rows: has the table another form?", len(entries))
	}
	return entries
}

// pending are retired words that a package has still to do without.
var pending = map[string]string{
	"bed":      "supervisor/slumber supervisor/slumber/helper supervisor/monitor",
	"deposit":  "supervisor/monitor",
	"Handed":   "supervisor/attach supervisor/monitor",
	"handOn":   "supervisor/monitor",
	"HandOver": "supervisor/attach supervisor/monitor",
	"heritage": "supervisor/monitor",
	"letGo":    "supervisor/monitor",
	"memo":     "supervisor/monitor",
	"origin":   "supervisor/recovery supervisor/monitor",
	"passOn":   "supervisor/monitor",
	"patience": "supervisor/recovery supervisor/monitor",
	"slumber":  "supervisor/slumber",
	"succeed":  "supervisor/monitor",
	"tell":     "supervisor/monitor",
}

// TestGlossary: the documents use each word of the glossary, and the code declares
// nothing under a retired one.
func TestGlossary(t *testing.T) {
	var text strings.Builder
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		if page != "glossary.md" {
			text.WriteString(strings.ToLower(read(t, page)))
		}
	}
	declared := declarations(t)
	for _, e := range glossary(t) {
		for _, word := range e.words {
			if !regexp.MustCompile(`\b` + regexp.QuoteMeta(word)).MatchString(text.String()) {
				t.Errorf("no page uses %q", word)
			}
		}
		for _, word := range e.retired {
			if prose[word] && strings.Contains(text.String(), word) {
				t.Errorf("a page says %q, which is now %q", word, e.words[0])
			}
			for _, d := range declared {
				if d.has(word) && !strings.Contains(" "+pending[word]+" ", " "+d.pkg+" ") {
					t.Errorf("%s: %s has %q in it, which is now %q", d.at, d.name, word, e.words[0])
				}
			}
		}
	}
}

// prose are retired words that no page has in another sense.
var prose = map[string]bool{"heritage": true}

type declaration struct{ name, pkg, at string }

// has reports whether the word is in the name, which is in camel case.
func (d declaration) has(word string) bool {
	return strings.Contains(split(d.name)+" ", split(word)+" ")
}

// split gives the parts of a name in camel case, in lower case, each after a blank.
func split(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i == 0 || unicode.IsUpper(r) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// declarations lists packages, functions, types and fields of the programs; tests do not count.
func declarations(t *testing.T) (all []declaration) {
	t.Helper()
	for _, root := range []string{"runtime", "shim", "signals", "supervisor"} {
		err := filepath.WalkDir("../"+root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				return err
			}
			pkg, _ := filepath.Rel("..", filepath.Dir(path))
			add := func(id *ast.Ident) {
				all = append(all, declaration{id.Name, pkg, set.Position(id.Pos()).String()})
			}
			add(file.Name)
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					add(n.Name)
					return false
				case *ast.TypeSpec:
					add(n.Name)
				case *ast.StructType:
					for _, f := range n.Fields.List {
						for _, id := range f.Names {
							add(id)
						}
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(all) < 1000 {
		t.Fatalf("found only %d declarations", len(all))
	}
	return all
}
