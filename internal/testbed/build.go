package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"gracerun.io/supervisor/slumber"
)

// Build builds programs of this tree into dir, with the flags of the Makefile:
// what is tested is this source. It says for each one that could not be built
// why; one that is not in the tree is among them.
func Build(dir string, names ...string) (missing map[string]string) {
	missing = map[string]string{}
	top, err := moduleDir()
	for _, name := range names {
		if err != nil {
			missing[name] = err.Error()
			continue
		}
		if why := build(top, dir, name); why != "" {
			missing[name] = why
		}
	}
	return missing
}

func build(top, dir, name string) (why string) {
	source := filepath.Join(top, "cmd", name)
	if _, err := os.Stat(source); err != nil {
		return name + " is not in this tree"
	}
	env, flags := "CGO_ENABLED=0", []string{"build", "-trimpath"}
	switch name {
	case "gracemon":
		flags = append(flags, "-tags", slumber.Tag, "-ldflags", slumber.LinkerFlags)
	case "gracerun-native": // libcontainer enters namespaces in C
		tags := "runc_nocriu netgo osusergo"
		if exec.Command("pkg-config", "--exists", "libseccomp").Run() == nil {
			tags += " seccomp"
		}
		env = "CGO_ENABLED=1"
		flags = append(flags, "-tags", tags, "-ldflags", "-extldflags -static")
	}
	cmd := exec.Command("go", append(flags, "-o", filepath.Join(dir, name), source)...)
	cmd.Dir, cmd.Env = top, append(os.Environ(), env)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Sprintf("%s does not build: %v\n%s", name, err, output)
	}
	return ""
}

// moduleDir is the top of the source tree that the current directory is in.
func moduleDir() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", fmt.Errorf("not in a source tree")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}
