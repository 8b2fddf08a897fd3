package logs

import (
	"strings"
	"testing"
)

func TestDriversAreReadAsConmonDoes(t *testing.T) {
	for text, want := range map[string]Driver{
		"/var/log/x":              {K8sFile, "/var/log/x"},
		"x":                       {K8sFile, "x"},
		"k8s-file:/x":             {K8sFile, "/x"},
		"k8s-file:/x:/y":          {K8sFile, "/x"}, // strtok(3) drops the rest
		"k8s-file::/x":            {K8sFile, "/x"},
		":/x":                     {K8sFile, "/x"},
		":none":                   {K8sFile, "none"},
		":journald":               {K8sFile, "journald"},
		":journald:":              {K8sFile, "journald"},
		"none":                    {Kind: None},
		"off":                     {Kind: None},
		"null":                    {Kind: None},
		"none:/x":                 {Kind: None},
		"journald":                {Kind: Journald},
		"journald:/x":             {Kind: Journald},
		":journald:/x":            {Kind: Journald},
		"passthrough":             {Kind: Passthrough},
		"passthrough:":            {Kind: Passthrough},
		"/run/containers/a/k8s.x": {K8sFile, "/run/containers/a/k8s.x"},
	} {
		if got, err := ParseDriver(text); err != nil || got != want {
			t.Errorf("ParseDriver(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":             "log-path must not be empty",
		":":            "log-path must not be empty",
		"::":           "log-path must not be empty",
		"k8s-file":     "k8s-file requires a filename",
		"k8s-file:":    "k8s-file requires a filename",
		"syslog:/x":    "No such log driver syslog",
		"syslog:":      "No such log driver syslog",
		"K8S-file:/x":  "No such log driver K8S-file",
		":/x:/y":       "No such log driver /x",
		"journald2:/x": "No such log driver journald2",
	} {
		if got, err := ParseDriver(text); err == nil || err.Error() != want {
			t.Errorf("ParseDriver(%q) = %+v, %v; want the error %q", text, got, err, want)
		}
	}
}

func TestLabelsAreCheckedAsConmonDoes(t *testing.T) {
	for label, want := range map[string]string{
		"A=b":        "",
		"A_1=":       "",
		"A=b c\n":    "",
		"=b":         "Container labels must be in format LABEL=VALUE (no LABEL present in '=b')",
		"A":          "Container labels must be in format LABEL=VALUE (none or more than one '=' present in 'A')",
		"A=b=c":      "Container labels must be in format LABEL=VALUE (none or more than one '=' present in 'A=b=c')",
		"a=b":        "Container label names must contain only uppercase letters, numbers and underscore (in 'a=b')",
		"A-B=c":      "Container label names must contain only uppercase letters, numbers and underscore (in 'A-B=c')",
		"\u00c4=c":   "Container label names must contain only uppercase letters, numbers and underscore (in '\u00c4=c')",
		"":           "Container labels must be in format LABEL=VALUE (none or more than one '=' present in '')",
		"LABEL.X=1":  "Container label names must contain only uppercase letters, numbers and underscore (in 'LABEL.X=1')",
		"_=1":        "",
		"0=anything": "",
	} {
		got := ""
		if err := checkLabel(label); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("checkLabel(%q): %q, want %q", label, got, want)
		}
	}
}

func TestOptionsThatConmonRefuses(t *testing.T) {
	const id = "0123456789abcdef"
	dir := t.TempDir()
	for name, test := range map[string]struct {
		options Options
		want    string
	}{
		"no driver":           {Options{}, "Log driver not provided. Use --log-path"},
		"bad driver":          {Options{Paths: []string{dir + "/log", "x:y"}}, "No such log driver x"},
		"tag":                 {Options{Paths: []string{dir + "/log"}, Tag: "t"}, "k8s-file doesn't support --log-tag"},
		"label":               {Options{Paths: []string{dir + "/log"}, Labels: []string{"A=b"}}, "k8s-file doesn't support --log-label"},
		"short id":            {Options{Paths: []string{"journald"}, ID: id[:12]}, "Container ID must be longer than 12 characters"},
		"bad label":           {Options{Paths: []string{"journald"}, ID: id, Labels: []string{"A"}}, "Container labels must be in format LABEL=VALUE (none or more than one '=' present in 'A')"},
		"no directory":        {Options{Paths: []string{dir + "/none/log"}}, "Failed to open log file No such file or directory"},
		"a directory":         {Options{Paths: []string{dir}}, "Failed to open log file Is a directory"},
		"not in allowlist":    {Options{Paths: []string{dir + "/new"}, AllowDirs: []string{"/usr", "/var/lo"}}, "Failed to open log file Parent directory not in allowlist"},
		"beside an allowlist": {Options{Paths: []string{dir + "/new"}, AllowDirs: []string{dir[:len(dir)-1]}}, "Failed to open log file Parent directory not in allowlist"},
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
		l, err := Open(Options{Paths: []string{dir + "/new"}, AllowDirs: []string{"", "/none", dir + "/."}, Dir: -1})
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
}

// A driver string is refused, or says one of the known things; and a path never
// has a colon in it, since strtok(3) would have cut there.
func FuzzDriver(f *testing.F) {
	for _, text := range []string{"k8s-file:/x", ":none", "journald", "a:b:c", "::", "passthrough", "x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDriver(text)
		switch {
		case err != nil && d != Driver{}:
			t.Errorf("%q: %+v beside the error %v", text, d, err)
		case err == nil && d.Kind == K8sFile && (d.Path == "" || strings.Contains(d.Path, ":")):
			t.Errorf("%q: path %q", text, d.Path)
		case err == nil && d.Kind != K8sFile && d.Path != "":
			t.Errorf("%q: %+v has a path", text, d)
		case err == nil && d.Kind > Passthrough:
			t.Errorf("%q: no such kind %d", text, d.Kind)
		}
	})
}

// What is accepted makes one field that journald can read.
func FuzzLabel(f *testing.F) {
	for _, label := range []string{"A=b", "A=\n", "=", "a=b", "A==", ""} {
		f.Add(label)
	}
	f.Fuzz(func(t *testing.T, label string) {
		if checkLabel(label) != nil {
			return
		}
		fields := parseDatagram(t, appendField(nil, label))
		name, value, _ := strings.Cut(label, "=")
		if len(fields) != 1 || fields[0] != [2]string{name, value} {
			t.Errorf("%q is sent as %q", label, fields)
		}
	})
}
