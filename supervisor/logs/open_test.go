package logs

import (
	"strings"
	"testing"
)

func TestFilesThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		options Options
		want    string
	}{
		"no directory":        {Options{Targets: toFile(dir + "/none/log")}, "Failed to open log file No such file or directory"},
		"a directory":         {Options{Targets: toFile(dir)}, "Failed to open log file Is a directory"},
		"not in allowlist":    {Options{Targets: toFile(dir + "/new"), AllowDirs: []string{"/usr", "/var/lo"}}, "Failed to open log file Parent directory not in allowlist"},
		"beside an allowlist": {Options{Targets: toFile(dir + "/new"), AllowDirs: []string{dir[:len(dir)-1]}}, "Failed to open log file Parent directory not in allowlist"},
	} {
		t.Run(name, func(t *testing.T) {
			test.options.Dir = -1
			l, err := Open(test.options)
			if err == nil {
				l.Close()
			}
			if err == nil || err.Error() != test.want {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	t.Run("allowed", func(t *testing.T) {
		l, err := Open(Options{Targets: toFile(dir + "/new"), AllowDirs: []string{"", "/none", dir + "/."}, Dir: -1})
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
}

// Any label makes one field that journald can read.
func FuzzLabel(f *testing.F) {
	for _, label := range []string{"A=b", "A=\n", "_=", "A_1=x\ny"} {
		f.Add(label)
	}
	f.Fuzz(func(t *testing.T, label string) {
		name, value, found := strings.Cut(label, "=")
		if !found || name == "" || strings.Contains(name, "\n") {
			return // refused by the command line
		}
		fields := parseDatagram(t, appendField(nil, label))
		if len(fields) != 1 || fields[0] != [2]string{name, value} {
			t.Errorf("%q is sent as %q", label, fields)
		}
	})
}
