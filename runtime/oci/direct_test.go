package oci

import (
	"os"
	"path/filepath"
	"testing"

	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/statedir"
)

func TestWhoMayBeStartedDirectly(t *testing.T) {
	script := filepath.Join(t.TempDir(), "crun")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		program string
		style   Style
		config  *bundle.Config
		want    bool
	}{
		{program(t, Crun), Crun, &bundle.Config{}, true},
		{program(t, Runc), Runc, &bundle.Config{}, true},
		{program(t, Crun), Crun, &bundle.Config{Poststart: true}, false},
		{program(t, Crun), Crun, nil, false},
		{program(t, Crun), Runc, &bundle.Config{}, false},
		{script, Crun, &bundle.Config{}, false},
		{"/bin/sh", Runc, &bundle.Config{}, false},
	} {
		dir := stateOf(t)
		AllowDirectStart(dir, &Container{Program: test.program, Style: test.style}, test.config)
		if got := DirectStartAllowed(dir); got != test.want {
			t.Errorf("%s, %v, %+v: %v", test.program, test.style, test.config, got)
		}
	}
}

// program makes one of that name that is no script.
func program(t *testing.T, style Style) string {
	t.Helper()
	name := map[Style]string{Crun: "crun", Runc: "runc"}[style]
	path := filepath.Join(t.TempDir(), name)
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func stateOf(t *testing.T) *statedir.Dir {
	t.Helper()
	t.Setenv("GRACERUN_STATE_DIR", t.TempDir())
	dir, err := statedir.Create("/root", "c1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}
