package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const podmanSection = "Podman"

const (
	podmanRun  = "podman run --rm of a program that does nothing"
	podmanExec = "podman exec of a program that does nothing"
)

// Whom the tables compare.
const (
	podmanOurs   = "gracemon and gracerun"
	podmanTheirs = "conmon and the runtime"
)

// overRuntime is a work done with a runtime.
func overRuntime(work, runtime string) string { return work + ", over " + runtime }

// podmanStack is what podman is told to use, in a directory of its own.
type podmanStack struct {
	stack
	lab    *lab
	dir    string
	over   string // the runtime that does the work
	target string // a container to execute in
}

// podman measures what a user of podman waits for, as a whole: podman's own part is most
// of it.
func (l *lab) podman() error {
	if _, err := exec.LookPath("podman"); err != nil {
		l.missing("podman", "not installed")
		return nil
	}
	// Podman tells runtime and monitor no other place for their state than /run.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount a tmpfs on /run: %w", err)
	}
	defer unix.Unmount("/run", unix.MNT_DETACH)
	var stacks []*podmanStack
	for _, wrapped := range present(l.crun, l.runc) {
		for _, s := range []stack{
			{name: podmanOurs, monitor: l.gracemon, runtime: l.gracerun},
			{name: podmanTheirs, monitor: l.conmon, runtime: wrapped},
		} {
			if s.monitor.Missing == "" && s.runtime.Missing == "" {
				stacks = append(stacks, &podmanStack{stack: s, lab: l, over: wrapped.path, dir: filepath.Join(l.tmp, fmt.Sprint("p", len(stacks)))})
			}
		}
	}
	l.progress("podman run and exec: %d stacks", len(stacks))
	measure := func(s *podmanStack, work string, args ...string) error {
		begin := now()
		if out, err := s.podman(args...).CombinedOutput(); err != nil {
			return fmt.Errorf("podman %s: %w: %s", args[0], err, out)
		}
		l.report.add(podmanSection, overRuntime(work, filepath.Base(s.over)), s.name, Wall, milliseconds(now()-begin))
		return nil
	}
	interleave(l, "podman run", l.rounds(12), stacks, func(s *podmanStack) error {
		if s.target == "" {
			if err := s.prepare(); err != nil {
				return err
			}
		}
		return measure(s, podmanRun, s.run("--rm", "box", "/workload", "nothing")...)
	})
	interleave(l, "podman exec", l.rounds(15), stacks, func(s *podmanStack) error {
		return measure(s, podmanExec, "exec", s.target, "/workload", "nothing")
	})
	for _, s := range stacks {
		if s.target != "" {
			_ = s.podman("rm", "--force", "--all", "--time=0").Run()
		}
	}
	return nil
}

func (s *podmanStack) String() string { return s.name + " over " + filepath.Base(s.over) }

// prepare makes store and image, and a container to execute in.
func (s *podmanStack) prepare() error {
	root := filepath.Join(s.dir, "rootfs")
	for _, dir := range []string{root, filepath.Join(root, "io")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	archive := filepath.Join(s.dir, "box.tar")
	for _, argv := range [][]string{{"cp", s.lab.workload, filepath.Join(root, "workload")}, {"tar", "-C", root, "-cf", archive, "."}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", argv[0], err, out)
		}
	}
	// As in integration/podman: no limits that not every machine lets be raised. The
	// runtime behind gracerun is told to gracemon, and known from then on.
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
conmon_env_vars = ["PATH=` + os.Getenv("PATH") + `", "GRACERUN_RUNTIME=` + s.over + `"]
`
	if err := os.WriteFile(filepath.Join(s.dir, "containers.conf"), []byte(conf), 0o644); err != nil {
		return err
	}
	if out, err := s.podman("import", "--quiet", archive, "box").CombinedOutput(); err != nil {
		return fmt.Errorf("podman import: %w: %s", err, out)
	}
	// It is killed at the end.
	out, err := s.podman(s.run("--detach", "box", "/workload", "wait")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("podman run --detach: %w: %s", err, out)
	}
	lines := strings.Fields(string(out))
	s.target = lines[len(lines)-1]
	return nil
}

func (s *podmanStack) run(args ...string) []string {
	flags := []string{"run", "--cgroup-parent=/" + s.lab.cgroup + "/podman"}
	if filepath.Base(s.over) == "crun" {
		// Its list of devices is a BPF program, for which it raises a limit.
		flags = append(flags, "--privileged")
	}
	return append(flags, args...)
}

func (s *podmanStack) podman(args ...string) *exec.Cmd {
	monitor, _ := filepath.Abs(s.monitor.path)
	runtime, _ := filepath.Abs(s.runtime.path)
	cmd := exec.Command("podman", append([]string{
		"--root", s.dir + "/root", "--runroot", s.dir + "/run", "--tmpdir", s.dir + "/tmp", "--storage-driver", "vfs",
		"--conmon", monitor, "--runtime", runtime,
	}, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+s.dir+"/containers.conf")
	return cmd
}
