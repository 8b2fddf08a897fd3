package lifecycle

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
)

// A runtimeUnderTest is one OCI runtime and how it is called.
type runtimeUnderTest struct {
	name      string
	program   string
	env       []string
	namespace string // of mounts, to be entered first; "": this one
	version   string // first line of its --version
	missing   string // why it cannot be tested here, if so

	wrapped *runtimeUnderTest // if this is gracerun: over which one
}

// runtimes gives every runtime that there is to test, those that are missing
// too: a skip says why.
func runtimes() []*runtimeUnderTest {
	bin := binaries()
	native := runtimeUnderTest{name: "gracerun-native", program: bin.path("gracerun-native"), missing: bin.missing["gracerun-native"]}
	native2 := native
	direct := []*runtimeUnderTest{installed("runc"), &native, onCgroup2(installed("crun")), onCgroup2(&native2)}
	all := direct
	for _, r := range direct {
		all = append(all, wrapped(r, bin.path("gracerun"), bin.missing["gracerun"]))
	}
	for _, r := range all {
		r.readVersion()
	}
	return all
}

func installed(name string) *runtimeUnderTest {
	path, err := exec.LookPath(name)
	if err != nil {
		return &runtimeUnderTest{name: name, missing: name + " is not installed"}
	}
	return &runtimeUnderTest{name: name, program: path}
}

// wrapped puts gracerun in front of a runtime.
func wrapped(r *runtimeUnderTest, gracerun, missing string) *runtimeUnderTest {
	w := &runtimeUnderTest{name: "gracerun over " + r.name, missing: r.missing, namespace: r.namespace, wrapped: r}
	if w.missing == "" {
		w.missing = missing
	}
	if w.missing == "" {
		w.program = gracerun
		w.env = []string{"GRACERUN_RUNTIME=" + r.program}
	}
	return w
}

// onCgroup2 calls the runtime where /sys/fs/cgroup is a cgroup2 mount. crun does
// not work on a hybrid host, where that is a tmpfs full of version 1 hierarchies.
func onCgroup2(r *runtimeUnderTest) *runtimeUnderTest {
	if r.missing != "" {
		return r
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return r // as it is
	}
	r.name += " on cgroup2"
	var err error
	if r.namespace, err = testbed.Cgroup2Namespace(); err != nil {
		r.missing = "no mount namespace with cgroup2: " + err.Error()
	}
	return r
}

// command gives a call of the runtime in that directory.
func (r *runtimeUnderTest) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	argv := append([]string{r.program}, args...)
	if r.namespace != "" {
		argv = append([]string{"nsenter", "--mount=" + r.namespace, "--wdns=" + dir}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), r.env...)
	cmd.Dir = dir
	return cmd
}

func (r *runtimeUnderTest) readVersion() {
	if r.missing != "" {
		return
	}
	cmd := r.command(context.Background(), "/", "--version")
	output, err := cmd.CombinedOutput()
	if err != nil {
		r.missing = fmt.Sprintf("%s: %v: %s", cmd, err, output)
		return
	}
	first, _, _ := bytes.Cut(output, []byte("\n"))
	r.version = string(first)
}

// programs are those built from this tree, and why those are missing that could
// not be built.
type programs struct {
	dir     string
	missing map[string]string
}

// binaries builds the programs under test.
var binaries = sync.OnceValue(func() programs {
	dir, err := os.MkdirTemp("", "gracerun-lifecycle-")
	if err != nil {
		panic(err)
	}
	return programs{dir, testbed.Build(dir, "gracerun", "gracerun-native")}
})

func (p *programs) path(name string) string { return filepath.Join(p.dir, name) }

func TestMain(m *testing.M) {
	// Processes of containers are reparented to this one when their runtime
	// ends, so that a test can wait for them and learn how they ended.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(binaries().dir)
	removeCgroups()
	os.Exit(code)
}
