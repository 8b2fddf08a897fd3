// Package packages looks at the .deb and the .rpm that packaging/build makes: what is
// in them and, in clean Debian systems (`make test-packages`), what they do to a
// machine whose containers run.
package packages

import (
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// The versions that are built: what is installed first, and what takes its place.
const (
	before  = "v0.8.99"
	version = "v0.9.99-7-gabcdef12"
	inDeb   = "0.9.99+7.gabcdef12" // as a package writes it
)

var programs = []string{"gracelab", "gracemon", "gracerun", "gracerun-native"}

// build makes the packages of a version and gives their directory.
func build(t *testing.T, version, formats, arch string) string {
	t.Helper()
	for _, program := range []string{"dpkg-deb", "make", "gcc", "git"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed: no package can be built here", program)
		}
	}
	dir, err := os.MkdirTemp("", "gracerun-packages-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := exec.Command("../../packaging/build", dir, arch)
	cmd.Env = append(os.Environ(), "VERSION="+version, "FORMATS="+formats, "MAKEFLAGS=", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("packaging/build: %v\n%s", err, out)
	}
	return dir
}

// one gives the one file of a directory that has that ending.
func one(t *testing.T, dir, ending string) string {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(dir, "*"+ending))
	if len(found) != 1 {
		t.Fatalf("%q in %s, want one", found, dir)
	}
	return found[0]
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, said.Bytes())
	}
	return string(out)
}

func TestContents(t *testing.T) {
	dir := build(t, version, "rpm deb", runtime.GOARCH)
	deb := one(t, dir, ".deb")
	root := t.TempDir()
	output(t, "dpkg-deb", "-x", deb, root)
	t.Run("deb", func(t *testing.T) { testControl(t, deb, root) })
	t.Run("programs", func(t *testing.T) { testPrograms(t, root) })
	t.Run("manuals", func(t *testing.T) { testManuals(t, root) })
	t.Run("licences", func(t *testing.T) { testLicences(t, root) })
	t.Run("sbom", func(t *testing.T) { testSBOM(t, root) })
	t.Run("examples", func(t *testing.T) { testExamples(t, root) })
	t.Run("lintian", func(t *testing.T) { testLintian(t, deb) })
	t.Run("rpm", func(t *testing.T) { testRPM(t, one(t, dir, ".rpm"), root) })
}

func testControl(t *testing.T, deb, root string) {
	for field, want := range map[string]string{
		"Package": "gracerun", "Version": inDeb, "Architecture": runtime.GOARCH, "Recommends": "crun | runc",
	} {
		if got := strings.TrimSpace(output(t, "dpkg-deb", "-f", deb, field)); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	control := t.TempDir()
	output(t, "dpkg-deb", "-e", deb, control)
	if got := read(t, control, "conffiles"); got != "/etc/gracerun/config.toml\n" {
		t.Errorf("conffiles: %q", got)
	}
	for _, script := range []string{"postinst", "prerm"} {
		output(t, "sh", "-n", filepath.Join(control, script))
	}
}

func testPrograms(t *testing.T, root string) {
	for _, name := range programs {
		st, err := os.Stat(filepath.Join(root, "usr/bin", name))
		if err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", name, st, err)
			continue
		}
		if name == "gracerun" { // the wrapped runtime's version comes first, if there is one
			continue
		}
		if said := output(t, filepath.Join(root, "usr/bin", name), "--version"); !strings.Contains(said, version) {
			t.Errorf("%s --version says %q, want %s in it", name, said, version)
		}
	}
	// A gracemon without its own entry never sleeps.
	info, err := buildinfo.ReadFile(filepath.Join(root, "usr/bin/gracemon"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-tags" && s.Value == "slumber" }) {
		t.Errorf("gracemon was built without tag slumber: %v", info.Settings)
	}
}

// testManuals: every page of docs/man, and a completion for each program and shell.
func testManuals(t *testing.T, root string) {
	sources, err := filepath.Glob("../../docs/man/*.md")
	if err != nil || len(sources) < 5 {
		t.Fatalf("%v, %v", sources, err)
	}
	for _, source := range sources {
		name := strings.TrimSuffix(filepath.Base(source), ".md")
		section := strings.TrimPrefix(filepath.Ext(name), ".")
		f, err := os.Open(filepath.Join(root, "usr/share/man/man"+section, name+".gz"))
		if err != nil {
			t.Error(err)
			continue
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(z)
		if err != nil {
			t.Error(err)
		}
		f.Close()
		if head := strings.ToLower(firstLines(string(page), 10)); !strings.Contains(head, ".th ") || !strings.Contains(head, version) {
			t.Errorf("%s begins with %q, want a title with version %s", name, head, version)
		}
	}
	for _, p := range []string{"gracerun", "gracemon", "gracelab"} {
		for _, completion := range []string{"bash-completion/completions/" + p, "zsh/vendor-completions/_" + p, "fish/vendor_completions.d/" + p + ".fish"} {
			if text := read(t, root, "usr/share/"+completion); !strings.Contains(text, p) {
				t.Errorf("%s: %q", completion, firstLines(text, 5))
			}
		}
	}
}

// linked are the modules in the programs, as MODULE@VERSION.
func linked(t *testing.T, root, program string) []string {
	t.Helper()
	info, err := buildinfo.ReadFile(filepath.Join(root, "usr/bin", program))
	if err != nil {
		t.Fatal(err)
	}
	var modules []string
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		modules = append(modules, d.Path+"@"+d.Version)
	}
	return modules
}

func testLicences(t *testing.T, root string) {
	doc := "usr/share/doc/gracerun/"
	if !strings.Contains(read(t, root, doc+"LICENSE"), "Apache License") || !strings.Contains(read(t, root, doc+"copyright"), "third-party") {
		t.Error("the licence is not there")
	}
	seen := map[string]bool{"go": true, "glibc": true, "libseccomp": true}
	for _, p := range programs {
		for _, module := range linked(t, root, p) {
			seen[module] = true
		}
	}
	if len(seen) < 20 {
		t.Fatalf("the programs have only %v in them", slices.Sorted(maps.Keys(seen)))
	}
	for module := range seen {
		texts, _ := filepath.Glob(filepath.Join(root, doc, "third-party", module, "*"))
		size := int64(0)
		for _, text := range texts {
			if st, err := os.Stat(text); err == nil {
				size += st.Size()
			}
		}
		if size < 200 {
			t.Errorf("no licence text of %s: %v", module, texts)
		}
	}
}

func testSBOM(t *testing.T, root string) {
	for _, p := range programs {
		var sbom struct {
			BOMFormat  string `json:"bomFormat"`
			Components []struct{ Name, Version, Purl string }
		}
		if err := json.Unmarshal([]byte(read(t, root, "usr/share/doc/gracerun/sbom-"+p+".cdx.json")), &sbom); err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		has := map[string]bool{}
		for _, c := range sbom.Components {
			has[c.Name+"@"+c.Version] = true
		}
		for _, module := range linked(t, root, p) {
			if !has[module] {
				t.Errorf("the SBOM of %s (%s) lacks %s", p, sbom.BOMFormat, module)
			}
		}
	}
}

// testExamples: all of docs/deploy, with the paths of the package.
func testExamples(t *testing.T, root string) {
	files, err := os.ReadDir("../../docs/deploy")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) == ".go" {
			continue
		}
		text := read(t, root, "usr/share/doc/gracerun/examples/"+f.Name())
		if strings.HasSuffix(f.Name(), ".conf") && strings.Contains(text, "/usr/local/") {
			t.Errorf("%s has a path of make install", f.Name())
		}
	}
}

func testLintian(t *testing.T, deb string) {
	if _, err := exec.LookPath("lintian"); err != nil {
		t.Skip("lintian is not installed (make test-packages installs it)")
	}
	cmd := exec.Command("lintian", "--allow-root", "--fail-on", "error,warning", deb)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}

// testRPM: the same files as in the .deb, but for Debian's own.
func testRPM(t *testing.T, rpm, root string) {
	if _, err := exec.LookPath("rpm"); err != nil {
		t.Skip("rpm is not installed (make test-packages installs it)")
	}
	query := func(args ...string) string {
		return output(t, "rpm", append([]string{"-qp", "--nosignature"}, append(args, rpm)...)...)
	}
	if got := query("--queryformat", "%{NAME} %{VERSION} %{LICENSE}"); got != "gracerun "+inDeb+" Apache-2.0" {
		t.Errorf("it is %q", got)
	}
	if got := query("--configfiles"); got != "/etc/gracerun/config.toml\n" {
		t.Errorf("configuration files: %q", got)
	}
	if got := query("--recommends"); !strings.Contains(got, "(crun or runc)") {
		t.Errorf("it recommends %q", got)
	}
	if got := query("--scripts"); !strings.Contains(got, "gracemon --upgrade all") || !strings.Contains(got, "go on without the package") {
		t.Errorf("its scripts: %q", got)
	}
	output(t, "rpm", "-K", "--nosignature", rpm)
	var inRPM, inDeb []string
	for line := range strings.Lines(query("--list")) {
		inRPM = append(inRPM, strings.Replace(strings.TrimSpace(line), "/zsh/site-functions/", "/zsh/vendor-completions/", 1))
	}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		name := strings.TrimPrefix(path, root)
		if err == nil && !d.IsDir() && !strings.HasPrefix(name, "/usr/share/lintian/") && name != "/usr/share/doc/gracerun/changelog.gz" {
			inDeb = append(inDeb, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range inDeb {
		if !slices.Contains(inRPM, name) {
			t.Errorf("the rpm lacks %s", name)
		}
	}
	for _, name := range inRPM {
		if st, err := os.Stat(root + name); err != nil || !st.IsDir() && !slices.Contains(inDeb, name) {
			t.Errorf("only the rpm has %s", name)
		}
	}
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func firstLines(text string, n int) string {
	lines := strings.SplitN(text, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}
