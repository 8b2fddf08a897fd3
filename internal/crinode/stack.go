package crinode

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Stack is what CRI-O is told to run containers by.
type Stack struct {
	Name    string
	Monitor string   // conmon or gracemon, a path
	Runtime string   // the OCI runtime that does the work, a path
	Shim    string   // gracerun, which is in front of it; "" for none
	Policy  string   // of ours, as /etc/gracerun/config.toml has it; "": the default
	Env     []string // of monitor, runtime and CRI-O, in addition
	Plain   bool     // no script before the runtime: the containers are ones that this machine can run
	Missing string   // why there are no containers of this stack here, "" if there are
}

// Ours reports whether the stack is gracemon and gracerun.
func (s *Stack) Ours() bool { return s.Shim != "" }

// Stock is Debian's conmon over a runtime: "runc" or "crun".
func Stock(runtime string) *Stack {
	s := &Stack{}
	s.Monitor, s.Runtime = s.find("conmon"), s.find(runtime)
	s.Name = "conmon + " + s.runtime()
	return s.settle()
}

// Ours is gracemon, and gracerun over a runtime. Both, and gracerun-native, are in
// the directory programs.
func Ours(programs, runtime, policy string) *Stack {
	s := &Stack{Policy: policy}
	if runtime == "gracerun-native" {
		runtime = filepath.Join(programs, runtime)
	}
	s.Monitor, s.Shim = s.find(filepath.Join(programs, "gracemon")), s.find(filepath.Join(programs, "gracerun"))
	s.Runtime = s.find(runtime)
	s.Name = "gracemon + gracerun over " + s.runtime()
	if policy != "" {
		s.Name += ", " + policy
	}
	return s.settle()
}

// runtime names the runtime, with its version.
func (s *Stack) runtime() string {
	name := filepath.Base(s.Runtime)
	out, _ := exec.Command(s.Runtime, "--version").Output()
	for line := range strings.Lines(string(out)) {
		if _, version, found := strings.Cut(line, " version "); found && name != "gracerun-native" {
			version, _, _ = strings.Cut(strings.TrimSpace(version), "+")
			return name + " " + version
		}
	}
	return name
}

// knowsVersion reports whether the runtime takes bundles of the version that
// CRI-O 1.36 writes, 1.3: crun before 1.9 takes 1.0 alone.
func (s *Stack) knowsVersion() bool {
	var minor int
	_, version, _ := strings.Cut(s.runtime(), " ")
	_, err := fmt.Sscanf(version, "1.%d", &minor)
	return filepath.Base(s.Runtime) != "crun" || err == nil && minor >= 9
}

func (s *Stack) find(program string) string {
	path, err := exec.LookPath(program)
	if err != nil && s.Missing == "" {
		s.Missing = program + " is not there (make deps)"
	}
	return path
}

func (s *Stack) settle() *Stack {
	if os.Geteuid() != 0 && s.Missing == "" {
		s.Missing = "only root can run a CRI-O with these containers"
	}
	return s
}

// cgroup2 reports whether the stack needs a mount of cgroup2 that is not there:
// crun refuses the hybrid of versions 1 and 2. There are no controllers in it, as
// they are version 1's.
func (s *Stack) cgroup2() bool {
	var fs unix.Statfs_t
	unified := unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
	return filepath.Base(s.Runtime) == "crun" && !unified
}

// Resources reports whether the containers' limits are in force. Why they are not
// over crun on a hybrid host: cgroup2 has no controllers there, and crun's list of
// devices is a BPF program that needs CAP_SYS_RESOURCE.
func (s *Stack) Resources() bool { return !s.cgroup2() }
