package history

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gracerun.io/runtime"
	"gracerun.io/runtime/statedir"
	"gracerun.io/signals"
)

var plenty = Limits{Containers: 100, Bytes: 1 << 20}

func base(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "base")
	t.Setenv("GRACERUN_STATE_DIR", dir)
	return dir
}

// container makes a state directory with a story of that many bytes in its journal.
func container(t *testing.T, root, id string, bytes int, annotations ...runtime.Annotation) *statedir.Dir {
	t.Helper()
	dir, err := statedir.Create(root, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	r := &statedir.Record{ID: id, Bundle: "/b", Runtime: "/usr/bin/runc", StopSignal: signals.TERM, Policy: "observe", Annotations: annotations}
	if err := errors.Join(dir.WriteRecord(r), dir.WriteFile("journal", []byte(strings.Repeat("x", bytes)))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// end keeps a container and removes it.
func end(t *testing.T, dir *statedir.Dir, l Limits) {
	t.Helper()
	if warning, err := Retire(dir, l); errors.Join(warning, err) != nil {
		t.Fatal(warning, err)
	}
}

func ids(t *testing.T, base string) (there, gone []string) {
	t.Helper()
	all, err := List(base)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Record == nil {
			t.Errorf("%s has no record", c.Path)
		}
		if c.Gone {
			gone = append(gone, c.ID)
		} else {
			there = append(there, c.ID)
		}
	}
	return there, gone
}

func TestKeepAndList(t *testing.T) {
	base := base(t)
	if all, err := List(base); err != nil || all != nil {
		t.Errorf("a base that is not there has %v, %v", all, err)
	}
	container(t, "", "lives", 10)
	end(t, container(t, "", "ended", 10), plenty)
	if there, gone := ids(t, base); fmt.Sprint(there, gone) != "[lives] [ended]" {
		t.Errorf("%v are there, %v gone", there, gone)
	}
	if info, err := os.Stat(filepath.Join(base, Dir)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	all, _ := List(base)
	if text, err := os.ReadFile(filepath.Join(all[1].Path, "journal")); err != nil || string(text) != "xxxxxxxxxx" {
		t.Errorf("its journal is %q, %v", text, err)
	}
}

func TestNothingIsKeptWithoutLimits(t *testing.T) {
	base := base(t)
	end(t, container(t, "", "a", 10), Limits{})
	if _, err := os.Stat(filepath.Join(base, Dir)); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// Whoever died between the two leaves both to the next one.
func TestKeepTwice(t *testing.T) {
	base := base(t)
	dir := container(t, "", "a", 10)
	if err := keep(dir, plenty); err != nil {
		t.Fatal(err)
	}
	end(t, dir, plenty)
	if _, gone := ids(t, base); len(gone) != 1 {
		t.Errorf("%v are kept", gone)
	}
	end(t, container(t, "", "a", 10), plenty) // a new one of the same id
	if _, gone := ids(t, base); len(gone) != 2 {
		t.Errorf("%v are kept", gone)
	}
}

func TestOldestGoFirst(t *testing.T) {
	for name, l := range map[string]Limits{"number": {Containers: 3, Bytes: 1 << 20}, "bytes": {Containers: 100, Bytes: 3*1000 + 999}} {
		t.Run(name, func(t *testing.T) {
			base := base(t)
			for i := range 10 {
				id := fmt.Sprint("c", i)
				end(t, container(t, "", id, 900), l)
			}
			if _, gone := ids(t, base); len(gone) != 3 || gone[2] != "c9" {
				t.Errorf("%v are kept", gone)
			}
			end(t, container(t, "", "large", 10000), l)
			if _, gone := ids(t, base); gone[len(gone)-1] != "large" {
				t.Errorf("%v are kept: the newest is not", gone)
			}
		})
	}
}

// What is not ours stays, and does not count.
func TestStrangersInTheDirectory(t *testing.T) {
	base := base(t)
	strangers := []string{"1-2", "x-1-a", "01-2-a", "1-2-", "1-2-a b", "notes"}
	for _, name := range strangers {
		if err := os.MkdirAll(filepath.Join(base, Dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	end(t, container(t, "", "a", 10), Limits{Containers: 1, Bytes: 1 << 20})
	end(t, container(t, "", "b", 10), Limits{Containers: 1, Bytes: 1 << 20})
	if _, gone := ids(t, base); fmt.Sprint(gone) != "[b]" {
		t.Errorf("%v are kept", gone)
	}
	found, _ := os.ReadDir(filepath.Join(base, Dir))
	if len(found) != len(strangers)+1 {
		t.Errorf("%v is left", found)
	}
}

func TestFind(t *testing.T) {
	base := base(t)
	pod := func(namespace, pod, name string) []runtime.Annotation {
		return []runtime.Annotation{
			{Key: "io.kubernetes.container.name", Value: name}, {Key: "io.kubernetes.pod.name", Value: pod}, {Key: "io.kubernetes.pod.namespace", Value: namespace},
		}
	}
	end(t, container(t, "", "aaaa1111", 10, pod("prod", "db-0", "postgres")...), plenty)
	end(t, container(t, "", "aaaa2222", 10, pod("prod", "db-0", "postgres")...), plenty)
	end(t, container(t, "", "bbbb1111", 10), plenty)
	container(t, "", "cccc1111", 10, pod("test", "db-0", "postgres")...)
	named := container(t, "", "dddd1111", 10)
	if err := named.WriteFile(NameFile, []byte("web\n")); err != nil {
		t.Fatal(err)
	}
	container(t, "/r1", "twice", 10)
	container(t, "/r2", "twice", 10)
	end(t, container(t, "/r1", "was", 10), plenty)
	end(t, container(t, "/r2", "was", 10), plenty)
	all, err := List(base)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"aaaa1111": "aaaa1111", "bbb": "bbbb1111", "cccc": "cccc1111", "web": "dddd1111",
		"postgres": "cccc1111", "db-0/postgres": "cccc1111", "prod/db-0/postgres": "aaaa2222", "was": "was",
	} {
		if c, err := Find(all, text); err != nil || c.ID != want {
			t.Errorf("%q is %+v, %v, want %s", text, c, err, want)
		}
	}
	for text, want := range map[string]string{"twice": "several", "aaaa": "aaaa2222", "": "does not exist", "bb": "does not exist", "zzzz": "does not exist", "db-0": "does not exist"} {
		if c, err := Find(all, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %+v, %v, want an error with %q", text, c, err, want)
		}
	}
}

func FuzzEntry(f *testing.F) {
	for _, name := range []string{"12-1700000000000-abc", "0-0-a", "-1--2-a", "1-2", "9223372036854775808-1-a"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if e, ok := parseEntry(name); ok && (e.name() != name || strings.ContainsRune(e.id, '/')) {
			t.Errorf("%q is taken for %+v", name, e)
		}
	})
}
