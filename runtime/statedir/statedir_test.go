package statedir

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
)

// base points GRACERUN_STATE_DIR to a fresh directory.
func base(t *testing.T) string {
	dir := t.TempDir()
	t.Setenv("GRACERUN_STATE_DIR", dir)
	return dir
}

func create(t *testing.T, root, id string) *Dir {
	t.Helper()
	dir, err := Create(root, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func TestBase(t *testing.T) {
	for _, test := range []struct{ state, xdg, want, err string }{
		{state: "/a/../b/", want: "/b"},
		{state: "a", err: "GRACERUN_STATE_DIR=a is not an absolute path"},
		{state: "/a", xdg: "/x", want: "/a"},
	} {
		t.Setenv("GRACERUN_STATE_DIR", test.state)
		t.Setenv("XDG_RUNTIME_DIR", test.xdg)
		got, err := Base()
		if got != test.want || err == nil != (test.err == "") || err != nil && err.Error() != test.err {
			t.Errorf("%+v: got %q, %v", test, got, err)
		}
	}
	t.Setenv("GRACERUN_STATE_DIR", "")
	t.Setenv("XDG_RUNTIME_DIR", "/x")
	want := "/x/gracerun"
	if os.Geteuid() == 0 && inInitialUserNamespace() {
		want = "/run/gracerun"
	}
	if got, err := Base(); err != nil || got != want {
		t.Errorf("without GRACERUN_STATE_DIR: got %q, %v, want %q", got, err, want)
	}
}

func TestKey(t *testing.T) {
	t.Chdir("/tmp")
	for root, want := range map[string]string{
		"":               "default",
		"/default":       `\x64efault`,
		"/run/crio":      "run-crio",
		"/run//crio/.":   "run-crio",
		"/run/x/../crio": "run-crio",
		"/run/crun":      "default",
		"/run/runc/":     "default",
		"run-crun":       `tmp-run\x2dcrun`,
		"/run-crun":      `run\x2dcrun`,
		"/":              "-",
		"/.hidden":       `\x2ehidden`,
		"/a.b:c_d":       "a.b:c_d",
		`/a\x2db`:        `a\x5cx2db`,
		"/é\n":           `\xc3\xa9\x0a`,
	} {
		if got, err := Key(root); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", root, got, err, want)
		}
	}
}

// However a root is written it is one.
func TestKeyOfOneRootHoweverItIsWritten(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", dir+"/xdg")
	for _, name := range []string{"there", "xdg/crun"} {
		if err := os.MkdirAll(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"link": "there", "loop": "loop", "xlink": "xdg"} {
		if err := os.Symlink(to, dir+"/"+link); err != nil {
			t.Fatal(err)
		}
	}
	key := func(root string) string {
		t.Helper()
		key, err := Key(root)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	for root, same := range map[string]string{
		dir + "/link":         dir + "/there",
		dir + "/link/to/come": dir + "/there/to/come",
		dir + "/xlink/crun":   "",
		dir + "/xdg/crun":     "",
		"/var/run/x":          "/run/x",
		"/var/run/crun":       "",
	} {
		if got, want := key(root), key(same); got != want {
			t.Errorf("%q has the key %q, %q has %q", root, got, same, want)
		}
	}
	if key(dir+"/loop") == key(dir+"/there") || key(dir+"/there/crun") == defaultKey {
		t.Error("two roots have one key")
	}
	long := dir + "/" + strings.Repeat("б", 120)
	if a, b := key(long+"1"), key(long+"2"); a == b || len(a) > longest {
		t.Errorf("long roots have the keys %q and %q", a, b)
	}
}

// What version 0.8 has made is found, and not made anew.
func TestOpenOldKey(t *testing.T) {
	base(t)
	old, err := openKeyOf(t, `var-run-x`)
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"/var/run/x"} {
		d, err := Open(root, "c")
		if err != nil || d.Path() != old {
			t.Fatalf("%s: %v, %v; want %s", root, d, err, old)
		}
		d.Close()
		if _, err := Create(root, "c"); err != runtime.ErrExist {
			t.Errorf("%s: %v, want %v", root, err, runtime.ErrExist)
		}
	}
	d, err := Create("/var/run/x", "new")
	if err != nil || strings.Contains(d.Path(), "var") {
		t.Errorf("a new one is at %v, %v", d, err)
	}
}

// openKeyOf makes the state directory of container c as an older version does.
func openKeyOf(t *testing.T, key string) (string, error) {
	t.Helper()
	root, err := Base()
	if err != nil {
		return "", err
	}
	path := root + "/" + key + "/c"
	return path, os.MkdirAll(path, 0o700)
}

// A key is one safe name, and tells the path it was made of.
func FuzzKey(f *testing.F) {
	for _, seed := range []string{"/", "/run/crun", "/default", "/a-b/c", `/\x2d`, "/../..", "/..a", "/\xff\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, root string) {
		if !strings.HasPrefix(root, "/") || strings.ContainsRune(root, 0) {
			return
		}
		key, err := Key(root)
		if err != nil {
			t.Fatal(err)
		}
		if key == "" || key == "." || key == ".." || key == defaultKey && !isDefault(resolve(filepath.Clean(root))) || strings.ContainsAny(key, "/\n\x00") {
			t.Fatalf("%q gives the unsafe name %q", root, key)
		}
		if len(key) > 255 {
			t.Fatalf("%q gives a name of %d bytes", root, len(key))
		}
		if strings.Contains(key, "+") || key == defaultKey {
			return // too long to tell it all
		}
		if got := pathOf(t, key); got != resolve(filepath.Clean(root)) {
			t.Fatalf("%q is %q, which reads back as %q", root, key, got)
		}
	})
}

// pathOf undoes the escapes, as systemd-escape --unescape --path does.
func pathOf(t *testing.T, key string) string {
	if key == "-" {
		return "/"
	}
	path := []byte{'/'}
	for i := 0; i < len(key); i++ {
		switch {
		case key[i] == '-':
			path = append(path, '/')
		case key[i] == '\\':
			n, err := strconv.ParseUint(key[i+2:i+4], 16, 8)
			if err != nil || key[i+1] != 'x' {
				t.Fatalf("bad escape in %q", key)
			}
			path = append(path, byte(n))
			i += 3
		default:
			path = append(path, key[i])
		}
	}
	return string(path)
}

func TestValidateID(t *testing.T) {
	for _, id := range []string{"a", "A-1_2.3+4", "...", "..a", strings.Repeat("x", 200)} {
		if err := ValidateID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "../a", "/a", "a b", "a\n", "é", "a:b", "a\x00"} {
		if err := ValidateID(id); err != runtime.ErrInvalidID {
			t.Errorf("%q: got %v", id, err)
		}
	}
}

func TestCreateOpenRemove(t *testing.T) {
	top := base(t)
	if _, err := Open("/run/x", "c"); err != runtime.ErrNotExist {
		t.Errorf("open before create: %v", err)
	}
	dir := create(t, "/run/x", "c")
	if dir.Path() != top+"/run-x/c" {
		t.Errorf("path is %s", dir.Path())
	}
	if st, err := os.Stat(dir.Path()); err != nil || st.Mode() != os.ModeDir|0o700 {
		t.Errorf("directory: %v, %v", st.Mode(), err)
	}
	if _, err := Create("/run/x", "c"); err != runtime.ErrExist {
		t.Errorf("second create: %v", err)
	}
	if _, err := Open("", "c"); err != runtime.ErrNotExist {
		t.Errorf("open below another root: %v", err)
	}
	other, err := Open("/run/x/", "c")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := dir.WriteFile("a", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if data, err := other.ReadFile("a"); err != nil || string(data) != "one" {
		t.Errorf("read %q, %v", data, err)
	}
	if st, err := os.Stat(dir.Path() + "/a"); err != nil || st.Mode() != 0o600 {
		t.Errorf("file: %v, %v", st.Mode(), err)
	}
	if err := dir.Remove(); err != nil {
		t.Fatal(err)
	}
	again := create(t, "/run/x", "c")
	if err := again.WriteFile("a", []byte("two")); err != nil {
		t.Fatal(err)
	}
	// Whoever still holds the first one must not remove the second.
	if err := other.Remove(); err != nil {
		t.Fatal(err)
	}
	if data, err := again.ReadFile("a"); err != nil || string(data) != "two" {
		t.Errorf("after the removal of the old directory: %q, %v", data, err)
	}
}

func TestUnsafeDirectories(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(t *testing.T, top string) error
		want string
	}{
		{"base others may write to", func(_ *testing.T, top string) error { return os.Chmod(top, 0o777) }, "open state directory TOP: is open to other users (mode 0777): chmod it to 0700, or " + remedy},
		{"base like /tmp", func(_ *testing.T, top string) error { return os.Chmod(top, 0o777|os.ModeSticky) }, "open state directory TOP: is there for all users (mode 1777): " + remedy},
		{"key others may read", func(_ *testing.T, top string) error { return os.Mkdir(top+"/default", 0o750) }, "open state directory TOP/default: is open to other users (mode 0750): chmod it to 0700, or " + remedy},
		{"key is a link", func(t *testing.T, top string) error { return os.Symlink(t.TempDir(), top+"/default") }, "open state directory TOP/default: is not a directory, or is a symbolic link"},
		{"container is a file", func(_ *testing.T, top string) error {
			if err := os.Mkdir(top+"/default", 0o700); err != nil {
				return err
			}
			return os.WriteFile(top+"/default/c", nil, 0o600)
		}, "open state directory TOP/default/c: is not a directory, or is a symbolic link"},
	} {
		top := base(t)
		if err := test.make(t, top); err != nil {
			t.Fatal(err)
		}
		_, err := Open("", "c")
		if err == nil || strings.ReplaceAll(err.Error(), top, "TOP") != test.want {
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
		}
	}
}

func TestReadFileRefuses(t *testing.T) {
	base(t)
	dir := create(t, "", "c")
	if _, err := dir.ReadFile("none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("missing: %v", err)
	}
	if err := os.Symlink("/etc/passwd", dir.Path()+"/link"); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.ReadFile("link"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("link: %v", err)
	}
	if err := unix.Mkfifo(dir.Path()+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.ReadFile("fifo"); err == nil || !strings.HasSuffix(err.Error(), "/fifo: is not a regular file") {
		t.Errorf("FIFO: %v", err)
	}
	if err := dir.WriteFile("big", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(dir.Path()+"/big", maxFileMiB<<20+1); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.ReadFile("big"); err == nil || !strings.HasSuffix(err.Error(), "/big: is larger than 8 MiB") {
		t.Errorf("big: %v", err)
	}
}

// Of many creates of one id at once exactly one gets it, in every round, while
// others remove it: nobody sees another error, or a directory that is not theirs.
func TestConcurrentCreateAndRemove(t *testing.T) {
	base(t)
	const workers, rounds = 8, 200
	owners := make(chan struct{}, 1) // holds a token while one owns the id
	var won sync.WaitGroup
	var wins, lost int
	var mu sync.Mutex
	for worker := range workers {
		won.Go(func() {
			for range rounds {
				dir, err := Create("", "c")
				mu.Lock()
				if err == nil {
					wins++
				} else {
					lost++
				}
				mu.Unlock()
				if err == runtime.ErrExist {
					continue
				}
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				select {
				case owners <- struct{}{}:
				default:
					t.Error("two own the id at once")
				}
				mine := strconv.Itoa(worker)
				if err := dir.WriteFile("owner", []byte(mine)); err != nil {
					t.Errorf("write: %v", err)
				}
				if data, err := dir.ReadFile("owner"); err != nil || string(data) != mine {
					t.Errorf("read %q, %v, want %s", data, err, mine)
				}
				<-owners
				if err := dir.Remove(); err != nil {
					t.Errorf("remove: %v", err)
				}
				dir.Close()
			}
		})
	}
	won.Wait()
	if wins == 0 || wins+lost != workers*rounds {
		t.Errorf("%d wins and %d losses of %d", wins, lost, workers*rounds)
	}
}

// A reader finds the old content or the new, never a part.
func TestWriteFileIsAtomic(t *testing.T) {
	base(t)
	dir := create(t, "", "c")
	contents := [2]string{strings.Repeat("a", 1<<16), strings.Repeat("b", 1<<15)}
	if err := dir.WriteFile("f", []byte(contents[0])); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			if err := dir.WriteFile("f", []byte(contents[i%2])); err != nil {
				t.Error(err)
			}
		}
	}()
	for finished := false; !finished; {
		select {
		case <-done:
			finished = true
		default:
		}
		data, err := dir.ReadFile("f")
		if err != nil || string(data) != contents[0] && string(data) != contents[1] {
			t.Fatalf("read %d bytes, %v", len(data), err)
		}
	}
	if names, err := dir.names(); err != nil || len(names) != 1 {
		t.Errorf("left behind: %q, %v", names, err)
	}
}

// Who sets GRACERUN_STATE_DIR for one call only is told why it finds nothing.
func TestElsewhere(t *testing.T) {
	usual, other := t.TempDir(), t.TempDir()
	key, err := Key("/run/somewhere")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(usual, key, "c"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GRACERUN_STATE_DIR", other)
	if err := elsewhere(usual, "/run/somewhere", "c"); err == nil || !strings.Contains(err.Error(), "container c has its state in "+usual+", and GRACERUN_STATE_DIR="+other) {
		t.Errorf("said %v", err)
	}
	for _, nothing := range [][2]string{{"/run/somewhere", "d"}, {"/run/somewhere/else", "c"}, {"", "c"}} {
		if err := elsewhere(usual, nothing[0], nothing[1]); err != nil {
			t.Errorf("%q: %v", nothing, err)
		}
	}
	t.Setenv("GRACERUN_STATE_DIR", "")
	if err := Elsewhere("/run/somewhere", "c"); err != nil {
		t.Errorf("without the variable: %v", err)
	}
}
