package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tree is a copy of the Makefile among programs that only write down how they are
// called: what make does is looked at, not what they would do.
type tree struct {
	t    *testing.T
	dir  string
	bin  string // in front of PATH, and all of it but for the shell's own programs
	path string
}

func makeTree(t *testing.T) *tree {
	t.Helper()
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is not installed")
	}
	dir := t.TempDir()
	m := &tree{t, dir, filepath.Join(dir, "path"), filepath.Join(dir, "path") + ":/usr/bin:/bin"}
	write(t, filepath.Join(dir, "Makefile"), read(t, "../Makefile"), 0o644)
	m.program("go", `for a; do [ -z "$into" ] || { mkdir -p "${a%/*}"; echo '#!/bin/true' >"$a"; chmod +x "$a"; }; into=; [ "$a" != -o ] || into=1; done`)
	m.program("pkg-config", "exit 1")
	return m
}

// program puts a program into PATH that writes down its name and arguments and then
// runs the script.
func (m *tree) program(name, script string) {
	m.t.Helper()
	write(m.t, filepath.Join(m.bin, name), "#!/bin/sh\necho "+name+` "$@" >>`+m.dir+"/calls\n"+script+"\n", 0o755)
}

// make runs it and gives what it said, and the calls of the programs.
func (m *tree) make(args ...string) (said, calls string) {
	m.t.Helper()
	cmd := exec.Command("make", append([]string{"-C", m.dir, "GO=" + m.bin + "/go"}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+m.path, "MAKEFLAGS=", "MFLAGS=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.t.Fatalf("make %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), read(m.t, filepath.Join(m.dir, "calls"))
}

// TestDemoOnAFreshMachine: libseccomp is there only when deps has installed it, and
// gracerun-native is built with it.
func TestDemoOnAFreshMachine(t *testing.T) {
	for _, jobs := range []string{"-j1", "-j8"} {
		m := makeTree(t)
		write(t, filepath.Join(m.dir, "integration/install-deps"),
			"#!/bin/sh\nsleep 0.3\nprintf '#!/bin/sh\\nexit 0\\n' >"+m.bin+"/pkg-config\n", 0o755)
		said, calls := m.make(jobs, "demo")
		var native string
		for line := range strings.Lines(calls) {
			if strings.HasSuffix(strings.TrimSpace(line), "./cmd/gracerun-native") {
				native = line
			}
		}
		if !strings.Contains(native, "-tags runc_nocriu netgo osusergo seccomp ") || strings.Contains(said, "WITHOUT") {
			t.Errorf("make %s demo built %q and said:\n%s", jobs, native, said)
		}
	}
}
