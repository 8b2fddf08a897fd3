// Package testbed runs real containers under a monitor and a runtime, stock or
// ours, driven as CRI-O drives them, and gathers what became of them. gracelab
// and the integration tests stage their scenes on it.
package testbed

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Stack is a monitor and a runtime that are to be watched.
type Stack struct {
	Name    string
	Monitor string // the program's path
	Runtime string // as the monitor and the manager call it
	Wrapped string // the runtime beneath gracerun; "" for a stock stack
	Kind    string // of the runtime, or of the one beneath: "crun" or "runc"
	Missing string // why there are no containers of this stack here, "" if there are

	namespace string // of mounts, to be entered first; "": this one
}

// Ours says whether the stack is gracemon and gracerun.
func (s *Stack) Ours() bool { return s.Wrapped != "" }

// Stock is the installed conmon over the installed "crun" or "runc".
func Stock(runtime string) *Stack { return StockOf("conmon", runtime, runtime) }

// StockOf is a conmon over a runtime of that kind, "crun" or "runc". The programs are
// paths, or names in PATH.
func StockOf(conmon, kind, runtime string) *Stack {
	s := &Stack{Name: "conmon + " + kind, Kind: kind}
	s.Monitor = s.find("conmon", conmon)
	s.Runtime = s.find(kind, runtime)
	s.settle()
	return s
}

// Ours is gracemon, and gracerun over the installed "crun" or "runc". Both are looked
// for in the directory programs, else in PATH.
func Ours(programs, runtime string) *Stack { return OursOver(programs, runtime, runtime) }

// OursOver is gracemon, and gracerun over a runtime of that kind, which is a path or a
// name in PATH.
func OursOver(programs, kind, runtime string) *Stack {
	s := &Stack{Name: "gracemon + gracerun over " + kind, Kind: kind}
	s.Monitor = s.find("gracemon", filepath.Join(programs, "gracemon"), "gracemon")
	s.Runtime = s.find("gracerun", filepath.Join(programs, "gracerun"), "gracerun")
	s.Wrapped = s.find(kind, runtime)
	s.settle()
	return s
}

func (s *Stack) find(name string, places ...string) string {
	for _, place := range places {
		if path, err := exec.LookPath(place); err == nil {
			return path
		}
	}
	if s.Missing == "" {
		s.Missing = name + " is not installed"
	}
	return name
}

// settle finds out where the runtime can run.
func (s *Stack) settle() {
	switch {
	case s.Missing != "":
	case os.Geteuid() != 0:
		s.Missing = "only root can make these containers"
	case s.Kind == "crun" && !onCgroup2():
		// It refuses the hybrid of version 1 and 2.
		var err error
		if s.namespace, err = Cgroup2Namespace(); err != nil {
			s.Missing = "no mount namespace with cgroup2, which crun needs: " + err.Error()
		}
	}
}

// SeesHostCgroups reports whether the stack's containers are in the cgroup
// hierarchies that this process sees, with their version 1 controllers.
func (s *Stack) SeesHostCgroups() bool { return s.namespace == "" }

// CanRecover reports whether the monitor can take over from one that has died.
func (s *Stack) CanRecover() bool {
	said, _ := exec.Command(s.Monitor, "--recover", "/nonexistent").CombinedOutput()
	return s.Ours() && !strings.Contains(string(said), "has neither --recover")
}

// command gives a call of a program of the stack.
func (s *Stack) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	argv := append([]string{program}, args...)
	if s.namespace != "" {
		argv = append([]string{"nsenter", "--mount=" + s.namespace, "--wdns=" + dir}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	return cmd
}

// Versions asks each program of the stack for its version.
func (s *Stack) Versions() string {
	if s.Missing != "" {
		return "missing: " + s.Missing
	}
	versions := []string{s.MonitorVersion(), s.RuntimeVersion()}
	if s.Ours() {
		versions = []string{s.MonitorVersion(), s.version("gracerun", s.Runtime), s.RuntimeVersion()}
	}
	return strings.Join(versions, ", ")
}

// MonitorVersion is the monitor's name and version.
func (s *Stack) MonitorVersion() string {
	if s.Ours() {
		return s.version("gracemon", s.Monitor)
	}
	return s.version("conmon", s.Monitor)
}

// RuntimeVersion is the name and version of the runtime, of ours that of the one beneath.
func (s *Stack) RuntimeVersion() string {
	if s.Ours() {
		return s.version(s.Kind, s.Wrapped)
	}
	return s.version(s.Kind, s.Runtime)
}

// version finds the line in which a program speaks of itself: ours begin with
// what callers look for, the name and version of the program that they stand for.
func (s *Stack) version(name, program string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := s.command(ctx, "/", program, "--version").Output()
	if err == nil {
		for line := range strings.Lines(string(out)) {
			if _, after, found := strings.Cut(strings.Replace(line, ":", "", 1), name+" "); found {
				return name + " " + strings.TrimPrefix(strings.TrimSpace(after), "version ")
			}
		}
	}
	return name + " (version unknown)"
}
