package check

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gracerun.io/signals/process"
)

// Feature is something of the kernel that gracerun and gracemon use where it is there.
type Feature struct {
	Name string `json:"name"`
	Has  bool   `json:"has"`
	Lack string `json:"lack"` // the consequence of its absence
	// Level of its absence.
	Level Level `json:"level"`
}

// Findings is the consequence of its absence.
func (f Feature) Findings() []Finding {
	if f.Has {
		return nil
	}
	return []Finding{{f.Level, "", f.Lack}}
}

// features asks the kernel itself, not its version.
func features() []Feature {
	pidfd, err := process.Open(os.Getpid())
	hasPidfd := err == nil
	if hasPidfd {
		pidfd.Close()
	}
	hasInfo := knowsExitOfReaped()
	return []Feature{
		{"pidfd_open, pidfd_send_signal (Linux 5.3)", hasPidfd, "no signal can be sent without the risk that another process has the number by then", Harm},
		{"PIDFD_GET_INFO with exit status (Linux 6.15)", hasInfo, "the status of a container that ends while its supervisor is dead can be unknown (docs/recovery.md)", Info},
		{"cgroup.kill (Linux 5.14, cgroup v2)", hasCgroupKill("/proc/self/mounts"), "processes of a container are killed one by one", Info},
		{"clone3 with set_tid (Linux 5.5, CAP_CHECKPOINT_RESTORE)", canChooseNumber(), "a successor has another process number than its predecessor: Podman takes the monitor for dead (docs/recovery.md)", Info},
	}
}

// knowsExitOfReaped has a child end, and asks how it ended once nobody is left to tell.
func knowsExitOfReaped() bool {
	fd := -1
	child := exec.Command("true")
	child.SysProcAttr = &syscall.SysProcAttr{PidFD: &fd}
	err := child.Run()
	if fd < 0 {
		return false
	}
	pidfd := process.Pidfd(fd)
	defer pidfd.Close()
	status, err2 := pidfd.ExitInfo()
	return err == nil && err2 == nil && status.Known
}

// hasCgroupKill looks for the file in a cgroup that is not the root, which has none.
func hasCgroupKill(mounts string) bool {
	text, err := os.ReadFile(mounts)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			if found, _ := filepath.Glob(f[1] + "/*/cgroup.kill"); found != nil {
				return true
			}
		}
	}
	return false
}

// canChooseNumber asks for a process with a number that cannot be: a kernel that allows
// the choice finds the number wrong, another one the wish.
func canChooseNumber() bool {
	tid := new(int32)
	*tid = 1 // which is always taken
	return tryClone3(tid) == unix.EEXIST
}

// Limit is a bound that somebody has set for a process.
type Limit struct {
	Process string    `json:"process"` // its name and number
	Name    string    `json:"name"`
	Value   string    `json:"value"`
	Found   []Finding `json:"findings,omitempty"`
}

const (
	// What the Go runtime reserves, and its room (docs/gracemon.md).
	leastAddressSpace = 1 << 30
	// The keeper's descriptors of one container.
	descriptorsOfContainer = 11
	// Supervisor, its threads, the runtime and its child, for each container at least.
	leastProcesses = 200
	// Each gracerun that waits for a container without a supervisor has one.
	leastInotify = 64
)

// limits looks at those who start containers, and at the keeper: what they may is what
// a supervisor may. proc is where procfs is.
func limits(proc, sys string) []Limit {
	var found []Limit
	numbers, _ := filepath.Glob(proc + "/[0-9]*/comm")
	for _, path := range numbers {
		name, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		dir := filepath.Dir(path)
		who := strings.TrimSpace(string(name)) + " " + filepath.Base(dir)
		switch strings.TrimSpace(string(name)) {
		case "crio", "containerd", "dockerd", "podman":
		case "gracemon":
			if argv, _ := os.ReadFile(dir + "/cmdline"); !bytes.Contains(argv, []byte("\x00--keeper\x00")) {
				continue
			}
			who = "keeper " + filepath.Base(dir)
		default:
			continue
		}
		found = append(found, limitsOf(who, dir, sys)...)
	}
	found = append(found, limitsOf("this shell", proc+"/self", sys)...)
	if text, err := os.ReadFile(proc + "/sys/fs/inotify/max_user_instances"); err == nil {
		l := Limit{Process: "each user", Name: "fs.inotify.max_user_instances", Value: strings.TrimSpace(string(text))}
		if n, err := strconv.Atoi(l.Value); err == nil && n < leastInotify {
			l.Found = append(l.Found, Finding{Warning, "", fmt.Sprintf("a call of gracerun that waits for a container without a supervisor needs one each: %d can be too few", n)})
		}
		found = append(found, l)
	}
	return found
}

func limitsOf(who, dir, sys string) []Limit {
	var found []Limit
	text, err := os.ReadFile(dir + "/limits")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if soft, _, ok := limitIn(line, "Max address space"); ok {
			l := Limit{Process: who, Name: "RLIMIT_AS", Value: soft}
			if n, err := strconv.ParseUint(soft, 10, 64); err == nil && n < leastAddressSpace {
				l.Found = append(l.Found, Finding{Harm, "", "gracerun and gracemon do not start with less than 1 GiB of address space (docs/gracemon.md)"})
			}
			found = append(found, l)
		}
		if _, hard, ok := limitIn(line, "Max open files"); ok {
			l := Limit{Process: who, Name: "RLIMIT_NOFILE (hard)", Value: hard}
			if n, err := strconv.Atoi(hard); err == nil && n < 1024 {
				l.Found = append(l.Found, Finding{Warning, "", fmt.Sprintf("a keeper has room for %d containers; more need another keeper each time", n/descriptorsOfContainer)})
			}
			found = append(found, l)
		}
	}
	cgroups, err := os.ReadFile(dir + "/cgroup")
	if err != nil {
		return found
	}
	for controllers, path := range parseCgroups(cgroups) {
		for _, mount := range []string{sys + "/fs/cgroup", sys + "/fs/cgroup/pids"} {
			if controllers != "" && controllers != "pids" {
				continue
			}
			text, err := os.ReadFile(mount + path + "/pids.max")
			if err != nil {
				continue
			}
			l := Limit{Process: who, Name: "pids.max", Value: strings.TrimSpace(string(text))}
			if n, err := strconv.Atoi(l.Value); err == nil && n < leastProcesses {
				l.Found = append(l.Found, Finding{Warning, "", "monitors, runtimes and their threads that it starts count, too: creates fail when it is reached"})
			}
			found = append(found, l)
		}
	}
	return found
}

// limitIn reads a line of /proc/PID/limits.
func limitIn(line, name string) (soft, hard string, ok bool) {
	rest, ok := strings.CutPrefix(line, name)
	f := strings.Fields(rest)
	if !ok || len(f) < 2 {
		return "", "", false
	}
	return f[0], f[1], true
}

// judgeOwn looks at gracerun's own programs: are they of one version, and can a
// supervisor sleep?
func judgeOwn(found []Program, native string) []Program {
	version := func(name string) string {
		for _, p := range found {
			if p.Name == name {
				v, _, _ := strings.Cut(p.Version, " ")
				return v
			}
		}
		return ""
	}
	for i, p := range found {
		add := func(level Level, text string) {
			found[i].Found = append(found[i].Found, Finding{level, "", text})
		}
		if p.Name == "gracerun" {
			if other := version("gracemon"); other != "" && other != version("gracerun") {
				add(Info, "gracemon is "+other+": they understand each other if that is the version before or after")
			}
		}
		if p.Name != "gracemon" {
			continue
		}
		switch tagged, err := builtWith(p.Path, "slumber"); {
		case err != nil:
			add(Info, "whether it can sleep is not known: "+err.Error())
		case !tagged:
			add(Warning, "it was built without -tags slumber: an idle supervisor stays awake, and a signal can be lost in an upgrade. Build it by make")
		}
	}
	if st, err := os.Stat(native); native != "" && err == nil && st.Mode().IsRegular() {
		found = append(found, Program{Name: "gracerun-native", Path: native, Version: firstLine(native)})
	}
	return found
}

func builtWith(path, tag string) (bool, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return false, err
	}
	for _, s := range info.Settings {
		if s.Key == "-tags" {
			return slices.Contains(strings.Split(s.Value, ","), tag), nil
		}
	}
	return false, nil
}

// firstLine is the beginning of a program's answer to --version.
func firstLine(path string) string {
	out, err := exec.Command(path, "--version").Output()
	line, _, _ := strings.Cut(string(out), "\n")
	if err != nil || line == "" {
		return "unknown"
	}
	return line[strings.LastIndexByte(line, ' ')+1:]
}

// outdated finds supervisors that run a gracemon which is not installed any more.
func outdated(proc string) []Finding {
	n := 0
	paths, _ := filepath.Glob(proc + "/[0-9]*/exe")
	for _, path := range paths {
		if to, err := os.Readlink(path); err == nil && strings.HasSuffix(to, "/gracemon (deleted)") {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return []Finding{{Info, "", fmt.Sprintf("%d of its processes run a program that is not installed any more: `gracemon --upgrade all`, if it was replaced", n)}}
}

// AppArmor is whether the host has it, and which of its profiles are for gracerun's
// programs.
type AppArmor struct {
	Profiles []string  `json:"profiles"` // NAME (MODE)
	Found    []Finding `json:"findings,omitempty"`
}

// apparmor gives nil where there is none.
func apparmor(root string, programs map[string]string) *AppArmor {
	enabled, err := os.ReadFile(root + "/sys/module/apparmor/parameters/enabled")
	if err != nil || strings.TrimSpace(string(enabled)) != "Y" {
		return nil
	}
	a := &AppArmor{}
	text, err := os.ReadFile(root + "/sys/kernel/security/apparmor/profiles")
	if err != nil {
		a.Found = append(a.Found, Finding{Info, "", "its profiles cannot be read: " + err.Error()})
		return a
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		name, mode, _ := strings.Cut(line, " ")
		for program, path := range programs {
			if path == "" || name != path && name != program {
				continue
			}
			a.Profiles = append(a.Profiles, line)
			if mode == "(enforce)" {
				a.Found = append(a.Found, Finding{Info, "", "profile " + name + " is enforced for " + path + ": it has to allow all that conmon and crun may, and /run/gracerun"})
			}
		}
	}
	slices.Sort(a.Profiles)
	return a
}
