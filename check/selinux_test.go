package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeHost has files with labels, and a selinuxfs that says whether they matter. A
// label is an attribute of the file like others where no SELinux keeps it.
func fakeHost(t *testing.T, enforce string, labels map[string]string) string {
	t.Helper()
	root := t.TempDir()
	write := func(path, text string) string {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if enforce != "" {
		write("sys/fs/selinux/enforce", enforce)
	}
	for path, label := range labels {
		path = write(path, "")
		if label == "" {
			continue
		}
		if err := unix.Setxattr(path, "security.selinux", []byte(label+"\x00"), 0); err != nil {
			t.Skipf("no label can be written in %s: %v", root, err)
		}
	}
	return root
}

func TestSELinux(t *testing.T) {
	programs := map[string]string{"gracemon": "/bin/gracemon", "gracerun": "/bin/gracerun", "gracerun-native": "/bin/gracerun-native"}
	right := map[string]string{
		"/bin/gracemon":   "system_u:object_r:conmon_exec_t:s0",
		"/bin/gracerun":   "unconfined_u:object_r:container_runtime_exec_t:s0",
		"/run/gracerun/x": "system_u:object_r:container_var_run_t:s0",
		"/bin/other":      "system_u:object_r:bin_t:s0",
	}
	with := func(more ...string) map[string]string {
		all := map[string]string{}
		for path, label := range right {
			all[path] = label
		}
		for i := 0; i < len(more); i += 2 {
			all[more[i]] = more[i+1]
		}
		return all
	}
	for _, test := range []struct {
		name, enforce string
		labels        map[string]string
		mode          string
		found         []Finding // their texts' beginnings
	}{
		{"no SELinux", "", with(), "", nil},
		{"all as it is to be", "1", with(), "enforcing", nil},
		{"installed by hand", "1\n", with("/bin/gracemon", "unconfined_u:object_r:bin_t:s0", "/bin/gracerun", "unconfined_u:object_r:bin_t:s0"), "enforcing",
			[]Finding{{Harm, "", "/bin/gracemon has the label unconfined_u:object_r:bin_t:s0, not one of type conmon_exec_t: under Podman"},
				{Warning, "", "/bin/gracerun has the label unconfined_u:object_r:bin_t:s0, not one of type container_runtime_exec_t: "}}},
		{"native", "1", with("/bin/gracerun-native", "system_u:object_r:user_home_t:s0"), "enforcing",
			[]Finding{{Warning, "", "/bin/gracerun-native has the label system_u:object_r:user_home_t:s0, "}}},
		{"a monitor with the runtime's label", "1", with("/bin/gracemon", right["/bin/gracerun"]), "enforcing",
			[]Finding{{Harm, "", "/bin/gracemon has the label unconfined_u:object_r:container_runtime_exec_t:s0, not"}}},
		{"no label at all", "1", with("/bin/gracemon", ""), "enforcing",
			[]Finding{{Harm, "", "/bin/gracemon has the label none, not"}}},
		{"state", "1", with("/run/gracerun/x", "system_u:object_r:var_run_t:s0"), "enforcing",
			[]Finding{{Warning, "", "/run/gracerun/x has the label system_u:object_r:var_run_t:s0, not one of type container_var_run_t"}}},
		{"permissive", "0", with("/bin/gracemon", "unconfined_u:object_r:bin_t:s0"), "permissive",
			[]Finding{{Info, "", "/bin/gracemon has the label unconfined_u:object_r:bin_t:s0, not"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := selinux(fakeHost(t, test.enforce, test.labels), labels(programs, "/run/gracerun/x"))
			if test.mode == "" {
				if got != nil {
					t.Errorf("%+v", got)
				}
				return
			}
			if got == nil || got.Mode != test.mode || len(got.Found) != len(test.found) {
				t.Fatalf("%+v, want %s with %d findings", got, test.mode, len(test.found))
			}
			for i, want := range test.found {
				if f := got.Found[i]; f.Level != want.Level || !strings.HasPrefix(f.Text, want.Text) || !strings.Contains(f.Text, "restorecon") {
					t.Errorf("%s: %s; want %s: %s", f.Level, f.Text, want.Level, want.Text)
				}
			}
			report := Report{SELinux: got}
			if len(test.found) > 0 && report.Worst() == "" {
				t.Error("the report does not count it")
			}
		})
	}
}
