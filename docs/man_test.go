package docs

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gracerun.io/shim/usage"
	"gracerun.io/supervisor/cmdline"
	"gracerun.io/supervisor/settings"
)

func manual(t *testing.T, name string) string {
	text, err := os.ReadFile(filepath.Join("man", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var longOption = regexp.MustCompile(`\*\*--([a-z-]+)\*\*`)

func options(page string) (names []string) {
	for _, m := range longOption.FindAllStringSubmatch(page, -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func TestManualOfGracerun(t *testing.T) {
	page := manual(t, "gracerun.8.md")
	known := map[string]bool{}
	check := func(where string, o usage.Option) {
		known[o.Name] = true
		want := "**--" + o.Name + "**"
		if o.Value != "" {
			want += "=*" + o.Value + "*"
		}
		if o.Short != "" {
			if !strings.Contains(where, "**-"+o.Short+"**|"+want) && !strings.Contains(where, "**-"+o.Short+"**, "+want) {
				t.Errorf("%s with -%s is not in %q", want, o.Short, where)
			}
		} else if !strings.Contains(where, want) {
			t.Errorf("%s is not in %q", want, where)
		}
	}
	for _, o := range usage.Globals {
		check(page, o)
	}
	for _, c := range usage.Commands {
		line := regexp.MustCompile(`(?m)^.*\*\*` + c.Name + `\*\*.*$\n:   `).FindString(page)
		if line == "" {
			t.Errorf("command %s has no entry", c.Name)
		}
		for _, o := range c.Options {
			check(line, o)
		}
	}
	for _, name := range options(page) {
		if !known[name] {
			t.Errorf("gracerun has no option --%s", name)
		}
	}
}

func TestManualOfGracemon(t *testing.T) {
	page := manual(t, "gracemon.8.md")
	_, err := cmdline.Parse([]string{"--help"})
	var exit *cmdline.Exit
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var known []string
	for _, m := range regexp.MustCompile(`(?m)^  (?:-(.), )?--([a-z-]+)(?:=(\S+))? `).FindAllStringSubmatch(exit.Stdout, -1) {
		known = append(known, m[2])
		want := "**--" + m[2] + "**"
		if m[1] != "" {
			want = "**-" + m[1] + "**, " + want
		}
		if m[3] != "" {
			want += "=*" + m[3] + "*"
		}
		if !strings.Contains(page, "\n"+want+"\n:   ") {
			t.Errorf("%s has no entry", want)
		}
	}
	slices.Sort(known)
	if got := options(page); len(known) < 40 || !slices.Equal(got, known) {
		t.Errorf("the page has the options %q, the program %q", got, known)
	}
}

// Every environment variable that the programs read is in one of the pages, and
// no other.
func TestManualsHaveEveryVariable(t *testing.T) {
	variable := regexp.MustCompile(`"(GRACE(?:RUN|MON)_[A-Z_]+)"`)
	inCode := map[string]bool{}
	for _, dir := range []string{"shim", "supervisor", "runtime", "faults", "signals", "cmd/gracerun", "cmd/gracemon"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range variable.FindAllStringSubmatch(string(text), -1) {
				inCode[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(inCode) < 4 {
		t.Fatalf("the code reads only %v: is it written otherwise now?", inCode)
	}
	pages := manual(t, "gracerun.8.md") + manual(t, "gracemon.8.md") + manual(t, "gracerun.toml.5.md")
	inPages := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(\*\*GRACE.*)\n:   `).FindAllStringSubmatch(pages, -1) {
		for _, name := range strings.Split(m[1], ", ") {
			inPages[strings.Trim(name, "*")] = true
		}
	}
	for name := range inCode {
		if !inPages[name] {
			t.Errorf("%s has no entry", name)
		}
	}
	for name := range inPages {
		if !inCode[name] {
			t.Errorf("no program reads %s", name)
		}
	}
}

func TestManualOfTheConfiguration(t *testing.T) {
	code, err := os.ReadFile("../supervisor/settings/settings.go")
	if err != nil {
		t.Fatal(err)
	}
	inCode := map[string]bool{}
	_, body, _ := strings.Cut(string(code), "\tswitch name {\n")
	body, _, _ = strings.Cut(body, "\tdefault:")
	for _, m := range regexp.MustCompile(`(?m)^\tcase "([a-z.-]+)":`).FindAllStringSubmatch(body, -1) {
		inCode[m[1]] = true
	}
	if len(inCode) < 8 {
		t.Fatalf("the code knows only the keys %v: is it written otherwise now?", inCode)
	}
	inPage := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\*\*([a-z.-]+)\*\* = .*\n:   `).FindAllStringSubmatch(manual(t, "gracerun.toml.5.md"), -1) {
		inPage[m[1]] = true
	}
	if !maps.Equal(inCode, inPage) {
		t.Errorf("the code knows the keys %v, the page %v", inCode, inPage)
	}
}

func TestManualOfTheAnnotations(t *testing.T) {
	page := manual(t, "gracerun-annotations.7.md")
	inCode := map[string]bool{settings.FaultsAnnotation: true}
	for _, name := range settings.Defaults().Heard {
		inCode[name] = true
	}
	inPage := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\*([a-zA-Z.]+)\*\n:   `).FindAllStringSubmatch(page, -1) {
		inPage[m[1]] = true
	}
	if !maps.Equal(inCode, inPage) {
		t.Errorf("the code knows the annotations %v, the page %v", inCode, inPage)
	}
	_, policies, _ := strings.Cut(page, "\n# POLICIES\n")
	for _, policy := range settings.Defaults().Policies {
		if !strings.Contains("\n"+policies, "\n**"+policy.String()+"**\n:   ") {
			t.Errorf("policy %s has no entry", policy)
		}
	}
}

// Every file of a container's state directory that the code has a name for is in the
// reference.
func TestManualOfTheFiles(t *testing.T) {
	named := regexp.MustCompile(`(?m)^\s*(?:const )?(?:\w*(?:File|Name)|Name) += "([a-z.]+)"$`)
	inCode := map[string]bool{}
	for _, source := range []string{
		"supervisor/recovery/*.go", "supervisor/journal/*.go", "supervisor/control/*.go", "supervisor/logs/spool/*.go",
		"supervisor/history/find.go", "runtime/statedir/*.go", "shim/*.go",
	} {
		files, err := filepath.Glob(filepath.Join("..", source))
		if err != nil || files == nil {
			t.Fatalf("%s: %v, %v", source, files, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, m := range named.FindAllStringSubmatch(read(t, file), -1) {
				inCode[m[1]] = true
			}
		}
	}
	if len(inCode) < 10 {
		t.Fatalf("the code names only the files %v: is it written otherwise now?", inCode)
	}
	_, files, _ := strings.Cut(manual(t, "gracerun.8.md"), "\n# FILES\n")
	files, _, _ = strings.Cut(files, "\n# ")
	for name := range inCode {
		if !strings.Contains(files, "*"+name+"*") {
			t.Errorf("%s has no entry in FILES", name)
		}
	}
}
