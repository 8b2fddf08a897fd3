package usage

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// literals gives every `flag{name: "x"}` and every `case "x"` of a switch over
// that expression, in the files where.
func literals(t *testing.T, where, switchOver string) (flags, cases []string) {
	files, err := filepath.Glob(where)
	if err != nil || len(files) == 0 {
		t.Fatal("no files are", where, err)
	}
	text := func(e ast.Expr) string {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			s, _ := strconv.Unquote(lit.Value)
			return s
		}
		return ""
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && key.Name == "name" && text(n.Value) != "" {
					flags = append(flags, text(n.Value))
				}
			case *ast.SwitchStmt:
				over := ""
				switch tag := n.Tag.(type) {
				case *ast.SelectorExpr:
					over = tag.Sel.Name
				case *ast.Ident:
					over = tag.Name
				}
				if over != switchOver {
					return true
				}
				for _, clause := range n.Body.List {
					for _, e := range clause.(*ast.CaseClause).List {
						if s := text(e); s != "" {
							cases = append(cases, s)
						}
					}
				}
			}
			return true
		})
	}
	return flags, cases
}

// Every command and option that package shim looks for has its help.
func TestEveryCommandAndOptionIsListed(t *testing.T) {
	flags, commands := literals(t, "../*.go", "command")
	if len(flags) < 8 || len(commands) < 12 {
		t.Fatalf("only %q and %q were found: has package shim another form?", flags, commands)
	}
	for _, name := range commands {
		if Find(name) == nil {
			t.Errorf("command %q has no entry in Commands", name)
		}
	}
	for i := range Commands {
		if !slices.Contains(commands, Commands[i].Name) {
			t.Errorf("package shim has no command %q", Commands[i].Name)
		}
	}
	known := map[string]bool{}
	for i := range Commands {
		for _, o := range Commands[i].Options {
			known[o.Name] = true
			if !slices.Contains(flags, o.Name) {
				t.Errorf("package shim does not look for --%s of %s", o.Name, Commands[i].Name)
			}
		}
	}
	for _, name := range flags {
		if !known[name] {
			t.Errorf("option --%s has no entry in Commands", name)
		}
	}
}

func TestEveryGlobalIsListed(t *testing.T) {
	_, names := literals(t, "../../runtime/oci/globals.go", "name")
	_, others := literals(t, "../commandline.go", "Other")
	names = append(names, others...)
	for _, o := range Globals {
		if !slices.Contains(names, o.Name) {
			t.Errorf("gracerun does not look for --%s", o.Name)
		}
	}
	for _, name := range names {
		known := len(name) == 1 || slices.ContainsFunc(Globals, func(o Option) bool { return o.Name == name })
		if !known {
			t.Errorf("option --%s has no entry in Globals", name)
		}
	}
}

func TestHelp(t *testing.T) {
	for i := range Commands {
		c := &Commands[i]
		help := c.Help()
		if !strings.HasPrefix(help, "Usage: gracerun "+c.Name) {
			t.Errorf("%s: the help begins with %.40q", c.Name, help)
		}
		for _, o := range c.Options {
			want := "--" + o.Name
			if o.Value != "" {
				want += "=" + o.Value
			}
			if !strings.Contains(help, want) || o.Default != "" && !strings.Contains(help, "(default: "+o.Default+")") {
				t.Errorf("%s: the help lacks %s or its default:\n%s", c.Name, want, help)
			}
		}
		if !strings.Contains(Overview(), "\n  "+c.Name+" ") {
			t.Errorf("%s is not in the overview", c.Name)
		}
	}
}

func TestWanted(t *testing.T) {
	for line, want := range map[string]bool{
		"--help": true, "-h": true, "-a --help": true, "-help": true,
		"": false, "id --help": false, "-- --help": false, "id sh -h": false,
	} {
		if got := Wanted(strings.Fields(line)); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}
