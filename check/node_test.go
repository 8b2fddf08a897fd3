package check

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/slumber"
)

// host is a directory with these files, by path; one that begins with -> is a link.
func host(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if to, is := strings.CutPrefix(text, "->"); is && err == nil {
			err = os.Symlink(to, path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestFeatures: the kernel's own answers, compared with its version where that decides.
func TestFeatures(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	kernel, ok := ParseVersion("kernel version " + unix.ByteSliceToString(u.Release[:]))
	if !ok {
		t.Fatalf("kernel %s", u.Release)
	}
	since := []Version{{5, 3}, {6, 15}, {5, 14}, {5, 5}}
	for i, f := range features() {
		old := kernel.Before(since[i])
		if f.Has && old {
			t.Errorf("%s is said to be there on Linux %v", f.Name, kernel)
		}
		if !f.Has && !old && i < 2 { // the others need rights and mounts, too
			t.Errorf("%s is said not to be there on Linux %v", f.Name, kernel)
		}
		if found := f.Findings(); (len(found) == 0) != f.Has {
			t.Errorf("%s: %+v", f.Name, found)
		}
	}
	if found := (Feature{Lack: "so what", Level: Harm}).Findings(); len(found) != 1 || found[0].Level != Harm || found[0].Text != "so what" {
		t.Errorf("%+v", found)
	}
}

func TestHasCgroupKill(t *testing.T) {
	root := host(t, map[string]string{"new/a.slice/cgroup.kill": "", "old/a.slice/cgroup.procs": ""})
	for mounts, want := range map[string]bool{
		"cgroup2 " + root + "/new cgroup2 rw 0 0\n":                    true,
		"tmpfs /x tmpfs rw\ncgroup2 " + root + "/old cgroup2 rw 0 0\n": false,
		"cgroup " + root + "/new cgroup rw 0 0\n":                      false,
		"": false,
	} {
		path := filepath.Join(host(t, map[string]string{"mounts": mounts}), "mounts")
		if got := hasCgroupKill(path); got != want {
			t.Errorf("%q: %v", mounts, got)
		}
	}
}

const limitsText = `Limit                     Soft Limit           Hard Limit           Units
Max address space         AS                   unlimited            bytes
Max open files            1024                 FILES                files
`

func TestLimits(t *testing.T) {
	with := func(as, files string) string {
		return strings.NewReplacer("AS", as, "FILES", files).Replace(limitsText)
	}
	root := host(t, map[string]string{
		"proc/10/comm": "crio\n", "proc/10/limits": with("unlimited", "1048576"), "proc/10/cgroup": "0::/system.slice/crio.service\n",
		"sys/fs/cgroup/system.slice/crio.service/pids.max": "100\n",
		"proc/11/comm": "gracemon\n", "proc/11/cmdline": "gracemon\x00--keeper\x00", "proc/11/limits": with("500000000", "500"),
		"proc/12/comm": "gracemon\n", "proc/12/cmdline": "gracemon\x00-c\x00x\x00", "proc/12/limits": with("1", "1"),
		"proc/13/comm": "bash\n", "proc/13/limits": with("1", "1"),
		"proc/self/limits": with("unlimited", "unlimited"), "proc/self/cgroup": "8:pids:/a\n0::/\n",
		"sys/fs/cgroup/pids/a/pids.max":          "max\n",
		"proc/sys/fs/inotify/max_user_instances": "8\n",
	})
	got := map[string]Level{}
	for _, l := range limits(root+"/proc", root+"/sys") {
		level := Level("")
		for _, f := range l.Found {
			level = f.Level
		}
		got[l.Process+" "+l.Name+"="+l.Value] = level
	}
	want := map[string]Level{
		"crio 10 RLIMIT_AS=unlimited": "", "crio 10 RLIMIT_NOFILE (hard)=1048576": "", "crio 10 pids.max=100": Warning,
		"keeper 11 RLIMIT_AS=500000000": Harm, "keeper 11 RLIMIT_NOFILE (hard)=500": Warning,
		"this shell RLIMIT_AS=unlimited": "", "this shell RLIMIT_NOFILE (hard)=unlimited": "", "this shell pids.max=max": "",
		"each user fs.inotify.max_user_instances=8": Warning,
	}
	for name, level := range want {
		if l, there := got[name]; !there || l != level {
			t.Errorf("%s: %q (%v), want %q", name, l, there, level)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("too much: %s", name)
	}
}

// TestOwnPrograms: two builds of gracemon, one without what it sleeps by.
func TestOwnPrograms(t *testing.T) {
	dir := t.TempDir()
	for _, flags := range [][]string{{"-o", dir + "/plain"}, {"-o", dir + "/whole", "-tags", slumber.Tag, "-ldflags", slumber.LinkerFlags}} {
		if out, err := exec.Command("go", append(append([]string{"build"}, flags...), "../cmd/gracemon")...).CombinedOutput(); err != nil {
			t.Skipf("gracemon cannot be built here: %v\n%s", err, out)
		}
	}
	for _, test := range []struct {
		name, gracerun, gracemon, path string
		want                           []string
	}{
		{"as it is to be", "v1 (as crun version 1.8.1)", "v1 (as conmon version 2.2.1)", dir + "/whole", nil},
		{"plain go build", "v1", "v1", dir + "/plain", []string{"WARNING it was built without -tags slumber"}},
		{"an update by half", "v1", "v2", dir + "/whole", []string{"INFO gracemon is v2"}},
		{"gone", "v1", "v1", dir + "/none", []string{"INFO whether it can sleep is not known"}},
	} {
		var said []string
		for _, p := range judgeOwn([]Program{{Name: "gracerun", Version: test.gracerun}, {Name: "gracemon", Version: test.gracemon, Path: test.path}}, "") {
			for _, f := range p.Found {
				said = append(said, strings.ToUpper(string(f.Level))+" "+f.Text)
			}
		}
		if len(said) != len(test.want) || len(said) > 0 && !strings.HasPrefix(said[0], test.want[0]) {
			t.Errorf("%s: %q, want %q", test.name, said, test.want)
		}
	}
	// The third of the family.
	script := filepath.Join(dir, "gracerun-native")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho gracerun-native version v7\necho more\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := judgeOwn(nil, script); len(got) != 1 || got[0].Version != "v7" || got[0].Path != script {
		t.Errorf("%+v", got)
	}
}

func TestOutdated(t *testing.T) {
	root := host(t, map[string]string{"1/exe": "->/usr/bin/gracemon", "2/exe": "->/usr/bin/gracemon (deleted)", "3/exe": "->/bin/other (deleted)"})
	if found := outdated(root); len(found) != 1 || !strings.HasPrefix(found[0].Text, "1 of its processes") {
		t.Errorf("%+v", found)
	}
	if found := outdated(t.TempDir()); found != nil {
		t.Errorf("%+v", found)
	}
}

func TestAppArmor(t *testing.T) {
	programs := map[string]string{"gracemon": "/usr/bin/gracemon", "gracerun": "/usr/bin/gracerun", "gracerun-native": ""}
	const enabled, profiles = "sys/module/apparmor/parameters/enabled", "sys/kernel/security/apparmor/profiles"
	for _, test := range []struct {
		name     string
		files    map[string]string
		profiles string
		found    int
	}{
		{"none of its own", map[string]string{enabled: "Y\n", profiles: "/usr/bin/man (enforce)\ncrun (unconfined)\n"}, "", 0},
		{"by path", map[string]string{enabled: "Y\n", profiles: "/usr/bin/gracemon (enforce)\n"}, "/usr/bin/gracemon (enforce)", 1},
		{"by name", map[string]string{enabled: "Y\n", profiles: "gracerun (complain)\n"}, "gracerun (complain)", 0},
		{"closed", map[string]string{enabled: "Y\n"}, "", 1},
	} {
		a := apparmor(host(t, test.files), programs)
		if a == nil || strings.Join(a.Profiles, ",") != test.profiles || len(a.Found) != test.found {
			t.Errorf("%s: %+v", test.name, a)
		}
	}
	for _, files := range []map[string]string{nil, {enabled: "N\n"}} {
		if a := apparmor(host(t, files), programs); a != nil {
			t.Errorf("%v: %+v", files, a)
		}
	}
}
