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

// TestInstallLabels: where there is SELinux `make install` tells the host's policy of
// the programs, and never when it fills a DESTDIR for another host.
func TestInstallLabels(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root labels programs")
	}
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		t.Skip("this host has SELinux: its own labels are not to be touched")
	}
	const added = "semanage fcontext -a -t container_runtime_exec_t PREFIX/bin/gracerun\n" +
		"semanage fcontext -a -t container_runtime_exec_t PREFIX/bin/gracerun-native\n" +
		"semanage fcontext -a -t conmon_exec_t PREFIX/bin/gracemon\n"
	const newRun, oldRun = "semanage fcontext -a -t container_var_run_t /run/gracerun(/.*)?\n", "semanage fcontext -a -t container_var_run_t /var/run/gracerun(/.*)?\n"
	const labelled = "restorecon -RF PREFIX/bin/gracerun\nrestorecon -RF PREFIX/bin/gracerun-native\nrestorecon -RF PREFIX/bin/gracemon\n"
	for _, test := range []struct {
		name, destdir string
		rules         string // that the policy has already
		fails         string // the verb of semanage that fails
		want          string
		says          string
	}{
		{name: "a host", want: added + newRun + labelled},
		{name: "an older policy", rules: "/run = /var/run", want: added + oldRun + labelled},
		{name: "installed before, and the monitor labelled as another", want: "semanage fcontext -m -t conmon_exec_t PREFIX/bin/gracemon\n" + labelled,
			rules: "PREFIX/bin/gracerun     all files   system_u:object_r:container_runtime_exec_t:s0\n" +
				"PREFIX/bin/gracerun-native     all files   system_u:object_r:container_runtime_exec_t:s0\n" +
				"PREFIX/bin/gracemon     all files   system_u:object_r:container_runtime_exec_t:s0\n" +
				"/run/gracerun(/.*)?     all files   system_u:object_r:container_var_run_t:s0\n"},
		{name: "no container-selinux", fails: "-a", want: added + newRun + labelled, says: "no file context for PREFIX/bin/gracemon. If the policy lacks the type, install container-selinux"},
		{name: "a package", destdir: "PREFIX/dest", want: ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := makeTree(t)
			prefix := filepath.Join(m.dir, "usr")
			here := strings.NewReplacer("PREFIX", prefix)
			write(t, filepath.Join(m.dir, "docs/deploy/gracerun-selinux"), read(t, "deploy/gracerun-selinux"), 0o644)
			write(t, filepath.Join(m.dir, "rules"), here.Replace(test.rules)+"\n/var/run = /run2\n", 0o644)
			m.program("semanage", `case $2 in -l) cat `+m.dir+`/rules ;; "`+test.fails+`") exit 1 ;; esac`)
			m.program("restorecon", "")
			said, calls := m.make("install", "PREFIX="+prefix, "DESTDIR="+here.Replace(test.destdir))
			var labels strings.Builder
			for line := range strings.Lines(calls) {
				if strings.HasPrefix(line, "restorecon") || strings.HasPrefix(line, "semanage fcontext -") && !strings.HasPrefix(line, "semanage fcontext -l") {
					// Of this machine, if it has run gracerun.
					if line != "restorecon -RF /run/gracerun\n" {
						labels.WriteString(line)
					}
				}
			}
			if got := labels.String(); got != here.Replace(test.want) {
				t.Errorf("called:\n%swant:\n%s", got, here.Replace(test.want))
			}
			if !strings.Contains(said, here.Replace(test.says)) {
				t.Errorf("said %q, want %q", said, test.says)
			}
			if _, err := os.Stat(here.Replace(test.destdir) + prefix + "/bin/gracemon"); err != nil {
				t.Error(err)
			}
		})
	}
}
