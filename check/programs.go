package check

import (
	"context"
	"os/exec"
	"strings"
	"time"
)

// known is what is known of the programs on the signal path: which versions
// have which race of docs/races.md. Sources are there.
var known = []struct {
	program string
	races   []affected
}{
	{"crun", []affected{
		{race: "scope-default-dependencies", from: Version{1, 8, 1}, fixed: Version{1, 17},
			harm: "with systemd cgroups, containers are not stopped with their grace period at shutdown (cri-o 8609)"},
		{race: "kill-esrch-errno-0", fixed: Version{1, 17},
			harm: "a kill that finds no process is reported without its error"},
		{race: "bare-pid-kill", fixed: Version{1, 8, 5},
			harm: "without pidfds, a kill can reach a process that got the container's old pid"},
		{race: "kill-leaves-frozen", fixed: Version{1, 29, 1},
			harm: "a failed kill --all can leave the container frozen for ever"},
	}},
	{"runc", []affected{
		{race: "bare-pid-kill", harm: "a kill checks the process first and takes it by its number afterwards (up to the signal itself if built by Go before 1.23): it can reach another process that has the number by then"},
	}},
	{"conmon", []affected{
		{race: "second-term", harm: "a SIGTERM to conmon is passed on to the container, in addition to the manager's own"},
		{race: "monitor-killed", harm: "when conmon is killed, log and exit status of the container are lost"},
		{race: "status-invented", harm: "an exit status that conmon cannot learn is recorded as 0"},
	}},
	{"crio", []affected{
		{race: "term-never-sent", harm: "a stop signal that could not be sent is not sent again; its grace is waited for in silence"},
		{race: "deadline-exit-tie", harm: "a container that exits at its deadline can be recorded as timed out"},
	}},
	{"podman", nil},
	{"systemctl", nil},
	{"gracemon", nil},
	{"gracerun", nil},
}

type affected struct {
	race        string
	from, fixed Version // from <= version < fixed; nil for no bound
	harm        string
}

func (a affected) has(v Version) bool {
	return !v.Before(a.from) && (a.fixed == nil || v.Before(a.fixed))
}

// Program is one program on the signal path, as installed here.
type Program struct {
	Name    string    `json:"name"`
	Path    string    `json:"path"`
	Version string    `json:"version"`
	Found   []Finding `json:"findings,omitempty"`
}

// programs asks every known program that is installed for its version.
func programs(ctx context.Context) []Program {
	var found []Program
	for _, k := range known {
		path, err := exec.LookPath(k.program)
		if err != nil {
			continue
		}
		found = append(found, ask(ctx, k.program, path, k.races))
	}
	return found
}

func ask(ctx context.Context, name, path string, races []affected) Program {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	p := Program{Name: name, Path: path, Version: "unknown"}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	version, ok := ParseVersion(string(out))
	if err != nil || !ok {
		why := "its answer to --version has none"
		if err != nil {
			why = err.Error()
		}
		p.Found = append(p.Found, Finding{Warning, "", "its version is not known: " + why})
		return p
	}
	p.Version = version.String()
	if own, ok := ownVersion(name, string(out)); ok && strings.HasPrefix(name, "grace") {
		p.Version = own
	}
	p.Found = append(p.Found, judge(version, races)...)
	return p
}

// judge says which of the races a version has. A race that every version has
// is for information: nothing can be installed against it but gracerun.
func judge(v Version, races []affected) []Finding {
	var found []Finding
	for _, a := range races {
		if !a.has(v) {
			continue
		}
		f := Finding{Info, a.race, a.harm}
		if a.fixed != nil {
			f.Level = Warning
			f.Text += "; fixed in " + a.fixed.String()
		}
		if a.race == "scope-default-dependencies" {
			f.Level = Harm
		}
		found = append(found, f)
	}
	return found
}

func systemdRuns() bool {
	out, err := exec.Command("systemctl", "is-system-running").Output()
	state := strings.TrimSpace(string(out))
	// The exit code is not 0 for "degraded", which is running all the same.
	return err == nil || state == "degraded" || state == "starting" || state == "stopping" || state == "maintenance"
}

// Races names the races that findings can have.
func Races() []string {
	races := []string{"pid1-deaf", "leader-zombie", "paused-stop"}
	for _, k := range known {
		for _, a := range k.races {
			races = append(races, a.race)
		}
	}
	return races
}
