package podman

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A stack is a monitor and a runtime that podman is told to use, with images and
// containers of its own.
type stack struct {
	monitor string // "conmon" or "gracemon"
	runtime string // that does the work: "runc", "crun" or "gracerun-native"
	shim    bool   // gracerun is in front of it
	newer   bool   // podman, conmon and crun are those of the next Debian

	host    *host
	dir     string
	engine  string // podman's path
	program string // the monitor's
	called  string // the runtime's, as podman calls it
	missing string // why there are no containers of it here

	make sync.Once
	err  error
}

func (s *stack) String() string {
	name := s.monitor + ", " + s.runtime
	if s.shim {
		name = s.monitor + ", gracerun over " + s.runtime
	}
	if s.newer {
		name += ", newer podman"
	}
	return name
}

// stacks are all pairings, or few: those where both or none of monitor and runtime
// are ours. What a stack with conmon and no gracerun shows is what every other one
// over the same runtime, by the same podman, must show. The newer podman is tried
// over crun.
func stacks(few bool) []*stack {
	runtimes := []string{"runc", "crun", "gracerun-native"}
	if few {
		runtimes = runtimes[:2]
	}
	var all []*stack
	for _, runtime := range runtimes {
		for _, monitor := range []string{"conmon", "gracemon"} {
			for _, shim := range []bool{false, true} {
				if pure := (monitor == "gracemon") == shim; pure || !few {
					all = append(all, &stack{monitor: monitor, runtime: runtime, shim: shim})
				}
			}
		}
	}
	all = append(all, &stack{monitor: "conmon", runtime: "crun", newer: true}, &stack{monitor: "gracemon", runtime: "crun", shim: true, newer: true})
	return all
}

// ours are the programs of this repository that the stacks want.
func ours(all []*stack) []string {
	programs := []string{"gracemon", "gracerun"}
	if slices.ContainsFunc(all, func(s *stack) bool { return s.runtime == "gracerun-native" }) {
		programs = append(programs, "gracerun-native")
	}
	return programs
}

// referenceFor reports whether another stack must show what this one shows.
func (s *stack) referenceFor(other *stack) bool {
	return s.monitor == "conmon" && !s.shim && s.runtime == other.runtime && s.newer == other.newer
}

// settle finds out whether the stack can be here, and where its programs are.
func (s *stack) settle(dir, bin string, unbuilt map[string]string) {
	s.dir = dir
	s.host = hosts[s.runtime == "crun"]
	find := func(name string) string {
		if strings.HasPrefix(name, "grace") {
			if why := unbuilt[name]; why != "" {
				s.missing = why
			}
			return filepath.Join(bin, name)
		}
		if s.newer {
			name, _ = filepath.Abs("../../.work/trixie/usr/bin/" + name)
		}
		path, err := exec.LookPath(name)
		if err != nil {
			s.missing = name + " is not installed (make deps)"
		}
		return path
	}
	s.engine, s.program, s.called = find("podman"), find(s.monitor), find(s.runtime)
	if s.shim {
		s.called = s.front(find("gracerun"), s.called)
	}
}

// front writes a script that is gracerun over that runtime: podman hands no
// environment on to a runtime.
func (s *stack) front(gracerun, wrapped string) string {
	path := filepath.Join(s.dir, "gracerun")
	script := fmt.Sprintf("#!/bin/sh\nGRACERUN_RUNTIME=%s exec %s \"$@\"\n", wrapped, gracerun)
	err := os.MkdirAll(s.dir, 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(script), 0o755)
	}
	if err != nil {
		s.missing = err.Error()
	}
	return path
}

// prepare makes the store and the image, once.
func (s *stack) prepare(archive string) error {
	s.make.Do(func() {
		if s.missing != "" {
			s.err = errors.New(s.missing)
			return
		}
		if s.err = s.host.ready(); s.err != nil {
			return
		}
		// No limits of resources: not every machine lets them be raised, or has the
		// controllers. No network, which is not what is tested. Locks
		// in files, which are the stack's own: those in memory are all of root's.
		conf := `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "none"
apparmor_profile = ""
pids_limit = 0
log_driver = "k8s-file"
[engine]
lock_type = "file"
cgroup_manager = "cgroupfs"
events_logger = "file"
`
		if s.newer {
			// It wants to know where netavark is, even if it makes no network.
			conf += fmt.Sprintf("helper_binaries_dir = [%q]\n", filepath.Join(s.engine, "../../lib/podman"))
		}
		if sleep, set := os.LookupEnv("GRACEMON_SLEEP"); set {
			conf += fmt.Sprintf("conmon_env_vars = [%q, %q]\n", "PATH="+os.Getenv("PATH"), "GRACEMON_SLEEP="+sleep)
		}
		if s.err = os.MkdirAll(s.dir, 0o755); s.err != nil {
			return
		}
		if s.err = os.WriteFile(s.dir+"/containers.conf", []byte(conf), 0o644); s.err != nil {
			return
		}
		if out, err := s.podman("import", "--quiet", archive, "box").CombinedOutput(); err != nil {
			s.err = fmt.Errorf("import: %w\n%s", err, out)
		}
	})
	return s.err
}

// podman gives a call of podman with this stack.
func (s *stack) podman(args ...string) *exec.Cmd {
	cmd := s.host.command(s.dir, s.engine, append([]string{
		"--root", s.dir + "/root", "--runroot", s.dir + "/run", "--tmpdir", s.dir + "/tmp", "--storage-driver", "vfs",
		"--conmon", s.program, "--runtime", s.called,
	}, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+s.dir+"/containers.conf")
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// flags are those with which a container is made that this machine can run.
func (s *stack) flags() []string {
	flags := []string{"--cgroup-parent=/" + cgroupParent()}
	if s.runtime == "crun" {
		// Its list of devices is a BPF program, for which it raises a limit.
		flags = append(flags, "--privileged")
	}
	return flags
}

func (s *stack) clear() {
	if s.err == nil && s.missing == "" && s.host.path != "" {
		_ = s.podman("rm", "--force", "--all", "--time=0").Run()
	}
}
