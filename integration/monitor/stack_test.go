package monitor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
	"gracerun.io/supervisor/slumber"
)

// A stack is a monitor and the runtime that it calls.
type stack struct {
	name      string
	monitor   string
	runtime   string
	ours      bool
	namespace string // of mounts, to be entered first; "": this one
	missing   string // why it cannot be tested here, if so
}

// stacks gives gracemon and Debian's conmon over a runtime: what one does, the
// other must.
func stacks(runtime string) (ours, theirs *stack) {
	ours = &stack{name: "gracemon over " + runtime, ours: true}
	theirs = &stack{name: "conmon over " + runtime}
	program, err := gracemon()
	if err != nil {
		ours.missing = "gracemon does not build: " + err.Error()
	}
	ours.monitor = program
	theirs.monitor = theirs.find("conmon")
	for _, s := range []*stack{ours, theirs} {
		s.runtime = s.find(runtime)
		if os.Geteuid() != 0 {
			s.missing = "only root can make these containers"
		}
		if filepath.Base(runtime) == "crun" && s.missing == "" {
			s.enterCgroup2()
		}
	}
	return ours, theirs
}

func (s *stack) find(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		s.missing = program + " is not installed"
	}
	return path
}

// enterCgroup2 is for crun, which does not work on a hybrid host.
func (s *stack) enterCgroup2() {
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return
	}
	var err error
	if s.namespace, err = testbed.Cgroup2Namespace(); err != nil {
		s.missing = "no mount namespace with cgroup2: " + err.Error()
	}
}

func (s *stack) need(t *testing.T) {
	t.Helper()
	if s.missing != "" {
		t.Skip(s.missing)
	}
}

// command gives a call of a program in that directory.
func (s *stack) command(dir, program string, args ...string) *exec.Cmd {
	argv := append([]string{program}, args...)
	if s.namespace != "" {
		argv = append([]string{"nsenter", "--mount=" + s.namespace, "--wdns=" + dir}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	return cmd
}

// gracemon builds the program under test as the Makefile does: what is tested is
// this source.
var gracemon = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "build", "-trimpath", "-tags", slumber.Tag, "-ldflags", "-s -w "+slumber.LinkerFlags, "-o", filepath.Join(programs, "gracemon"), "../../cmd/gracemon")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, output)
	}
	return filepath.Join(programs, "gracemon"), nil
})

var programs string

func TestMain(m *testing.M) { os.Exit(testbed.UnderReaper(func() int { return run(m) })) }

func run(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "gracemon-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(programs)
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		parents, _ := filepath.Glob(pattern + cgroupParent)
		for _, dir := range parents {
			os.Remove(dir)
		}
	}
	return code
}
