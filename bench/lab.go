package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/settings"
)

// Options of a run.
type Options struct {
	Bin      string // where our programs and the workload are
	Newer    string // tree of packages of a later Debian; "": none
	Disk     string // a directory on a disk
	CRIO     string // where CRI-O and its tools are
	Quick    bool
	Progress io.Writer
	Sections []string // "": all
}

// lab is where a run takes place.
type lab struct {
	Options
	*programs
	report  *Report
	spawner *spawner

	tmp    string // a tmpfs, for everything but the logs on disk
	rootfs string
	exits  string
	cgroup string

	serial     int
	containers map[string]*container
	ctx        context.Context
}

// sections in the order of the report.
var sections = []struct {
	name string
	run  func(*lab) error
}{
	{"commands", (*lab).commands},
	{"signals", (*lab).signals},
	{"monitors", (*lab).monitorsAtWork},
	{"lives", (*lab).lives},
	{"memory", (*lab).memory},
	{"logs", (*lab).logs},
	{"attach", (*lab).attach},
	{"drain", (*lab).drain},
	{"podman", (*lab).podman},
	{"crio", (*lab).crio},
}

// Run measures. It must be called in the namespace that Isolate makes.
func Run(ctx context.Context, o Options) (*Report, error) {
	begin := time.Now()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl", err)
	}
	scratch, err := os.MkdirTemp("", "gracebench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	// Private to this mount namespace: gone with it.
	if err := unix.Mount("tmpfs", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700"); err != nil {
		return nil, fmt.Errorf("mount a tmpfs: %w", err)
	}
	defer unix.Unmount(scratch, unix.MNT_DETACH)
	l := &lab{
		Options: o, ctx: ctx, containers: map[string]*container{},
		tmp: scratch, rootfs: filepath.Join(scratch, "rootfs"), exits: filepath.Join(scratch, "e"),
		cgroup: filepath.Base(scratch),
		report: &Report{Date: begin.UTC().Truncate(time.Second), Quick: o.Quick, Host: thisHost()},
	}
	for _, dir := range []string{"rootfs/proc", "rootfs/dev", "rootfs/io", "b", "e", "s", "r", "state"} {
		if err := os.MkdirAll(filepath.Join(scratch, dir), 0o755); err != nil {
			return nil, err
		}
	}
	// One TERM after the other is to be heard, and annotations may ask for enforce.
	if err := os.WriteFile(filepath.Join(scratch, "config.toml"), []byte("[stop]\npolicy = \"observe\"\n[annotations]\npolicies = [\"enforce\"]\n"), 0o644); err != nil {
		return nil, err
	}
	if l.programs, err = find(o.Bin, o.Newer); err != nil {
		return nil, err
	}
	for _, p := range l.all() {
		l.report.Programs = append(l.report.Programs, *p)
	}
	l.report.Baselines = l.baselines()
	if output, err := exec.Command("cp", l.workload, filepath.Join(l.rootfs, "workload")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy the workload: %w: %s", err, output)
	}
	if l.spawner, err = newSpawner(l.workload, filepath.Join(scratch, "errors")); err != nil {
		return nil, err
	}
	defer l.spawner.close()
	defer l.cleanUp()
	for _, s := range sections {
		if !l.wanted(s.name) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.run(l); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		l.cleanUp()
	}
	l.report.Host.Load = loadAverages()
	l.report.Took = time.Since(begin).Round(time.Second).String()
	l.report.finish(l.targets())
	return l.report, nil
}

func (l *lab) wanted(section string) bool {
	for _, s := range l.Sections {
		if s == section {
			return true
		}
	}
	return len(l.Sections) == 0
}

// environ is the environment of a program under test.
func (l *lab) environ(p *Program) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + l.tmp, "GRACERUN_STATE_DIR=" + filepath.Join(l.tmp, "state"), settings.Variable + "=" + filepath.Join(l.tmp, "config.toml")}, p.env...)
}

// rounds gives how often to do something: n times, or few.
func (l *lab) rounds(n int) int {
	if l.Quick {
		return min(n, 3)
	}
	return n
}

func (l *lab) progress(format string, args ...any) {
	fmt.Fprintf(l.Progress, format+"\n", args...)
}

// note keeps for the report what was not measured.
func (l *lab) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.report.Notes = append(l.report.Notes, text)
	l.progress("! %s", text)
}

// missing keeps for the report what could not be had.
func (l *lab) missing(name, why string) {
	l.report.Programs = append(l.report.Programs, Program{Name: name, Missing: why})
	l.progress("! %s: %s", name, why)
}

// interleave lets each subject in turn do a round, so that what disturbs the
// machine disturbs all of them. A subject that fails is left out from then on,
// and the report says why.
func interleave[S fmt.Stringer](l *lab, what string, rounds int, subjects []S, round func(S) error) {
	failed := map[string]bool{}
	for n := range rounds {
		for i := range subjects {
			s := subjects[(i+n)%len(subjects)]
			if failed[s.String()] || l.ctx.Err() != nil {
				continue
			}
			if err := round(s); err != nil {
				failed[s.String()] = true
				l.note("%s, %s: %v", what, s, err)
			}
		}
	}
}

// cleanUp ends what is left after a failure.
func (l *lab) cleanUp() {
	for _, c := range l.containers {
		c.end()
	}
	// One directory a container is left by no runtime, the parent by all.
	filepath.WalkDir(filepath.Join("/sys/fs/cgroup", l.cgroup), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			defer os.Remove(path)
		}
		return nil
	})
	os.Remove(filepath.Join("/sys/fs/cgroup", l.cgroup))
}

// Sections gives the names of what can be run.
func Sections() (names []string) {
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}
