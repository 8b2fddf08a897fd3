package check

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// SELinux is whether the host's policy is enforced, and which of gracerun's files
// have a label that it does not expect (docs/deploy.md, "SELinux").
type SELinux struct {
	Mode  string    `json:"mode"` // "enforcing", "permissive"
	Found []Finding `json:"findings,omitempty"`
}

// labelled is a file that is to have a type of container-selinux's.
type labelled struct {
	path, wanted, harm string
	level              Level
}

const (
	runtimeType = "container_runtime_exec_t"
	monitorType = "conmon_exec_t"
	stateType   = "container_var_run_t"
)

// labels are the files to look at, of those that are there. programs are gracerun's
// own, by name; base is where its state is.
func labels(programs map[string]string, base string) []labelled {
	const domain = "whoever calls it stays in the domain of the caller, and so does what it starts"
	return []labelled{
		{programs["gracemon"], monitorType, "under Podman it keeps the administrator's categories, and a container with other categories has no stdin, stdout and stderr", Harm},
		{programs["gracerun"], runtimeType, domain, Warning},
		{programs["gracerun-native"], runtimeType, domain, Warning},
		{base, stateType, "a confined domain that may use the state of container runtimes may not use it", Warning},
	}
}

// selinux looks at a host whose file system is at root, "" for this one; nil means
// that there is no SELinux.
func selinux(root string, files []labelled) *SELinux {
	enforce, err := os.ReadFile(root + "/sys/fs/selinux/enforce")
	if err != nil {
		return nil
	}
	s := &SELinux{Mode: "permissive"}
	if strings.TrimSpace(string(enforce)) == "1" {
		s.Mode = "enforcing"
	}
	for _, f := range files {
		if f.path == "" {
			continue
		}
		label, err := fileLabel(root + f.path)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			s.Found = append(s.Found, Finding{Info, "", fmt.Sprintf("the label of %s cannot be read: %v", f.path, err)})
			continue
		}
		if typeOf(label) == f.wanted {
			continue
		}
		level := f.level
		if s.Mode != "enforcing" {
			level = Info
		}
		s.Found = append(s.Found, Finding{level, "", fmt.Sprintf("%s has the label %s, not one of type %s: %s. Run `restorecon -RFv %s`; if that changes nothing, docs/deploy.md, \"SELinux\"",
			f.path, label, f.wanted, f.harm, f.path)})
	}
	return s
}

// fileLabel is the security context of a file (selinux(8)); "none" if it has none.
func fileLabel(path string) (string, error) {
	label := make([]byte, 4096) // the kernel's bound
	n, err := unix.Getxattr(path, "security.selinux", label)
	switch {
	case errors.Is(err, unix.ENODATA):
		return "none", nil
	case err != nil:
		return "", err
	}
	return string(bytes.TrimRight(label[:n], "\x00")), nil
}

// typeOf is the third part of a context: user, role, type, range.
func typeOf(label string) string {
	if parts := strings.SplitN(label, ":", 4); len(parts) > 2 {
		return parts[2]
	}
	return label
}

// ownPrograms are gracerun's programs that are installed; the native backend is also
// looked for beside gracerun, where it is used from.
func ownPrograms() map[string]string {
	found := map[string]string{}
	for _, name := range []string{"gracemon", "gracerun", "gracerun-native"} {
		if path, err := exec.LookPath(name); err == nil {
			found[name] = path
		}
	}
	if found["gracerun-native"] == "" && found["gracerun"] != "" {
		found["gracerun-native"] = filepath.Join(filepath.Dir(found["gracerun"]), "gracerun-native")
	}
	return found
}
